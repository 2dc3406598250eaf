// The vector code for every processor of its kind: SSE2 on x86-64, NEON on arm64.
#include "../vector.h"

#include <math.h>
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace grpo {
namespace {
#include "simd.h"
#include "matmul.h"
#include "rows.h"
#include "tiles.h"
}  // namespace

#if defined(__aarch64__)
#define GRPO_NAME "neon"
#else
#define GRPO_NAME "baseline"
#endif

extern const VectorKernels baseline_kernels;
const VectorKernels baseline_kernels = {GRPO_NAME,        softmax_stats, softmax_gradient,      matmul_tile, matmul,
                                        kMatmulScratch, softmax_tile,  softmax_tile_backward, convert};

}  // namespace grpo
