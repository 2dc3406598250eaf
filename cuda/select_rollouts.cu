// Which rollouts of a group, or of the whole batch, to train on.
//
// Scores become 32-bit keys of the same order (selection.cuh); in sorted keys everything is a search: how many are
// candidates, the thresholds, how many lie beyond them. Which kernel runs is decided by the size of each group, on the
// device:
// - Up to 32 rollouts: a warp sorts them in its registers, and writes their mask. Larger groups it puts on a list.
// - Those of the list: a block each, which sorts keys in shared memory, or in scratch memory where they do not fit.
// - All rollouts as one set: the same block, or, where they do not fit, the launches of radix_sort.cuh, a block that
//   searches, and a last launch that writes.
// 5 bytes read and 1 written per rollout with a mask, and of a small group 430 instructions of its warp for the largest
// variance (sm_90a); of large groups the scores are read a second time, from cache.
// A launch before looks at the offsets of groups: where one of them is bad, which groups meet is not known, and nothing
// is kept.
#include "blocks/offsets.cuh"
#include "blocks/radix_sort.cuh"
#include "blocks/scan.cuh"
#include "launch/operation.cuh"
#include "selection/max_variance.cuh"

namespace grpo::cuda {
namespace {

enum Scope : int32_t { kGroup, kBatch };
enum Rule : int32_t { kMaxVariance, kTop, kTopBottom };

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int64_t kSmall = 1024, kLarge = 16384;  // keys in shared memory: 4 and 64 KiB

struct Scores {
  const float* score;   // [N]
  const uint8_t* mask;  // [N], may be null

  __device__ __forceinline__ uint32_t key(int64_t i) const {
    return mask != nullptr && mask[i] == 0 ? kMaskedKey : key_of(score[i]);
  }
};

struct Selection {
  int64_t count;
  double fraction;
  int32_t rule;
};

// ---- a warp per group of at most 32 ---------------------------------------------------------------------------------

// Ascending over the lanes: a bitonic sort.
__device__ __forceinline__ uint32_t sort_lanes(uint32_t key) {
#pragma unroll
  for (int size = 2; size <= kWarp; size *= 2)
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, key, distance);
      const bool lower = (lane_index() & distance) == 0, ascending = (lane_index() & size) == 0 || size == kWarp;
      key = lower == ascending ? min(key, other) : max(key, other);
    }
  return key;
}

__device__ __forceinline__ int lanes_with(bool flag) { return __popc(__ballot_sync(kAllLanes, flag)); }

// Whether the lane's rollout is kept. Lanes without a rollout have kMaskedKey.
__device__ __forceinline__ bool kept_of_warp(uint32_t key, const Selection& selection) {
  const int n = lanes_with(key != kMaskedKey), candidates = lanes_with(key >= kLowestKey), first = kWarp - candidates;
  const int wanted = static_cast<int>(selected_count(n, selection.count, selection.fraction));
  const int k = wanted < candidates ? wanted : candidates;
  if (k == 0) return false;
  const uint32_t sorted = sort_lanes(key);
  int above = selection.rule == kTop ? k : k - k / 2;
  if (selection.rule == kMaxVariance) above = largest_of_warp(sorted, candidates, k);
  const int under = k - above;
  const uint32_t largest = __shfl_sync(kAllLanes, sorted, kWarp - (above > 0 ? above : 1));
  const uint32_t smallest = __shfl_sync(kAllLanes, sorted, first + (under > 0 ? under - 1 : 0));
  const uint32_t upper = above > 0 ? largest : UINT32_MAX, lower = under > 0 ? smallest : 0;
  // Places at the thresholds that those beyond them leave, for the lowest indices. Where the thresholds meet, all are
  // for that one value.
  int at_upper = above - lanes_with(key > upper);
  const int at_lower = under - lanes_with(key >= kLowestKey && key < lower);
  if (upper == lower) at_upper += at_lower;
  const uint32_t before = (1u << lane_index()) - 1;
  const uint32_t like_upper = __ballot_sync(kAllLanes, key == upper);
  const uint32_t like_lower = __ballot_sync(kAllLanes, key == lower);
  if (key < kLowestKey) return false;
  if (key >= upper) return key > upper || __popc(like_upper & before) < at_upper;
  return key < lower || (key == lower && __popc(like_lower & before) < at_lower);
}

