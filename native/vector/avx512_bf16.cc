// Products of bf16 by AVX-512's own instruction (Intel Cooper Lake, AMD Zen 4, and newer).
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define GRPO_AVX512 1

namespace grpo {
namespace {
#include "vector/simd.h"
#include "vector/exponential.h"
#include "vector/storage.h"
#include "vector/matmul_bf16.h"
}  // namespace

void matmul_avx512_bf16(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                        bool accumulate, float* scratch) {
  multiply_bf16(a, b, c, ldc, m, n, k, accumulate, scratch);
}

}  // namespace grpo

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
