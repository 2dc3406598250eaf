// Tiles of f16 in shared memory for matrix instructions, and what both passes of attention do with them.
//
// Rows lie without padding. Pieces of 16 bytes of a row are permuted, by what its number says, so that the eight rows
// of an 8 x 8 matrix lie in different banks; how is the same for rows 16 apart, so that a lane finds its place once and
// everything else is a constant offset.
#pragma once

#include "attention/forest.cuh"
#include "blocks/floats.cuh"
#include "blocks/fragments.cuh"

namespace grpo::cuda {

constexpr int kFragments = kTileTokens / 8;  // of 8 columns, of a row of scores

template <int kWidth>
struct Swizzle {
  static_assert(kWidth % 16 == 0);
  static constexpr int kPieces = kWidth / 8, kGroup = kPieces % 8 == 0 ? 8 : kPieces % 4 == 0 ? 4 : 2;
  // What the number of a piece is combined with, in row `row`.
  __device__ __forceinline__ static int flip(int row) { return row % 8 / (8 / kGroup); }
};

// Begins the copy of kRows rows that follow each other in memory; zeros from row `count` on, which are not read.
template <int kWidth, int kRows, int kThreads>
__device__ __forceinline__ void copy_rows(f16* tile, const f16* rows, int count) {
  constexpr int kGroup = Swizzle<kWidth>::kGroup, kAtOnce = kThreads / kGroup, kSteps = (kRows + kAtOnce - 1) / kAtOnce;
  const int row = threadIdx.x / kGroup, piece = threadIdx.x % kGroup;
  const f16* from = rows + row * kWidth + piece * 8;
  f16* to = tile + row * kWidth + (piece ^ Swizzle<kWidth>::flip(row)) * 8;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    if (kRows % kAtOnce != 0 && row + i * kAtOnce >= kRows) break;
    const bool inside = row + i * kAtOnce < count;
#pragma unroll
    for (int group = 0; group < kWidth / 8 / kGroup; ++group) {
      const int at = i * kAtOnce * kWidth + group * kGroup * 8;
      cp_async16(to + at, from + at, inside);
    }
  }
}

// The same where rows are those of several heads, 2^log_tokens tokens of each, of which `count` are there: heads lie
// `apart` numbers apart in memory.
template <int kWidth, int kRows, int kThreads>
__device__ __forceinline__ void copy_heads(f16* tile, const f16* rows, int64_t apart, int log_tokens, int count) {
  constexpr int kGroup = Swizzle<kWidth>::kGroup, kAtOnce = kThreads / kGroup, kSteps = (kRows + kAtOnce - 1) / kAtOnce;
  const int row = threadIdx.x / kGroup, piece = threadIdx.x % kGroup;
  f16* to = tile + row * kWidth + (piece ^ Swizzle<kWidth>::flip(row)) * 8;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int own = row + i * kAtOnce, token = own & ((1 << log_tokens) - 1);
    if (kRows % kAtOnce != 0 && own >= kRows) break;
    const f16* from = rows + (own >> log_tokens) * apart + token * kWidth + piece * 8;
#pragma unroll
    for (int group = 0; group < kWidth / 8 / kGroup; ++group)
      cp_async16(to + i * kAtOnce * kWidth + group * kGroup * 8, from + group * kGroup * 8, token < count);
  }
}

// Where a lane reads matrices of a tile: rows `row` and columns `column` of it are multiples of 16.
template <int kWidth>
class Reader {
 public:
  __device__ __forceinline__ Reader(int row, int half)
      : at_(row * kWidth), flip_(half ^ Swizzle<kWidth>::flip(row)) {}
  __device__ __forceinline__ const f16* operator()(const f16* tile, int row, int column) const {
    return tile + at_ + row * kWidth + (column / 8 ^ flip_) * 8;
  }

 private:
  int at_, flip_;
};

// Of left factors, 16 rows and 16 terms, and of right factors of two products whose rows are terms. Of a part: columns
// are multiples of 32, and 16 further on for part 1.
template <int kWidth>
__device__ __forceinline__ Reader<kWidth> by_terms(int part = 0) {
  return {lane_index() % 16, lane_index() / 16 + part * 2};
}
// Of right factors of two products whose rows are columns of them.
template <int kWidth>
__device__ __forceinline__ Reader<kWidth> by_columns() {
  return {lane_index() / 16 * 8 + lane_index() % 8, lane_index() / 8 % 2};
}

// product = 16 rows of a from `row` on, times the first 8 kCount rows of b. Where sums take most registers not all
// steps are unrolled: what the compiler loads early would take the rest.
template <int kWidth, int kUnroll, int kCount>
__device__ __forceinline__ void multiply_rows(float (&product)[kCount][4], const f16* a, int row, const f16* b) {
  const Reader<kWidth> left_at = by_terms<kWidth>(), right_at = by_columns<kWidth>();
#pragma unroll
  for (int i = 0; i < kCount; ++i)
#pragma unroll
    for (int c = 0; c < 4; ++c) product[i][c] = 0;
#pragma unroll kUnroll
  for (int column = 0; column < kWidth; column += 16) {
    uint32_t left[4];
    ldmatrix_x4(left, left_at(a, row, column));
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      uint32_t right[4];
      ldmatrix_x4(right, right_at(b, i * 8, column));
      multiply_add<f16>(product[i], product[i + 1], left, right);
    }
  }
}

