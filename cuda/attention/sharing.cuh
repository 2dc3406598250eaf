// Rows that two warps share, where one warp has no registers for their sums: each of the two sums up half of the head's
// columns (tiles.cuh: column_of). In the backward passes each also forms the weights of half of a tile only, and gets
// those of the other through shared memory. A warp and the next one are a pair.
#pragma once

#include "attention/tiles.cuh"

namespace grpo::cuda {

// The warps of 16 rows: a pair, or one alone.
template <int kParts>
struct Pair {
  int rows = warp_index() / kParts * 16;  // of the tile, from here on
  int part = kParts == 1 ? 0 : warp_index() % kParts;
  // What each wrote to shared memory is seen by both.
  __device__ __forceinline__ void meet() const { named_barrier(1 + warp_index() / kParts, kParts * kWarp); }
};

// For one exchange between two barriers of the block.
struct SharedMost {
  float of[2][kTileTokens];
};
// The larger of what both have for a row.
__device__ __forceinline__ void share_most(float (&most)[2], SharedMost& shared, const Pair<2>& pair) {
  const int row = pair.rows + quad_row();
#pragma unroll
  for (int which = 0; which < 2; ++which)
    if (lane_index() % 4 == 0) shared.of[pair.part][row + which * 8] = most[which];
  pair.meet();
#pragma unroll
  for (int which = 0; which < 2; ++which) most[which] = fmaxf(most[which], shared.of[1 - pair.part][row + which * 8]);
}

// The same, with room for the weights of all rows. Nothing where rows are not shared, or nothing is summed up.
template <int kParts, int kTerms>
struct SharedWeights {};
template <int kTerms>
  requires(kTerms > 0)
struct SharedWeights<2, kTerms> {
  alignas(16) f16 terms[kTerms][kTileTokens * kTileTokens];
  SharedMost most;
};

// Weights of the pair's rows, in order of columns, from its two halves.
template <int kTerms>
__device__ __forceinline__ void share_weights(Weights<kTerms, kFragments>& all,
                                              const Weights<kTerms, kFragments / 2>& own,
                                              SharedWeights<2, kTerms>& shared, const Pair<2>& pair) {
  const int row = pair.rows + quad_row(), flip = Swizzle<kTileTokens>::flip(row);
  const Reader<kTileTokens> at = by_terms<kTileTokens>();
#pragma unroll
  for (int term = 0; term < kTerms; ++term)
#pragma unroll
    for (int i = 0; i < kFragments / 2; ++i)
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        f16* to = shared.terms[term] + (row + which * 8) * kTileTokens;
        to += ((pair.part * (kFragments / 2) + i) ^ flip) * 8 + lane_index() % 4 * 2;
        *reinterpret_cast<uint32_t*>(to) = own[term][i / 2][i % 2 * 2 + which];
      }
  pair.meet();
#pragma unroll
  for (int term = 0; term < kTerms; ++term)
#pragma unroll
    for (int step = 0; step < kTileTokens / 16; ++step)
      ldmatrix_x4(all[term][step], at(shared.terms[term], pair.rows, step * 16));
}

}  // namespace grpo::cuda
