// The three matrix products of the linear operations: logits, and the gradients of the hidden states and of the head.
//
// Which kernel multiplies what; "aligned": rows begin at multiples of 16 bytes:
//
//   product                   operands                                             kernel
//   logits                    hidden and head of one 16-bit dtype, aligned, D a    matmul_mma, as they are
//                             multiple of 8
//   gradHidden and gradHead   16-bit hidden and head, an f16 head aligned, D a     matmul_mma, one f16 term: gradients
//                             multiple of 8, gradients that are wanted bf16        of logits are f16 in rows scaled by
//                                                                                  powers of two (halves.cuh)
//   the same                  a bf16 head whose range is too wide for f16, which   matmul_split, two bf16 terms
//                             the device sees, aligned
//   gradHidden or gradHead    the other factor 16-bit and aligned                  matmul_split, two terms of float32
//   otherwise                                                                      gradients, three bf16 into float32
//   all others                                                                     matmul, without matrix instructions
#pragma once

#include "blocks/floats.cuh"
#include "launch/launch.cuh"

namespace grpo::cuda {

constexpr int kMatrixSide = 128;  // a block with matrix instructions has so many rows and columns of results

// Of which kind a product is: each kernel is compiled for one.
enum class Use {
  kLogits,      // hidden head^T: float32, with the bias
  kGradHidden,  // gradient head: rounded to its dtype
  kGradHead,    // gradient^T hidden: added to float32
};

// Rows of float32, bf16 or f16 numbers; row i is row rows[i] of the data, or i where `rows` is null.
struct Matrix {
  const void* data;
  Float type;
  int64_t stride;       // elements from one row of the data to the next
  const int32_t* rows;  // may be null
  bool transposed;      // element (i, k) is in row k, column i
};

// To 16 bytes, all rows.
inline bool aligned(const Matrix& x) {
  const int64_t size = x.type == Float::kF32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride * size % 16 == 0;
}

struct Product {
  void* data;
  Float type;
  int64_t stride;
  const int32_t* rows;  // row i goes to row rows[i]; may be null
  const void* bias;     // [N], added to each row; may be null
  Float bias_type;
  bool add;             // to what is there
  Float becomes;        // what it is rounded to in the end
  // Factors in f16 are 2^n times what they stand for: n of each row of a's data, and of all b. Null: 0.
  const int32_t *row_power, *power;
};

// How many rows m or terms k there are: a number in device memory, read when the product runs.
struct Extent {
  const int32_t* live;  // null: all
  bool of_depth;        // of the terms k, not of the rows m
};

// Of two kernels that could do the work the one that fits what the device has found runs, the other returns: whether
// more than one in 2^20 of a head's numbers lose digits as f16.
struct Choice {
  const uint32_t* lossy;  // [1], how many do; null: none
  int64_t count;          // of all numbers
  bool wide;              // runs where there are more

  __device__ __forceinline__ bool head_is_wide() const {
    return lossy != nullptr && uint64_t{*lossy} << 20 > static_cast<uint64_t>(count);
  }
  __device__ __forceinline__ bool skips() const { return lossy != nullptr && head_is_wide() != wide; }
};

// out(m, n) = sum over k of a(m, k) b(n, k), in float32 from k = 0 up: an element's bits depend on its row of a and its
// row of b alone. `largest` is for a in float32 times b in f16, see matmul_by_terms; others do not read it.
void matmul(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
            const Extent& extent, const Choice& choice, const float* largest, Launch& on);

// The same with matrix instructions, where the operands suit them; false, and nothing is enqueued, for others. Rows are
// aligned to 16 bytes, those of a gathered; numbers past the end of a row of a gradient, up to a multiple of 16 bytes,
// are 0.
//
// a and b of one 16-bit dtype, rows of b not gathered:
bool matmul_of_halves(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                      const Extent& extent, const Choice& choice, Launch& on);

// a in float32, b in bf16 or f16, of the gradients, in gradHead gathered: a goes in as a sum of terms in b's dtype.
//
// Where b is f16, `largest` is the largest magnitude in each row of the data of a, or, if a is transposed, in each
// column, among the terms that take part: float32 has a wider range than f16, and a row of a is scaled by the power of
// two that makes the best of that. Null: the product does not suit.
bool matmul_by_terms(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                     const Extent& extent, const Choice& choice, const float* largest, Launch& on);

}  // namespace grpo::cuda
