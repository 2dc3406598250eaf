// Matrix products of bf16 by the instructions that processors have for them: a function for each such instruction set,
// compiled in a file of its own, which the tables of vector.h point to.
#pragma once

#include "vector/vector.h"

namespace grpo {

// A block of B, [kBf16Depth, kBf16Columns], stays in the second-level cache while the rows of A pass by.
constexpr int64_t kBf16Depth = 512;
constexpr int64_t kBf16Columns = 512;
// A panel of B: so many columns, with 128 bytes before the next one; the rows of A that are multiplied with it, 64 bytes
// apart. Powers of two would put all of them in the same few sets of the cache.
constexpr int64_t kBf16Panel = 32;
constexpr int64_t kBf16PanelPairs = (kBf16Depth / 2 + 1) * kBf16Panel;
constexpr int64_t kBf16RowStride = kBf16Depth + 32;
constexpr int64_t kBf16Rows = 32;
// In floats, each of which holds a pair.
constexpr int64_t kBf16Scratch = kBf16Rows * kBf16RowStride / 2 + kBf16Columns / kBf16Panel * kBf16PanelPairs;

using MatmulBf16 = void(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                        bool accumulate, float* scratch);
MatmulBf16 matmul_avx512_bf16, matmul_amx;

}  // namespace grpo
