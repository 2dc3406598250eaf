// The vector code for AVX-512 (Intel Skylake-SP, AMD Zen 4, and newer).
// It is compiled without -m options: the pragma covers what is included after it, and nothing else may be, or the
// linker could give the other files a function that only this processor runs.
#if defined(__x86_64__)

#include "vector/bf16.h"

// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>
#include <math.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

#define GRPO_AVX512 1

namespace grpo {
namespace {
#include "vector/kernels.h"
}  // namespace

static constexpr VectorKernels with_bf16(const char* name, MatmulBf16* matmul) {
  VectorKernels kernels = kernels_named(name);
  kernels.matmul_bf16 = matmul;
  if (kernels.matmul_scratch < kBf16Scratch) kernels.matmul_scratch = kBf16Scratch;
  return kernels;
}

extern const VectorKernels avx512_kernels, avx512_bf16_kernels, amx_kernels;
constinit const VectorKernels avx512_kernels = kernels_named("avx512");
constinit const VectorKernels avx512_bf16_kernels = with_bf16("avx512_bf16", matmul_avx512_bf16);
constinit const VectorKernels amx_kernels = with_bf16("amx", matmul_amx);

}  // namespace grpo

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
