// The products of tiles of attention. Where the processor multiplies bf16 itself, those of two inputs in bf16 go
// through its instruction: they are exact there, as in float32. With precision 'standard' so do those of what is
// computed, which is rounded to bf16 for it.
#pragma once

#include "attention/attention.h"
#include "attention/tiles.h"
#include "vector/vector.h"

namespace grpo {

inline int64_t product_scratch(const AttentionSizes& sizes) {
  return sizes.bf16 ? vector_kernels().matmul_scratch : 0;
}

// Rows of floats one after the other, and their columns as rows.
inline Matrix rows_of(const float* x, int64_t columns) { return {x, Float::kF32, columns, 1}; }
inline Matrix columns_of(const float* x, int64_t columns) { return {x, Float::kF32, 1, columns}; }

// c[m,n] = or += A[m,k] B[k,n]; `bf16`: both rounded to it. Without, the columns of B follow each other.
inline void multiply(bool bf16, const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n,
                     int64_t k, bool accumulate, float* scratch) {
  const VectorKernels& kernels = vector_kernels();
  if (bf16) return kernels.matmul_bf16(a, b, c, ldc, m, n, k, accumulate, scratch);
  kernels.matmul_tile(static_cast<const float*>(a.data), a.row_stride, a.column_stride,
                      static_cast<const float*>(b.data), b.row_stride, c, ldc, m, n, k, accumulate);
}

// scores[keys, rows] of keys[keys, columns] with rows[rows, columns], which `transposed` holds [columns, kTileRows].
inline void multiply_rows(bool bf16, const float* keys, const float* rows, const float* transposed, int64_t columns,
                          float* scores, int64_t key_count, int64_t row_count, float* scratch) {
  const Matrix b = bf16 ? columns_of(rows, columns) : rows_of(transposed, kTileRows);
  multiply(bf16, rows_of(keys, columns), b, scores, kTileRows, key_count, row_count, columns, false, scratch);
}

// x[keys, columns], with zeros for the keys that a row does not see.
inline const float* keys_seen(const float* x, int64_t begin, int64_t end, int64_t keys, int64_t columns, float* y) {
  std::fill_n(y, keys * columns, 0.0f);
  if (end > begin) std::copy(x + begin * columns, x + end * columns, y + begin * columns);
  return y;
}

}  // namespace grpo
