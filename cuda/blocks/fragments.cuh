// Operands of matrix instructions, read from tiles in shared memory. A warp multiplies 16 rows by 16 terms (the left
// factor) with 16 terms by 8 columns (the right one). Rows of a tile are padded so that the eight rows of an 8 x 8
// matrix lie in different banks.
//
// Products of 16-bit inputs are exact, their sums float32. A factor that was computed is float32 and no input: it goes
// in as the sum of 16-bit numbers, three bf16 or two f16, so that results are as accurate as float32 arithmetic makes
// them.
#pragma once

#include "blocks/lanes.cuh"

namespace grpo::cuda {

// 16 rows and 16 terms from (row, term) on, as the left factor.
template <class T, int kRows, int kPitch>
__device__ __forceinline__ void left_factor(uint32_t (&r)[4], const T (&x)[kRows][kPitch], int row, int term) {
  const int lane = lane_index();
  ldmatrix_x4(r, &x[row + lane % 16][term + lane / 16 * 8]);
}
// The right factors of two products: rows of x are columns of them, r[0..1] for rows row .. + 7, r[2..3] for those 8
// on.
template <class T, int kRows, int kPitch>
__device__ __forceinline__ void right_factors(uint32_t (&r)[4], const T (&x)[kRows][kPitch], int row, int term) {
  const int lane = lane_index();
  ldmatrix_x4(r, &x[row + lane / 16 * 8 + lane % 8][term + lane / 8 % 2 * 8]);
}
// The same where rows of x are terms: r[0..1] for columns column .. + 7, r[2..3] for those 8 on.
template <class T, int kRows, int kPitch>
__device__ __forceinline__ void right_factors_by_terms(uint32_t (&r)[4], const T (&x)[kRows][kPitch], int term,
                                                       int column) {
  const int lane = lane_index();
  ldmatrix_x4_trans(r, &x[term + lane % 16][column + lane / 16 * 8]);
}

template <class T>
__device__ __forceinline__ void multiply_add(float (&near)[4], float (&far)[4], const uint32_t (&left)[4],
                                             const uint32_t (&right)[4]) {
  const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
  mma_16x8x16<T>(near, left, first);
  mma_16x8x16<T>(far, left, second);
}

// 16-bit numbers whose sum has the digits of a float32: three times the 8 of bf16, or twice the 11 of f16.
template <class T>
constexpr int kTerms = std::is_same_v<T, bf16> ? 3 : 2;

template <class T>
__device__ __forceinline__ float half_of(uint32_t pair, int which) {
  return to_float(T{static_cast<uint16_t>(which == 0 ? pair & 0xffffu : pair >> 16)});
}

// The nearest 16-bit numbers of two; what they leave stays.
template <class T>
__device__ __forceinline__ uint32_t take_term(float& low, float& high) {
  const uint32_t pair = pack2<T>(low, high);
  low -= half_of<T>(pair, 0);
  high -= half_of<T>(pair, 1);
  return pair;
}

}  // namespace grpo::cuda
