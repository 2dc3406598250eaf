// The vector code for AVX2 with FMA (Intel Haswell, AMD Zen, and newer).
// It is compiled without -m options: the pragma covers what is included after it, and nothing else may be, or the
// linker could give the other files a function that only this processor runs.
#if defined(__x86_64__)

#include "vector/vector.h"

#include <immintrin.h>
#include <math.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define GRPO_AVX2 1

namespace grpo {
namespace {
#include "vector/kernels.h"
}  // namespace

extern const VectorKernels avx2_kernels;
constinit const VectorKernels avx2_kernels = kernels_named("avx2");

}  // namespace grpo

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
