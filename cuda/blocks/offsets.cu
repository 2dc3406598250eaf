#include "blocks/offsets.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: ceil((ranges + 1) / 256). Block: 256. Shared: 0. Work: 4 bytes per range. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    offsets_kernel(const int32_t* start,  // [ranges+1]
                   uint32_t* bad,         // [1], 0 before
                   int64_t ranges, int64_t size) {
  const int64_t i = thread_index();
  const bool own = (i < ranges && !range_of(start, i, size).good) || (i == 0 && start[0] != 0) ||
                   (i == ranges && start[ranges] != size);
  if (own) atomicOr(bad, 1u);
}

}  // namespace

const uint32_t* bad_offsets(const int32_t* start, int64_t ranges, int64_t size, Launch& on) {
  uint32_t* bad = on.scratch<uint32_t>(1);
  on.zero(bad, sizeof *bad);
  on(offsets_kernel, {ceil_div(ranges + 1, kThreads), kThreads}, start, bad, ranges, size);
  return bad;
}

}  // namespace grpo::cuda