// Grid: ceil(G / 8). Block: 256. Shared: 0. Work: 5 bytes per rollout, 6 with a mask. Bound: issue.
__global__ void __launch_bounds__(kThreads)
    small_groups_kernel(Scores scores,
                        const int32_t* group_start,  // [G+1]
                        const uint32_t* bad,         // [1], not 0: offsets are bad
                        uint8_t* kept,               // [N]
                        int32_t* large,              // [N / 33], the groups that are
                        uint32_t* large_count,       // [1], 0 before
                        int64_t N, int64_t G, Selection selection) {
  if (*bad != 0) {
    for (int64_t i = thread_index(); i < N; i += int64_t{gridDim.x} * kThreads) kept[i] = 0;
    return;
  }
  const int64_t g = int64_t{blockIdx.x} * kWarps + warp_index();
  if (g >= G) return;
  const int64_t begin = group_start[g], end = group_start[g + 1], i = begin + lane_index();
  if (end - begin > kWarp) {
    if (lane_index() == 0) large[atomicAdd(large_count, 1u)] = static_cast<int32_t>(g);
    return;
  }
  const bool keep = kept_of_warp(i < end ? scores.key(i) : kMaskedKey, selection);
  if (i < end) kept[i] = keep;
}

// ---- a block per set ------------------------------------------------------------------------------------------------

// Above `upper` and below `lower` all are kept, and at them those up to a place. Where one of them is absent, its key
// lies beyond all numbers.
struct Cut {
  uint32_t upper, lower;
  int32_t last_upper, last_lower;

  __device__ __forceinline__ bool keeps(uint32_t key, int64_t i) const {
    if (key < kLowestKey) return false;
    if (key >= upper) return key > upper || i <= last_upper;
    return key <= lower && (key < lower || i <= last_lower);
  }
};
__device__ __forceinline__ Cut nothing() { return {UINT32_MAX, 0, kNoPlace, kNoPlace}; }

// Ascending, in place, by the whole block. A bitonic sort whose comparisons all point upward: what lies beyond n counts
// as greater than everything and never moves.
__device__ void sort_keys(uint32_t* keys,  // [n]
                          int64_t n) {
  int64_t half = 1;
  while (half < n) half *= 2;
  half /= 2;  // comparisons of a step
  for (int64_t size = 2; size <= 2 * half; size *= 2) {
    for (int64_t distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int64_t c = threadIdx.x; c < half; c += blockDim.x) {
        const int64_t low = (c & ~(distance - 1)) * 2 + (c & (distance - 1));
        // The first step of a size holds the ascending halves against each other from their outer ends.
        const int64_t high = distance == size / 2 ? low ^ (size - 1) : low + distance;
        if (high >= n) continue;
        const uint32_t a = keys[low], b = keys[high];
        if (a <= b) continue;
        keys[low] = b;
        keys[high] = a;
      }
    }
  }
  __syncthreads();
}

struct CutShared {
  int64_t partial[kWarp];
  MaxVarianceShared variance;
};