// 8 kCount weights of a row, times its factor, for as many rows of a tile: as left factors of kTerms terms.
template <int kTerms, int kCount>
using Weights = uint32_t[kTerms][kCount / 2][4];

template <int kTerms, int kCount>
__device__ __forceinline__ void take_weights(Weights<kTerms, kCount>& to, const float (&weights)[kCount][4],
                                             const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      float low = weights[i][which * 2] * factor[which], high = weights[i][which * 2 + 1] * factor[which];
#pragma unroll
      for (int term = 0; term < kTerms; ++term)
        to[term][i / 2][i % 2 * 2 + which] = term + 1 < kTerms ? take_term<f16>(low, high) : pack2<f16>(low, high);
    }
}

// sum = sum * rescale + weighted rows of the tile, of which a part has every kParts-th 16 columns. What the matrix unit
// adds up is a part of as many rows as have weights: it cuts digits off where an addition rounds.
template <int kWidth, int kParts, int kTerms, int kSteps>
__device__ __forceinline__ void add_rows(float (&sum)[kWidth / kParts / 8][4],
                                         const uint32_t (&weights)[kTerms][kSteps][4], const float (&rescale)[2],
                                         const f16* tile, int part) {
  const Reader<kWidth> at = by_terms<kWidth>(part);
#pragma unroll
  for (int column = 0; column < kWidth; column += 16 * kParts) {
    float part[2][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t right[4];
      ldmatrix_x4_trans(right, at(tile, step * 16, column));
#pragma unroll
      for (int term = kTerms - 1; term >= 0; --term) multiply_add<f16>(part[0], part[1], weights[term][step], right);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float& x = sum[column / kParts / 8 + i][c];
        x = fmaf(x, rescale[c / 2], part[i][c]);
      }
  }
}

// Over the four lanes that share a row.
template <class F>
__device__ __forceinline__ float quad_reduce(float value, F combine) {
  value = combine(value, __shfl_xor_sync(kAllLanes, value, 1));
  return combine(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// The largest weight of each row.
template <int kCount>
__device__ __forceinline__ void find_most(const float (&weights)[kCount][4], float (&most)[2]) {
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    most[which] = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      most[which] = fmaxf(most[which], fmaxf(fabsf(weights[i][which * 2]), fabsf(weights[i][which * 2 + 1])));
    most[which] = quad_reduce(most[which], [](float a, float b) { return fmaxf(a, b); });
  }
}

// Weights of any size, of rows of which each has a unit of its own, a power of two: it grows with the weights, and the
// sum of the row is in it. f16 ends at 65504.
// `inverse`: what weights are multiplied by.
__device__ __forceinline__ void grow_units(const float (&most)[2], float (&unit)[2], float (&inverse)[2],
                                           float (&rescale)[2]) {
  constexpr uint32_t kExponent = 1u << 23;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    // From 2^e to below 2^(e+1): in units of 2^(e-14).
    const uint32_t bits = __builtin_bit_cast(uint32_t, most[which]) & 0xffu * kExponent;
    const float own = __builtin_bit_cast(float, (bits < 15 * kExponent ? 15 * kExponent : bits) - 14 * kExponent);
    const float next = fmaxf(unit[which], own);
    inverse[which] = __builtin_bit_cast(float, 254 * kExponent - __builtin_bit_cast(uint32_t, next));
    rescale[which] = unit[which] * inverse[which];
    unit[which] = next;
  }
}
constexpr float kLeastUnit = 0x1p-126f;

// Columns of fragment i: this one and the next. Rows of a fragment: quad_row(), and 8 on.
__device__ __forceinline__ int quad_column(int fragment) { return fragment * 8 + lane_index() % 4 * 2; }
__device__ __forceinline__ int quad_row() { return lane_index() / 4; }
// The same of a part of a sum.
template <int kParts>
__device__ __forceinline__ int column_of(int fragment, int part) {
  return (fragment / 2 * kParts + part) * 16 + fragment % 2 * 8 + lane_index() % 4 * 2;
}

constexpr float kLog2E = 1.4426950408889634f;

// Two neighbours, the first in column n of N, at `to`; paired: as one where both exist.
template <class T>
__device__ __forceinline__ void store_pair(T* to, float low, float high, int n, int N, bool paired) {
  if (n >= N) return;
  if (paired) {
    if constexpr (std::is_same_v<T, float>) *reinterpret_cast<float2*>(to) = make_float2(low, high);
    else *reinterpret_cast<uint32_t*>(to) = pack2<T>(low, high);
    return;
  }
  to[0] = from_float<T>(low);
  if (n + 1 < N) to[1] = from_float<T>(high);
}

}  // namespace grpo::cuda
