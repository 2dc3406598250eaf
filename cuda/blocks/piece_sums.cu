#include "blocks/piece_sums.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Grid: ceil(slots / 4). Block: 128. Shared: 0. Work: 4 bytes per token, 5 with a mask; 16 per piece. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    piece_sums_kernel(const float* x,        // [T], may be null
                      const int32_t* start,  // [S+1]
                      const uint8_t* mask,   // [T], may be null
                      Sum* sums,             // [slots(S, T)]
                      int64_t S, int64_t T) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + warp_index();
  if (slot >= slots(S, T)) return;
  const Piece piece = piece_of(start, S, T, slot);
  double total = 0;
  int32_t count = 0;
#pragma unroll 4
  for (int64_t t = piece.begin + lane_index(); t < piece.end; t += kWarp) {
    if (mask != nullptr && mask[t] == 0) continue;
    if (x != nullptr) total += x[t];
    ++count;
  }
  total = warp_reduce(total, Add{});
  count = warp_reduce(count, Add{});
  const bool used = piece.begin < piece.end;
  if (lane_index() == 0) sums[slot] = {total, count, used ? static_cast<int32_t>(piece.sequence) : -1};
}

}  // namespace

Sum* piece_sums(const float* x, const int32_t* start, const uint8_t* mask, int64_t S, int64_t T, Launch& on) {
  Sum* sums = on.scratch<Sum>(slots(S, T));
  on(piece_sums_kernel, {ceil_div(slots(S, T), kWarps), kThreads}, x, start, mask, sums, S, T);
  return sums;
}

}  // namespace grpo::cuda
