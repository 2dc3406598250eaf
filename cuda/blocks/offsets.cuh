// Whether offsets rise from 0 to the end, all of them, for operations in which ranges that meet would write to one place.
#pragma once

#include "launch/operation.cuh"

namespace grpo::cuda {

constexpr int kOffsetThreads = 256;

static __global__ void __launch_bounds__(kOffsetThreads)
    offsets_kernel(const int32_t* start,  // [ranges+1]
                   uint32_t* bad,         // [1], 0 before
                   int64_t ranges, int64_t size) {
  const int64_t i = thread_index();
  const bool own = (i < ranges && !range_of(start, i, size).good) || (i == 0 && start[0] != 0) ||
                   (i == ranges && start[ranges] != size);
  if (own) atomicOr(bad, 1u);
}

// Not 0 where they do not.
inline const uint32_t* bad_offsets(const int32_t* start,  // [ranges+1]
                                   int64_t ranges, int64_t size, Launch& on) {
  uint32_t* bad = on.scratch<uint32_t>(1);
  on.zero(bad, sizeof *bad);
  on(offsets_kernel, {ceil_div(ranges + 1, kOffsetThreads), kOffsetThreads}, start, bad, ranges, size);
  return bad;
}

}  // namespace grpo::cuda