// Of the set of rollouts from `begin` on, by a block.
__device__ Cut find_cut(const uint32_t* sorted,  // [size], the keys of the set
                        const Scores& scores, int64_t begin, int64_t size, const Selection& selection,
                        CutShared& shared) {
  // How many keys are below one: searches that all threads do alike.
  const auto below = [&](uint32_t key) -> int64_t {
    if (size == 0 || sorted[0] >= key) return 0;
    return last_at_most(sorted, 0, size - 1, int64_t{key} - 1) + 1;
  };
  const int64_t first = below(kLowestKey), n = size - below(kNanKey), candidates = size - first;
  const int64_t wanted = selected_count(n, selection.count, selection.fraction);
  const int64_t k = wanted < candidates ? wanted : candidates;
  Cut cut = nothing();
  if (k == 0) return cut;
  int64_t above = selection.rule == kTop ? k : k - k / 2;
  if (selection.rule == kMaxVariance) above = largest_of_block(sorted + first, candidates, k, shared.variance);
  const int64_t under = k - above;
  // As in kept_of_warp.
  int64_t at_upper = 0, at_lower = 0;
  if (above > 0) {
    cut.upper = sorted[size - above];
    at_upper = above - (size - below(cut.upper + 1));
  }
  if (under > 0) {
    cut.lower = sorted[first + under - 1];
    at_lower = under - (below(cut.lower) - first);
  }
  if (above > 0 && under > 0 && cut.upper == cut.lower) at_upper += at_lower;
  const auto last_of = [&](uint32_t key, int64_t places) {
    if (places >= below(key + 1) - below(key)) return kAllPlaces;
    return static_cast<int32_t>(
        block_find(begin, begin + size, places, shared.partial, [&](int64_t i) { return scores.key(i) == key; }));
  };
  if (above > 0) cut.last_upper = last_of(cut.upper, at_upper);
  if (under > 0) cut.last_lower = last_of(cut.lower, at_lower);
  return cut;
}

template <int64_t kCapacity>
struct Shared {
  CutShared cut;
  uint32_t keys[kCapacity];
};
template <int64_t kCapacity>
constexpr int kSetThreads = kCapacity == kSmall ? 128 : 1024;

// Grid: sets, at most 8 or 2 per multiprocessor. Block: 128 or 1,024. Shared: 5,136 or 66,576. Work: 8 bytes per
// rollout, 10 with a mask, 4 more where ties are cut; 1 written. Bound: latency.
template <int64_t kCapacity>
__global__ void __launch_bounds__(kSetThreads<kCapacity>)
    sets_kernel(Scores scores,
                const int32_t* group_start,  // [G+1], null: one set of all rollouts
                const int32_t* sets,         // [*count], null with group_start: groups
                const uint32_t* count,       // [1], null with group_start: 1
                uint32_t* memory,            // [N], scratch; null: every set fits
                uint8_t* kept,               // [N]
                int64_t N, Selection selection) {
  DYN_SMEM(Shared<kCapacity>, shared);
  const int64_t last = count == nullptr ? 1 : *count;
  for (int64_t each = blockIdx.x; each < last; each += gridDim.x) {
    const Range set = sets == nullptr ? Range{0, N, true} : range_of(group_start, sets[each], N);
    const int64_t size = set.end - set.begin;
    uint32_t* keys = size <= kCapacity ? shared.keys : memory + set.begin;
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) keys[i] = scores.key(set.begin + i);
    sort_keys(keys, size);
    const Cut cut = find_cut(keys, scores, set.begin, size, selection, shared.cut);
    for (int64_t i = set.begin + threadIdx.x; i < set.end; i += blockDim.x) kept[i] = cut.keeps(scores.key(i), i);
    __syncthreads();  // the keys of this set are done with
  }
}

// ---- all rollouts, which fit no block -------------------------------------------------------------------------------

// Grid: ceil(N / 256). Block: 256. Shared: 0. Work: 8 bytes per rollout, 9 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    keys_kernel(Scores scores,
                uint32_t* keys,  // [N]
                int64_t N) {
  const int64_t i = thread_index();
  if (i < N) keys[i] = scores.key(i);
}

