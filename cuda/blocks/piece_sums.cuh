// Sums over the unmasked tokens of sequences, for sequence_sum and sequence_expand: one warp per piece, then one warp
// per sequence.
#pragma once

#include "blocks/pieces.cuh"

namespace grpo::cuda {

// Of a piece, or of a sequence.
struct Sum {
  double total;
  int32_t count;     // of unmasked tokens
  int32_t sequence;  // -1: the slot has no piece
};

// The sums of all pieces, [slots(S, T)].
Sum* piece_sums(const float* x,        // [T], null: counts only
                const int32_t* start,  // [S+1]
                const uint8_t* mask,   // [T], may be null
                int64_t S, int64_t T, Launch& on);

// The pieces of sequence s, by one warp: lane l adds pieces l, l + 32, ... NaN where its offsets are bad, or where bad
// offsets of others hid its pieces.
__device__ __forceinline__ Sum sum_of_pieces(const int32_t* start, const Sum* sums, int64_t s, int64_t T) {
  const Range range = range_of(start, s, T);
  const int64_t first = first_slot(start, s), pieces = ceil_div(range.end - range.begin, kPiece);
  Sum whole{0, 0, static_cast<int32_t>(s)};
  bool bad = !range.good;
  for (int64_t piece = lane_index(); piece < pieces; piece += kWarp) {
    const Sum own = sums[first + piece];
    bad |= own.sequence != s;
    whole.total += own.total;
    whole.count += own.count;
  }
  if (__any_sync(kAllLanes, bad)) return {NAN, 0, -1};
  whole.total = warp_reduce(whole.total, Add{});
  whole.count = warp_reduce(whole.count, Add{});
  return whole;
}

}  // namespace grpo::cuda
