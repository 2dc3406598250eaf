#include "logits/kept_sets.cuh"

#include "blocks/lanes.cuh"
#include "blocks/offsets.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// A warp has a row.
// Grid: ceil(R / 8). Block: 256. Shared: 0. Work: 4 bytes per id, 6 per row. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    check_sets_kernel(KeptSets kept,
                      const uint32_t* bad_start,  // [1]
                      uint8_t* set,               // [R]
                      uint8_t* bad,               // [R]
                      int64_t R, int64_t end, int64_t padding_end) {
  const int64_t r = int64_t{blockIdx.x} * kWarps + warp_index();
  if (r >= R) return;
  bool good = *bad_start == 0;
  const int64_t first = kept.start[r], last = kept.start[r + 1];
  for (int64_t j = first + lane_index(); good && j < last; j += kWarp) {
    const int64_t id = kept.ids[j];
    good = id >= 0 && id < end && (id < kept.end || id >= padding_end) && (j == first || kept.ids[j - 1] < id);
  }
  good = __all_sync(kAllLanes, good);
  if (lane_index() != 0) return;
  set[r] = good && last > first;
  bad[r] = !good;
}

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 8 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads) copy_outputs_kernel(const float* from, float* to, int64_t T) {
  const int64_t t = thread_index();
  if (t < T) to[t] = from[t];
}

}  // namespace

void copy_outputs(const float* from, float* to, int64_t T, Launch& on) {
  on(copy_outputs_kernel, {ceil_div(T, kThreads), kThreads}, from, to, T);
}

RowSets row_sets(const KeptSets& kept, int64_t R, int64_t M, bool part, int64_t width, Launch& on) {
  if (kept.start == nullptr) return {};
  uint8_t *set = on.scratch<uint8_t>(R), *bad = on.scratch<uint8_t>(R);
  const int64_t end = part ? int64_t{INT_MAX} + 1 : width;
  on(check_sets_kernel, {ceil_div(R, kWarps), kThreads}, kept, bad_offsets(kept.start, R, M, on), set, bad, R, end,
     kept.first + width);
  return {kept, set, bad, M};
}

}  // namespace grpo::cuda
