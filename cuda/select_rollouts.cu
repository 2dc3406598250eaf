// Which rollouts of a group, or of the whole batch, to train on.
//
// Scores become 32-bit keys of the same order (selection.cuh), kept in scratch memory. One block per set sorts its keys
// in shared memory, a set that does not fit in scratch memory, the only set that does not fit with the launches of
// radix_sort.cuh. In the sorted keys everything is a search: how many are candidates, the thresholds, how many lie
// beyond them. A last launch writes the mask: 5 bytes read per rollout and 1 written, 4 more written and read in
// between.
//
// max_variance: the k smallest, of which one after the other is exchanged for the next of the largest while that adds
// to the variance. One warp looks at 32 exchanges at a time, in float64 and in an order that depends on the set only.
#include "blocks/offsets.cuh"
#include "blocks/radix_sort.cuh"
#include "blocks/scan.cuh"
#include "launch/operation.cuh"
#include "selection/selection.cuh"

namespace grpo::cuda {
namespace {

enum Scope : int32_t { kGroup, kBatch };
enum Rule : int32_t { kMaxVariance, kTop, kTopBottom };

constexpr int kThreads = 256;
constexpr int64_t kSmall = 1024, kLarge = 16384;  // keys in shared memory: 4 and 64 KiB

// Grid: ceil(N / 256). Block: 256. Shared: 0. Work: 8 bytes per rollout, 9 with a mask, 4 more where sets are sorted in
// memory. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    keys_kernel(const float* score,   // [N]
                const uint8_t* mask,  // [N], may be null
                uint32_t* keys,       // [N]
                uint32_t* copy,       // [N], may be null
                int64_t N) {
  const int64_t i = thread_index();
  if (i >= N) return;
  const uint32_t key = mask != nullptr && mask[i] == 0 ? kMaskedKey : key_of(score[i]);
  keys[i] = key;
  if (copy != nullptr) copy[i] = key;
}

// Above `upper` and below `lower` all are kept, and at them those up to a place. Where one of them is absent, its key
// lies beyond all numbers.
struct Cut {
  uint32_t upper, lower;
  int32_t last_upper, last_lower;
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

// How many of the k values are the largest ones, so that their variance is largest; of the lowest such numbers. By one
// warp. Exchanging the largest of the small ones, s, for the next of the large ones, l, changes k times the sum of
// squared distances from the mean by
//   (l - s) * (k (l + s) - 2 sum - (l - s)),   sum = of the k values before the exchange.
// Only the sign of the second factor matters. It is linear in the scores, so nothing cancels that float32 scores hold.
__device__ int64_t largest_of_max_variance(const uint32_t* keys,  // [n], ascending, all of numbers
                                           int64_t n, int64_t k) {
  const auto at = [&](int64_t i) { return wide_score(score_of(keys[i])); };
  WideScore sum;
  for (int64_t i = lane_index(); i < k; i += kWarp) sum = sum + at(i);
  sum = {warp_reduce(sum.finite, Add{}), warp_reduce(sum.infinite, Add{})};
  int64_t best = 0;
  for (int64_t first = 0; first < k; first += kWarp) {
    const int64_t large = first + lane_index();
    const bool valid = large < k;
    const WideScore l = valid ? at(n - 1 - large) : WideScore{}, s = valid ? at(k - 1 - large) : WideScore{};
    const WideScore inclusive{warp_scan((l - s).finite), warp_scan((l - s).infinite)};
    WideScore before{__shfl_up_sync(kAllLanes, inclusive.finite, 1), __shfl_up_sync(kAllLanes, inclusive.infinite, 1)};
    if (lane_index() == 0) before = {};
    const bool larger = valid && keys[n - 1 - large] > keys[k - 1 - large];
    const uint32_t better = __ballot_sync(kAllLanes, larger && exchange_gain(l, s, sum + before, k) > 0);
    if (better != 0) best = first + kWarp - __clz(static_cast<int>(better));
    sum = sum + WideScore{__shfl_sync(kAllLanes, inclusive.finite, kWarp - 1),
                          __shfl_sync(kAllLanes, inclusive.infinite, kWarp - 1)};
  }
  return best;
}

template <int64_t kCapacity>
struct Shared {
  int64_t partial[kCapacity == kSmall ? 4 : 32];
  int64_t above;
  uint32_t keys[kCapacity];
};
template <int64_t kCapacity>
constexpr int kSetThreads = kCapacity == kSmall ? 128 : 1024;

// One block per set.
// Grid: 1 per set. Block: 128 or 1,024. Shared: 4,136 or 65,800. Work: 4 bytes per rollout, 8 where ties are cut.
// Bound: latency.
template <int64_t kCapacity>
__global__ void __launch_bounds__(kSetThreads<kCapacity>)
    cuts_kernel(const uint32_t* keys,        // [N]
                uint32_t* copy,              // [N], the same keys, or in order; null: every set fits
                const int32_t* group_start,  // [G+1], null: one set of all rollouts
                Cut* cuts,                   // [sets]
                int64_t N, int64_t count, double fraction, int32_t rule, bool ordered) {
  DYN_SMEM(Shared<kCapacity>, shared);
  const Range set = group_start == nullptr ? Range{0, N, true} : range_of(group_start, blockIdx.x, N);
  // What is in order is all rollouts: a set of fewer, by bad offsets, is none.
  const int64_t size = ordered && set.end - set.begin != N ? 0 : set.end - set.begin;
  const uint32_t* sorted = shared.keys;
  if (ordered) {
    sorted = copy;
  } else if (size <= kCapacity) {
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) shared.keys[i] = keys[set.begin + i];
    sort_keys(shared.keys, size);
  } else {
    sort_keys(copy + set.begin, size);
    sorted = copy + set.begin;
  }
  // How many keys are below one: searches that all threads do alike.
  const auto below = [&](uint32_t key) -> int64_t {
    if (size == 0 || sorted[0] >= key) return 0;
    return last_at_most(sorted, 0, size - 1, int64_t{key} - 1) + 1;
  };
  const int64_t first = below(kLowestKey), n = size - below(kNanKey), candidates = size - first;
  const int64_t wanted = selected_count(n, count, fraction), k = wanted < candidates ? wanted : candidates;
  Cut cut = nothing();
  if (k > 0) {
    int64_t above = rule == kTop ? k : k - k / 2;
    if (rule == kMaxVariance) {
      if (warp_index() == 0) {
        above = largest_of_max_variance(sorted + first, candidates, k);
        if (lane_index() == 0) shared.above = above;
      }
      __syncthreads();
      above = shared.above;
    }
    const int64_t under = k - above;
    // Places at the thresholds that those beyond them leave, for the lowest indices.
    int64_t at_upper = 0, at_lower = 0;
    if (above > 0) {
      cut.upper = sorted[size - above];
      at_upper = above - (size - below(cut.upper + 1));
    }
    if (under > 0) {
      cut.lower = sorted[first + under - 1];
      at_lower = under - (below(cut.lower) - first);
    }
    if (above > 0 && under > 0 && cut.upper == cut.lower) at_upper += at_lower;  // all places are for that one value
    const auto last_of = [&](uint32_t key, int64_t places) {
      if (places >= below(key + 1) - below(key)) return kAllPlaces;
      return static_cast<int32_t>(
          block_find(set.begin, set.end, places, shared.partial, [&](int64_t i) { return keys[i] == key; }));
    };
    if (above > 0) cut.last_upper = last_of(cut.upper, at_upper);
    if (under > 0) cut.last_lower = last_of(cut.lower, at_lower);
  }
  if (threadIdx.x == 0) cuts[blockIdx.x] = cut;
}

// Grid: ceil(N / 256). Block: 256. Shared: 0. Work: 5 bytes per rollout. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    write_kernel(const uint32_t* keys,        // [N]
                 const int32_t* group_start,  // [G+1], null: one set of all rollouts
                 const Cut* cuts,             // [sets]
                 uint8_t* kept,               // [N]
                 int64_t N, int64_t G) {
  const int64_t i = thread_index();
  if (i >= N) return;
  int64_t g = 0;
  if (group_start != nullptr) {
    g = last_at_most(group_start, 0, G - 1, i);
    const Range range = range_of(group_start, g, N);
    if (!range.good || i < range.begin || i >= range.end) g = -1;
  }
  const Cut cut = g < 0 ? nothing() : cuts[g];
  const uint32_t key = keys[i];
  kept[i] = key < kLowestKey   ? 0
            : key >= cut.upper ? key > cut.upper || i <= cut.last_upper
            : key <= cut.lower ? key < cut.lower || i <= cut.last_lower
                               : 0;
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
  const int32_t* group_start = batch ? nullptr : data<int32_t>(args.group_start);
  const int64_t sets = batch ? 1 : G;
  // The host does not know the sizes of groups: room for four times their mean, or else scratch memory.
  const bool small = batch ? N <= kSmall : N <= kSmall || N / G <= kSmall / 4;
  const int64_t capacity = small ? kSmall : kLarge;
  const bool ordered = sets == 1 && N > kLarge;
  uint32_t* keys = on.scratch<uint32_t>(N);
  uint32_t* copy = N > capacity ? on.scratch<uint32_t>(N) : nullptr;
  Cut* cuts = on.scratch<Cut>(sets);
  on(keys_kernel, {ceil_div(N, kThreads), kThreads}, data<float>(args.score), data<uint8_t>(args.mask), keys, copy, N);
  if (ordered) copy = radix_sort(copy, N, false, on).keys;
  if (small)
    on(cuts_kernel<kSmall>, {sets, kSetThreads<kSmall>, sizeof(Shared<kSmall>)}, keys, copy, group_start, cuts, N,
       args.count, args.fraction, args.rule, ordered);
  else
    on(cuts_kernel<kLarge>, {sets, kSetThreads<kLarge>, sizeof(Shared<kLarge>)}, keys, copy, group_start, cuts, N,
       args.count, args.fraction, args.rule, ordered);
  on(write_kernel, {ceil_div(N, kThreads), kThreads}, keys, group_start, cuts, kept, N, G);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSelectRollouts, select_rollouts);

}  // namespace grpo::cuda
