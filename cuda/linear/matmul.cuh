// The three matrix products of the linear operations: logits, and the gradients of the hidden states and of the head.
#pragma once

#include "blocks/floats.cuh"
#include "launch/launch.cuh"

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
  Float becomes;        // what it is rounded to in the end
};

// How many rows m or terms k there are: a number in device memory, read when the product runs.
struct Extent {
  const int32_t* live;  // null: all
  bool of_depth;        // of the terms k, not of the rows m
};

// out(m, n) = sum over k of a(m, k) b(n, k), in float32 from k = 0 up: an element's bits depend on its row of a and its
// row of b alone. `largest` is for a in float32 times b in f16, see matmul_by_matrices; others do not read it.
void matmul(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
            const Extent& extent, const float* largest, Launch& on);

// The same with matrix instructions, where the operands suit them: b is bf16 or f16, its rows aligned to 16 bytes, and
// a is of b's dtype and not transposed, or float32 in aligned rows of which the numbers past the end up to a multiple
// of four are 0 (computed, that is: no input). False, and nothing is enqueued, for others.
//
// Where b is f16, `largest` is the largest magnitude in each row of the data of a, or, if a is transposed, in each
// column, among the terms that take part: float32 has a wider range than f16, and a row of a is scaled by the power of
// two that makes the best of that. Null: the product does not suit.
bool matmul_by_matrices(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                        const Extent& extent, const float* largest, Launch& on);

// What becomes of an element of the product, in row m and column n.
__device__ __forceinline__ void store_product(const Product& out, int64_t m, int64_t n, float sum) {
  const int64_t at = (out.rows == nullptr ? m : out.rows[m]) * out.stride + n;
  if (out.bias != nullptr) sum += load_float(out.bias, out.bias_type, n);
  if (out.add) sum += load_float(out.data, out.type, at);
  store_float(out.data, out.type, at, sum);
}

}  // namespace grpo::cuda
