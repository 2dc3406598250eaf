// The vector code for every processor of its kind: SSE2 on x86-64, NEON on arm64.
#include "vector/vector.h"

#include <math.h>
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace grpo {
namespace {
#include "vector/kernels.h"
}  // namespace

extern const VectorKernels baseline_kernels;
#if defined(__aarch64__)
constinit const VectorKernels baseline_kernels = kernels_named("neon");
#else
constinit const VectorKernels baseline_kernels = kernels_named("baseline");
#endif

}  // namespace grpo
