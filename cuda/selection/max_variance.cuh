// How many of the k scores that select_rollouts keeps are the largest ones, so that their variance is largest; of the
// lowest such numbers.
//
// The k smallest are kept at first. Exchange a is that of the largest of the small ones, s, for the next of the large
// ones, l. It changes k times the sum of squared distances from the mean by
//   (l - s) * (k (l + s) - 2 sum - (l - s)),   sum = of the k values before the exchange.
// Only the sign of the second factor matters. It is linear in the scores, so nothing cancels that float32 scores hold.
// And it falls from exchange to exchange, since l and s do and the sum rises: what adds to the variance are the first
// exchanges, so that the last of them is searched. Those of equal scores change nothing, and are not made at the end.
#pragma once

#include "blocks/reduce.cuh"
#include "blocks/scan.cuh"
#include "selection/selection.cuh"

namespace grpo::cuda {

__device__ __forceinline__ WideScore wide_of(uint32_t key) { return wide_score(score_of(key)); }

// Sums over the lower lanes, and over all: not by a difference, which would round.
__device__ __forceinline__ Scanned<WideScore> scan_warp(WideScore own) {
  const double finite = warp_scan(own.finite);
  const int32_t infinite = warp_scan(static_cast<int32_t>(own.infinite));
  const WideScore before{__shfl_up_sync(kAllLanes, finite, 1), double(__shfl_up_sync(kAllLanes, infinite, 1))};
  return {lane_index() == 0 ? WideScore{} : before,
          {__shfl_sync(kAllLanes, finite, kWarp - 1), double(__shfl_sync(kAllLanes, infinite, kWarp - 1))}};
}

// By a warp of at most 32 scores: an exchange per lane. `sorted`: their keys, ascending over the lanes, the candidates
// in the last lanes.
__device__ __forceinline__ int largest_of_warp(uint32_t sorted, int candidates, int k) {
  const int first = kWarp - candidates, a = lane_index();
  const bool small = a >= first && a < first + k;
  const WideScore sum = scan_warp(small ? wide_of(sorted) : WideScore{}).total;
  const uint32_t large_key = __shfl_sync(kAllLanes, sorted, kWarp - 1 - a);
  const uint32_t small_key = __shfl_sync(kAllLanes, sorted, (first + k - 1 - a) % kWarp);
  const bool exchanges = a < k && large_key > small_key;
  const WideScore l = exchanges ? wide_of(large_key) : WideScore{}, s = exchanges ? wide_of(small_key) : WideScore{};
  const WideScore before = scan_warp(l - s).before;
  return kWarp - __clz(static_cast<int>(
                     __ballot_sync(kAllLanes, exchanges && exchange_gain(l, s, sum + before, k) > 0)));
}

struct MaxVarianceShared {
  WideScore of_warp[kWarp], sum;
  int64_t last[kWarp];
};

// By a block, of any number: each thread adds up a run of exchanges, and the last run whose first exchange adds is
// looked at again, until a run is one exchange.
__device__ __forceinline__ int64_t largest_of_block(const uint32_t* keys,  // [n], ascending, all of numbers
                                                    int64_t n, int64_t k, MaxVarianceShared& shared) {
  if (n == k) return 0;
  const auto scan = [&](WideScore own) {
    Scanned<WideScore> scanned = scan_warp(own);
    __syncthreads();  // of_warp may still be read from the call before
    if (lane_index() == 0) shared.of_warp[warp_index()] = scanned.total;
    __syncthreads();
    WideScore total{};
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
      if (warp == warp_index()) scanned.before = total + scanned.before;
      total = total + shared.of_warp[warp];
    }
    return Scanned<WideScore>{scanned.before, total};
  };
  WideScore own{};
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) own = own + wide_of(keys[i]);
  WideScore sum = scan(own).total;
  int64_t low = 0, high = k;
  while (true) {
    const int64_t run = ceil_div(high - low, blockDim.x), first = low + threadIdx.x * run;
    const int64_t end = first + run < high ? first + run : high;
    own = {};
#pragma unroll 4
    for (int64_t a = first; a < end; ++a) own = own + (wide_of(keys[n - 1 - a]) - wide_of(keys[k - 1 - a]));
    const WideScore here = sum + scan(own).before;
    const bool adds =
        first < end && exchange_gain(wide_of(keys[n - 1 - first]), wide_of(keys[k - 1 - first]), here, k) > 0;
    const int64_t last =
        block_reduce(adds ? first : int64_t{-1}, shared.last, [](int64_t x, int64_t y) { return x > y ? x : y; });
    if (last < 0) return 0;
    if (run == 1) {
      const uint32_t large = keys[n - 1 - last];
      return large > keys[k - 1 - last] ? last + 1 : n - 1 - last_at_most(keys, n - 1 - last, n - 1, large);
    }
    if (first == last) shared.sum = here;
    __syncthreads();
    sum = shared.sum;
    low = last, high = last + run < high ? last + run : high;
  }
}

}  // namespace grpo::cuda
