// Ranges that an array of offsets cuts out of another: where one begins and ends, which one an element lies in, and
// whether they are what they should be. Offsets on the device are not looked at by the host: a bad one may not lead out
// of bounds.
#pragma once

#include "blocks/lanes.cuh"
#include "launch/launch.cuh"

namespace grpo::cuda {

struct Range {
  int64_t begin, end;
  bool good;  // 0 <= begin <= end <= size; else begin = end
};
__device__ __forceinline__ Range range_of(const int32_t* start, int64_t i, int64_t size) {
  const int64_t begin = start[i], end = start[i + 1];
  const bool good = begin >= 0 && begin <= end && end <= size;
  return {good ? begin : 0, good ? end : 0, good};
}

// The last i of [low, high] with before(i), which holds up to some place, or low. Ends whatever `before` answers.
template <class F>
__device__ __forceinline__ int64_t last_where(int64_t low, int64_t high, F before) {
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (before(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}
// With sorted[i] <= value.
template <class T>
__device__ __forceinline__ int64_t last_at_most(const T* sorted,  // [high+1]
                                                int64_t low, int64_t high, int64_t value) {
  return last_where(low, high, [&](int64_t i) { return static_cast<int64_t>(sorted[i]) <= value; });
}

// Whether offsets rise from 0 to `size`, all of them, for operations in which ranges that meet would write to one
// place: not 0 where they do not.
const uint32_t* bad_offsets(const int32_t* start,  // [ranges+1]
                            int64_t ranges, int64_t size, Launch& on);

}  // namespace grpo::cuda
