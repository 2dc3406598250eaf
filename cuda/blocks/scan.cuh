// Prefix sums of integers, by a block and of a whole array, and what is found by counting. Everything is integer, so
// that no order of work shows in a result.
#pragma once

#include "blocks/lanes.cuh"
#include "launch/launch.cuh"

namespace grpo::cuda {

template <class T>
struct Scanned {
  T before, total;  // the sums over the lower threads, and over all
};

// `partial`: shared memory, one per warp. All threads call it; blockDim.x is a multiple of 32.
template <class T>
__device__ __forceinline__ Scanned<T> block_scan(T value, T* partial) {
  const T inclusive = warp_scan(value);
  __syncthreads();  // partial may still be read from the call before
  if (lane_index() == kWarp - 1) partial[warp_index()] = inclusive;
  __syncthreads();
  Scanned<T> result{inclusive - value, 0};
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    if (warp < warp_index()) result.before += partial[warp];
    result.total += partial[warp];
  }
  return result;
}

// The n-th i (n >= 1) of [begin, end) with flag(i), in every thread; `end` where there are fewer. `partial`: shared
// memory, one per warp. Each warp has a piece: it counts, and the one whose piece has the n-th looks again.
template <class F>
__device__ __forceinline__ int64_t block_find(int64_t begin, int64_t end, int64_t n, int64_t* partial, F flag) {
  const int64_t warps = blockDim.x / kWarp, piece = ceil_div(ceil_div(end - begin, warps), kWarp) * kWarp;
  const int64_t first = begin + warp_index() * piece, stop = first + piece < end ? first + piece : end;
  int64_t own = 0;
#pragma unroll 4
  for (int64_t i = first + lane_index(); i < stop; i += kWarp) own += flag(i);
  own = warp_reduce(own, Add{});
  __syncthreads();  // partial may still be read from the call before
  if (lane_index() == 0) partial[warp_index()] = own;
  __syncthreads();
  int64_t before = 0;
  int owner = 0;
  for (; owner < warps && before + partial[owner] < n; ++owner) before += partial[owner];
  __syncthreads();
  if (warp_index() == owner) {
    for (int64_t base = first; base < stop; base += kWarp) {
      const int64_t i = base + lane_index();
      const uint32_t found = __ballot_sync(kAllLanes, i < stop && flag(i));
      const int64_t here = before + __popc(found);
      if (here >= n) {
        const uint32_t lower = found & ((1u << lane_index()) - 1);
        if ((found >> lane_index() & 1) != 0 && before + __popc(lower) == n - 1) partial[0] = i;
        break;
      }
      before = here;
    }
  } else if (owner == warps && threadIdx.x == 0) {
    partial[0] = end;
  }
  __syncthreads();
  return partial[0];
}

// Counts become the sums of those before them, and counts[n] the sum of all: one block.
void scan_counts(uint32_t* counts,  // [n+1]
                 double* total,     // [1], may be null
                 int64_t n, Launch& on);

}  // namespace grpo::cuda
