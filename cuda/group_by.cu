// Sorts rollouts by group id, those of one id in the order that they came: a stable radix sort (radix_sort.cuh), then
// the places where an id differs from the one before it (scan.cuh). About 100 bytes per rollout.
//
// Where `group_start` has another length than there are ids, which the host knows only if it waits: groups that it has
// no room for belong to the last one, and those that are too many are empty.
#include "blocks/flags.cuh"
#include "blocks/radix_sort.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// Ascending as int32.
// Grid: ceil(N / 256). Block: 256. Shared: 0. Work: 8 bytes per rollout. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    keys_kernel(const int32_t* ids,  // [N]
                uint32_t* keys,      // [N]
                int64_t N) {
  const int64_t i = thread_index();
  if (i < N) keys[i] = static_cast<uint32_t>(ids[i]) ^ 0x80000000u;
}

// Grid: ceil((N + 1) / 256). Block: 256. Shared: 0. Work: 8 bytes per rollout. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    order_kernel(const uint32_t* places,  // [N]
                 int32_t* order,          // [N], may be null
                 int32_t* group_end,      // [1], may be null: the last of group_start
                 int64_t N) {
  const int64_t i = thread_index();
  if (i < N && order != nullptr) order[i] = static_cast<int32_t>(places[i]);
  if (i == 0 && group_end != nullptr) *group_end = static_cast<int32_t>(N);
}

struct GroupFlags {
  const uint32_t* keys;  // [N], sorted
  int32_t skip;
  __device__ __forceinline__ uint32_t bits(int64_t first, int64_t N) const {
    uint32_t result = 0, before = first > 0 && first < N ? keys[first - 1] : 0;
    for (int i = 0; i < kFlags && first + i < N; ++i) {
      const uint32_t key = keys[first + i];
      if (first + i == 0 || key != before) result |= 1u << i;
      before = key;
    }
    return result;
  }
};

using Args = grpo_group_by_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t N = axes['N'], G = axes['G'];
  int32_t *order = data<int32_t>(args.order), *group_start = data<int32_t>(args.group_start);
  uint32_t* keys = on.scratch<uint32_t>(N);
  on(keys_kernel, {ceil_div(N, kThreads), kThreads}, data<int32_t>(args.ids), keys, N);
  const Sorted sorted = radix_sort(keys, N, order != nullptr, on);
  list_flags(GroupFlags{sorted.keys, 0}, data<double>(args.count), group_start, static_cast<int32_t>(N), N, G, on);
  on(order_kernel, {ceil_div(N + 1, kThreads), kThreads}, sorted.values, order,
     group_start == nullptr ? nullptr : group_start + G, N);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGroupBy, group_by);

}  // namespace grpo::cuda
