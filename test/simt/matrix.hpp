// ldmatrix and mma.m16n8k16 of a full warp, one lane's registers each.
#pragma once

#include <cstdint>

namespace simt {

// 2 or 4 matrices of 8 x 8 16-bit numbers; `row`: address of the row that this lane names.
__attribute__((noinline)) void ldmatrix(uint32_t* r, const void* row, bool transposed);

// d[4] += a[4] b[2]
__attribute__((noinline)) void mma_bf16(float* d, const uint32_t* a, const uint32_t* b);
__attribute__((noinline)) void mma_f16(float* d, const uint32_t* a, const uint32_t* b);

}  // namespace simt
