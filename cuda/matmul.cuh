// The three matrix products of the linear operations: logits, and the gradients of the hidden states and of the head.
#pragma once

#include "operation.cuh"

namespace grpo::cuda {

// Rows of float32, bf16 or f16 numbers; row i is row rows[i] of the data, or i where `rows` is null.
struct Matrix {
  const void* data;
  Float type;
  int64_t stride;       // elements from one row of the data to the next
  const int32_t* rows;  // may be null
  bool transposed;      // element (i, k) is in row k, column i
};

struct Product {
  void* data;
  Float type;
  int64_t stride;
  const int32_t* rows;  // row i goes to row rows[i]; may be null
  const void* bias;     // [N], added to each row; may be null
  Float bias_type;
  bool add;             // to what is there
};

// out(m, n) = sum over k of a(m, k) b(n, k), in float32 from k = 0 up: an element's bits depend on its row of a and its
// row of b alone. `live` (may be null) is a number in device memory, read when the product runs: only so many of the
// rows m, or, with live_is_depth, of the terms k, exist.
void matmul(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K, const int32_t* live,
            bool live_is_depth, Launch& on);

__device__ __forceinline__ float load_float(const void* data, Float type, int64_t i) {
  if (type == Float::kF32) return static_cast<const float*>(data)[i];
  if (type == Float::kBf16) return to_float(static_cast<const bf16*>(data)[i]);
  return to_float(static_cast<const f16*>(data)[i]);
}

__device__ __forceinline__ void store_float(void* data, Float type, int64_t i, float x) {
  if (type == Float::kF32) static_cast<float*>(data)[i] = x;
  else if (type == Float::kBf16) static_cast<bf16*>(data)[i] = from_float<bf16>(x);
  else static_cast<f16*>(data)[i] = from_float<f16>(x);
}

}  // namespace grpo::cuda
