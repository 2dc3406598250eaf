// Sums over the unmasked tokens of sequences, for sequence_sum and sequence_expand.
//
// One warp per piece: at most kPiece tokens, counted from the first token of their sequence, so that the bits of a sum
// depend on nothing but its own values, and one long sequence still spreads over the GPU. Which piece a warp has it
// finds in sequence_start by itself: the host knows how many there are at most.
#pragma once

#include "launch/operation.cuh"

namespace grpo::cuda {

constexpr int64_t kPiece = 1024;
constexpr int kPieceThreads = 128, kPieceWarps = kPieceThreads / kWarp;

// Of a piece, or of a sequence.
struct Sum {
  double total;
  int32_t count;     // of unmasked tokens
  int32_t sequence;  // -1: the slot has no piece
};

// A sum per piece is kept in its slot. Those of a sequence follow one another, and no two pieces share one.
__host__ __device__ constexpr int64_t slots(int64_t S, int64_t T) { return S == 0 ? 0 : S + T / kPiece + 1; }
__device__ __forceinline__ int64_t first_slot(const int32_t* start, int64_t s) { return s + start[s] / kPiece; }

// The last i of [low, high] with before(i), or low. Ends whatever `before` answers.
template <class F>
__device__ __forceinline__ int64_t last_where(int64_t low, int64_t high, F before) {
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (before(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

// x null: counts only.
static __global__ void __launch_bounds__(kPieceThreads)
    piece_sums_kernel(const float* x,               // [T], may be null
                      const int32_t* start,         // [S+1]
                      const uint8_t* mask,          // [T], may be null
                      Sum* sums,                    // [slots(S, T)]
                      int64_t S, int64_t T) {
  const int64_t slot = int64_t{blockIdx.x} * kPieceWarps + warp_index();
  if (slot >= slots(S, T)) return;
  const int64_t s = last_where(0, S - 1, [&](int64_t i) { return first_slot(start, i) <= slot; });
  const Range range = range_of(start, s, T);
  const int64_t before = slot - first_slot(start, s), begin = range.begin + before * kPiece;
  const bool used = range.good && before >= 0 && begin < range.end;
  const int64_t end = !used ? begin : begin + kPiece < range.end ? begin + kPiece : range.end;
  double total = 0;
  int32_t count = 0;
#pragma unroll 4
  for (int64_t t = begin + lane_index(); t < end; t += kWarp) {
    if (mask != nullptr && mask[t] == 0) continue;
    if (x != nullptr) total += x[t];
    ++count;
  }
  total = warp_reduce(total, Add{});
  count = warp_reduce(count, Add{});
  if (lane_index() == 0) sums[slot] = {total, count, used ? static_cast<int32_t>(s) : -1};
}

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

inline Sum* piece_sums(const float* x,        // [T], may be null
                       const int32_t* start,  // [S+1]
                       const uint8_t* mask,   // [T], may be null
                       int64_t S, int64_t T, Launch& on) {
  Sum* sums = on.scratch<Sum>(slots(S, T));
  on(piece_sums_kernel, {ceil_div(slots(S, T), kPieceWarps), kPieceThreads}, x, start, mask, sums, S, T);
  return sums;
}

}  // namespace grpo::cuda
