// Pieces of sequences: at most kPiece tokens, counted from the first token of their sequence, so that the bits of a sum
// depend on nothing but its own values, and one long sequence still spreads over the GPU. Which piece a warp has it
// finds in the offsets by itself: the host knows how many there are at most.
#pragma once

#include "blocks/offsets.cuh"

namespace grpo::cuda {

constexpr int64_t kPiece = 1024;

// A number per piece is kept in its slot. Those of a sequence follow one another, and no two pieces share one.
__host__ __device__ constexpr int64_t slots(int64_t S, int64_t T) { return S == 0 ? 0 : S + T / kPiece + 1; }
__device__ __forceinline__ int64_t first_slot(const int32_t* start, int64_t s) { return s + start[s] / kPiece; }

struct Piece {
  int64_t sequence, begin, end;  // begin = end where the slot has no piece
};

__device__ __forceinline__ Piece piece_of(const int32_t* start,  // [S+1]
                                          int64_t S, int64_t T, int64_t slot) {
  const int64_t s = last_where(0, S - 1, [&](int64_t i) { return first_slot(start, i) <= slot; });
  const Range range = range_of(start, s, T);
  const int64_t before = slot - first_slot(start, s), begin = range.begin + before * kPiece;
  if (!range.good || before < 0 || begin >= range.end) return {s, 0, 0};
  return {s, begin, begin + kPiece < range.end ? begin + kPiece : range.end};
}

}  // namespace grpo::cuda
