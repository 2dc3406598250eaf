// Tiles of shared-prefix attention for matrix instructions: copies, products, sums of weighted rows.
//
// A warp has 16 rows of a tile, the block 64. Factors that were computed, and are no inputs, are the probabilities and
// the slopes of the scores: see fragments.cuh.
#pragma once

#include "attention/forest.cuh"
#include "blocks/floats.cuh"
#include "blocks/fragments.cuh"
#include "blocks/rows.cuh"

namespace grpo::cuda {

constexpr int kMatrixThreads = 128;


// 64 rows of a tile; the 16 bytes more keep the rows of an 8 x 8 matrix in different banks.
template <class T, int kWidth>
using Stage = T[kTileTokens][kWidth + 8];

// Dtypes, head sizes and addresses that matrix instructions and copies of 16 bytes can serve.
template <class... X>
bool fit_matrices(Float type, int64_t D, int64_t E, Launch& on, const X*... arrays) {
  const auto aligned = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  const bool sizes = D > 0 && E > 0 && D % 8 == 0 && E % 8 == 0 && D <= 128 && E <= 128;
  if (type == Float::kF32) on.because("matrix instructions take bf16 and f16, not f32");
  else if (!sizes) on.because("matrix instructions take head sizes of multiples of 8 up to 128");
  else if (!(aligned(arrays) && ...)) on.because("matrix instructions need arrays that begin at multiples of 16 bytes");
  else return true;
  return false;
}

// Begins the copy of rows of n numbers; zeros to the right and below.
template <class T, int kWidth>
__device__ __forceinline__ void fetch(Stage<T, kWidth>& to, const Rows<T>& x, int64_t n) {
  constexpr int kPieces = kWidth / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTileTokens * kPieces; i += kMatrixThreads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    const bool inside = row < x.count && column < n;
    cp_async16(&to[row][column], inside ? x.data + row * x.stride + column : x.data, inside);
  }
}

// product = rows of the warp of a, times rows [row, row + 8 kCount) of b.
template <int kCount, class T, int kWidth>
__device__ __forceinline__ void row_products(float (&product)[kCount][4], const Stage<T, kWidth>& a,
                                             const Stage<T, kWidth>& b, int row, int64_t n) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
#pragma unroll
    for (int c = 0; c < 4; ++c) product[i][c] = 0;
#pragma unroll
  for (int column = 0; column < kWidth; column += 16) {
    if (column >= n) break;
    uint32_t left[4];
    left_factor(left, a, warp_index() * 16, column);
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      uint32_t right[4];
      right_factors(right, b, row + i * 8, column);
      multiply_add<T>(product[i], product[i + 1], left, right);
    }
  }
}

// sum[i] += x rows, weighted: x holds 64 rows, of which [row, row + 8 kCount) have weights; the weights are spent.
template <int kCount, class T, int kWidth>
__device__ __forceinline__ void add_weighted(float (&sum)[kWidth / 8][4], float (&weights)[kCount][4],
                                             const Stage<T, kWidth>& x, int row, int64_t n) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    uint32_t left[kTerms<T>][4];
#pragma unroll
    for (int term = 0; term < kTerms<T>; ++term) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
        left[term][r] = take_term<T>(weights[i + r / 2][r % 2 * 2], weights[i + r / 2][r % 2 * 2 + 1]);
    }
#pragma unroll
    for (int column = 0; column < kWidth; column += 16) {
      if (column >= n) break;
      uint32_t right[4];
      right_factors_by_terms(right, x, row + i * 8, column);
      // Not straight into the sums: matrix instructions cut digits off where an addition rounds.
      float near[4] = {0, 0, 0, 0}, far[4] = {0, 0, 0, 0};
#pragma unroll
      for (int term = kTerms<T> - 1; term >= 0; --term) multiply_add<T>(near, far, left[term], right);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[column / 8][c] += near[c];
        sum[column / 8 + 1][c] += far[c];
      }
    }
  }
}

// Over the four lanes that share a row.
template <class F>
__device__ __forceinline__ float quad_reduce(float value, F combine) {
  value = combine(value, __shfl_xor_sync(kAllLanes, value, 1));
  return combine(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// Rounded, in the forward and the backward pass alike: where one key has all the weight, logsumexp is its score to the
// last bit, and a score that is not rounded as it was would give it another weight than 1.
__device__ __forceinline__ float scaled(float score, float scale) { return __fmul_rn(score, scale); }

constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float exp_approx(float x) { return exp2_approx(x * kLog2E); }

// Rows lane / 4 and lane / 4 + 8 of the warp's 16; columns of fragment i: 8 i + 2 (lane % 4), and the next.
__device__ __forceinline__ int matrix_row(int which) { return warp_index() * 16 + lane_index() / 4 + which * 8; }
__device__ __forceinline__ int matrix_column(int fragment) { return fragment * 8 + lane_index() % 4 * 2; }

// A row of sums times `factor`, whether all are finite.
template <int kCount>
__device__ __forceinline__ bool store_fragments(const float (&sum)[kCount][4], int which, float factor, void* data,
                                                Float type, int64_t at, int64_t n) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = matrix_column(i);
    if (column >= n) continue;
    const float low = sum[i][which * 2] * factor, high = sum[i][which * 2 + 1] * factor;
    finite = finite && isfinite(low) && isfinite(high);
    store_float(data, type, at + column, low);
    store_float(data, type, at + column + 1, high);
  }
  return finite;
}

}  // namespace grpo::cuda