// Grid: 1. Block: 1,024. Shared: 1,040. Work: searches, and 8 bytes per rollout that is kept for the largest variance;
// 5 bytes per rollout where ties are cut. Bound: latency.
__global__ void __launch_bounds__(kSetThreads<kLarge>)
    cut_kernel(const uint32_t* sorted,  // [N]
               Scores scores,
               const uint32_t* bad,  // [1], not 0: offsets are bad; null: there are none
               Cut* cut,             // [1]
               int64_t N, Selection selection) {
  DYN_SMEM(CutShared, shared);
  const bool good = bad == nullptr || *bad == 0;
  const Cut found = good ? find_cut(sorted, scores, 0, N, selection, shared) : nothing();
  if (threadIdx.x == 0) *cut = found;
}

// Grid: ceil(N / 256). Block: 256. Shared: 0. Work: 5 bytes per rollout, 6 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    write_kernel(Scores scores,
                 const Cut* cut,  // [1]
                 uint8_t* kept,   // [N]
                 int64_t N) {
  const int64_t i = thread_index();
  if (i < N) kept[i] = cut->keeps(scores.key(i), i);
}

using Args = grpo_select_rollouts_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (int status = check_selection(args.count, args.fraction)) return status;
  const int64_t N = axes['N'], G = axes['G'];
  if (args.out_mask == nullptr || N == 0) return GRPO_OK;
  uint8_t* kept = data<uint8_t>(args.out_mask);
  const bool batch = args.scope == kBatch;
  if (!batch && G == 0) {  // offsets that nobody could check: no rollout has a group
    on.zero(kept, N);
    return GRPO_OK;
  }
  const Scores scores{data<float>(args.score), data<uint8_t>(args.mask)};
  const Selection selection{args.count, args.fraction, args.rule};
  const int32_t* group_start = batch ? nullptr : data<int32_t>(args.group_start);
  const uint32_t* bad = batch ? nullptr : bad_offsets(group_start, G, N, on);
  if ((batch || G == 1) && N > kLarge) {
    uint32_t* keys = on.scratch<uint32_t>(N);
    Cut* cut = on.scratch<Cut>(1);
    on(keys_kernel, {ceil_div(N, kThreads), kThreads}, scores, keys, N);
    const uint32_t* sorted = radix_sort(keys, N, false, on).keys;
    on(cut_kernel, {1, kSetThreads<kLarge>, sizeof(CutShared)}, sorted, scores, bad, cut, N, selection);
    on(write_kernel, {ceil_div(N, kThreads), kThreads}, scores, cut, kept, N);
    return GRPO_OK;
  }
  int32_t* large = nullptr;
  uint32_t* large_count = nullptr;
  const int64_t most = batch ? 1 : N / (kWarp + 1) < G ? N / (kWarp + 1) : G;  // sets that a block has
  if (!batch) {
    large = on.scratch<int32_t>(most);
    large_count = on.scratch<uint32_t>(1);
    on.zero(large_count, sizeof *large_count);
    on(small_groups_kernel, {ceil_div(G, kWarps), kThreads}, scores, group_start, bad, kept, large, large_count, N, G,
       selection);
  }
  // The host does not know the sizes of groups: room for four times their mean, or else scratch memory.
  const bool small = N <= kSmall || (!batch && N / G <= kSmall / 4);
  uint32_t* memory = N > (small ? kSmall : kLarge) ? on.scratch<uint32_t>(N) : nullptr;
  const auto launch = [&]<int64_t kCapacity>(std::integral_constant<int64_t, kCapacity>) {
    const int64_t room = int64_t{on.device.multiprocessors} * (kCapacity == kSmall ? 8 : 2);
    on(sets_kernel<kCapacity>, {most < room ? most : room, kSetThreads<kCapacity>, sizeof(Shared<kCapacity>)}, scores,
       group_start, large, large_count, memory, kept, N, selection);
  };
  if (small) launch(std::integral_constant<int64_t, kSmall>{});
  else launch(std::integral_constant<int64_t, kLarge>{});
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSelectRollouts, select_rollouts);

}  // namespace grpo::cuda
