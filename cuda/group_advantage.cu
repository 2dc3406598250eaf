// Advantage of each rollout relative to the others for its prompt.
//
// A team of lanes has a group. Where groups are small on average a warp has four of them: all at the same time where
// none has more than 8 rollouts, two with up to 16; else one after the other, with all 32 lanes. Lane l takes rollouts
// l, l + 32, ... of the group. Rewards are read twice (the second time from cache) and written once: 8 bytes per
// rollout, 9 with a mask; the instructions of a warp are those of four groups of 8, or of two of 16. Statistics are
// float64 in two passes, combined over the lanes in a fixed order: lanes beyond the group add 0, so that the bits do not
// depend on how many the team has. The batch's variance takes two launches more: one moment per group, then one block
// that merges them in order. A launch before looks at the offsets: where one of them is bad, groups may meet, and all
// advantages are NaN; mean and std are so where the group's own offsets are bad.
#include "blocks/offsets.cuh"
#include "launch/operation.cuh"
#include "native/formulas/moments.h"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kBatchThreads = 512;

enum Center : int32_t { kCenterMean, kCenterLeaveOneOut, kCenterNone };
enum Scale : int32_t { kGroupStd, kBatchStd, kLeaveOneOutStd, kScaleMean, kScaleNone };
enum Singleton : int32_t { kZero, kRaw };

struct Parameters {
  int32_t center, scale, singleton;
  int64_t ddof;
  double eps;
  bool eps_under_root;
  Moments virtual_rewards;
};

__device__ __forceinline__ bool kept(const uint8_t* mask, int64_t i) { return mask == nullptr || mask[i] != 0; }

// Merges the moments of all lanes; every lane receives the same bits.
__device__ __forceinline__ Moments merge_lanes(Moments own) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Moments other{__shfl_xor_sync(kAllLanes, own.count, distance), __shfl_xor_sync(kAllLanes, own.mean, distance),
                        __shfl_xor_sync(kAllLanes, own.m2, distance)};
    // The lower lane's come first on both sides: merge() is not symmetric to the last bit.
    own = lane_index() & distance ? merge(other, own) : merge(own, other);
  }
  return own;
}

// Lanes of a warp that follow one another. All teams of a warp do the same at the same time.
struct Team {
  int lanes;

  __device__ __forceinline__ int lane() const { return lane_index() & (lanes - 1); }
  __device__ __forceinline__ int first() const { return lane_index() & ~(lanes - 1); }
  template <class T, class F>
  __device__ __forceinline__ T reduce(T value, F combine) const {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
    return value;
  }
};

// Visits the `count` groups of a warp from g on, as many at a time as there are teams. visit(team, group, range): the
// group is -1 for a team that has none.
template <class F>
__device__ __forceinline__ void for_groups(const int32_t* group_start, int64_t g, int count, int64_t N, int64_t G,
                                           F visit) {
  const int64_t own = g + lane_index();
  const Range looked_at = lane_index() < count && own < G ? range_of(group_start, own, N) : Range{0, 0, true};
  const int64_t most = warp_reduce(looked_at.end - looked_at.begin, [](int64_t a, int64_t b) { return a > b ? a : b; });
  const Team team{count > 1 && most <= 8 ? 8 : count > 1 && most <= 16 ? 16 : kWarp};
  for (int before = 0; before < count; before += kWarp / team.lanes) {
    const int64_t group = g + before + lane_index() / team.lanes;
    const bool exists = before + lane_index() / team.lanes < count && group < G;
    visit(team, exists ? group : -1, exists ? range_of(group_start, group, N) : Range{0, 0, true});
  }
}

// Of the unmasked x[begin, end), by one team. Values that are all equal have exactly that mean and m2 = 0.
__device__ __forceinline__ Moments team_moments(const Team& team, const float* x, const uint8_t* mask, int64_t begin,
                                                int64_t end) {
  double sum = 0;
  int32_t count = 0, nan = 0;
  float low = INFINITY, high = -INFINITY;
  for (int64_t i = begin + team.lane(); i < end; i += team.lanes) {
    if (!kept(mask, i)) continue;
    const float value = x[i];
    sum += value;
    ++count;
    low = fminf(low, value);
    high = fmaxf(high, value);
    nan |= isnan(value) ? 1 : 0;
  }
  sum = team.reduce(sum, Add{});
  count = team.reduce(count, Add{});
  low = team.reduce(low, [](float a, float b) { return fminf(a, b); });
  high = team.reduce(high, [](float a, float b) { return fmaxf(a, b); });
  nan = team.reduce(nan, [](int32_t a, int32_t b) { return a | b; });
  const double mean = sum / count;
  double squares = 0;
  for (int64_t i = begin + team.lane(); i < end; i += team.lanes) {
    if (!kept(mask, i)) continue;
    const double distance = x[i] - mean;
    squares += distance * distance;
  }
  squares = team.reduce(squares, Add{});
  if (count == 0) return {};
  if (nan == 0 && low == high) return repeated(low, count);
  return {static_cast<double>(count), mean, squares};
}

// The others of rollout i: the group's moments before it and after it, merged. The lanes hold one rollout each;
// `before` and `after` come in from the pieces of 32 on either side.
__device__ Moments scan_lanes(const Team& team, Moments own, bool from_the_right) {
  for (int distance = 1; distance < team.lanes; distance *= 2) {
    const int from = from_the_right ? team.lane() + distance : team.lane() - distance;
    const int source = from < 0 || from >= team.lanes ? lane_index() : team.first() + from;
    const Moments other{__shfl_sync(kAllLanes, own.count, source), __shfl_sync(kAllLanes, own.mean, source),
                        __shfl_sync(kAllLanes, own.m2, source)};
    if (source != lane_index()) own = from_the_right ? merge(own, other) : merge(other, own);
  }
  return own;
}

__device__ __forceinline__ Moments from_lane(const Moments& own, int source) {
  return {__shfl_sync(kAllLanes, own.count, source), __shfl_sync(kAllLanes, own.mean, source),
          __shfl_sync(kAllLanes, own.m2, source)};
}

// Grid: ceil(G / 8), of small groups ceil(G / 32). Block: 256. Shared: 0. Work: 4 bytes per rollout, 5 with a mask,
// twice; 24 per group. Bound: issue.
__global__ void __launch_bounds__(kThreads)
    group_moments_kernel(const float* rewards,        // [N]
                         const int32_t* group_start,  // [G+1]
                         const uint8_t* mask,         // [N], may be null
                         Moments* moments,            // [G], of the unmasked rewards
                         int64_t N, int64_t G, int32_t groups) {  // of a warp
  const int64_t first = (int64_t{blockIdx.x} * kWarps + warp_index()) * groups;
  for_groups(group_start, first, groups, N, G, [&](const Team& team, int64_t g, const Range& group) {
    const Moments own = team_moments(team, rewards, mask, group.begin, group.end);
    if (team.lane() == 0 && g >= 0) moments[g] = own;
  });
}

struct BatchShared {
  Moments of_warp[kBatchThreads / kWarp];
};

// One block: the variance of the batch. Thread i merges groups i, i + kBatchThreads, ...
// Grid: 1. Block: 512. Shared: 384. Work: 24 bytes per group. Bound: latency.
__global__ void __launch_bounds__(kBatchThreads)
    batch_variance_kernel(const Moments* moments,  // [G]
                          double* variance_out,    // [1]
                          int64_t G, Parameters p) {
  DYN_SMEM(BatchShared, shared);
  Moments batch;
  for (int64_t g = threadIdx.x; g < G; g += kBatchThreads)
    if (moments[g].count > 0) batch = merge(batch, merge(moments[g], p.virtual_rewards));
  batch = merge_lanes(batch);
  if (lane_index() == 0) shared.of_warp[warp_index()] = batch;
  __syncthreads();
  if (warp_index() != 0) return;
  batch = merge_lanes(lane_index() < kBatchThreads / kWarp ? shared.of_warp[lane_index()] : Moments{});
  if (lane_index() == 0) *variance_out = variance(batch, p.ddof);
}

// Two blocks of a multiprocessor: without that number ptxas aims at three, and spills.
// Grid: ceil(G / 8), of small groups ceil(G / 32). Block: 256. Shared: 0. Work: 8 bytes per rollout, 9 with a mask.
// Bound: issue.
__global__ void __launch_bounds__(kThreads, 2)
    group_advantage_kernel(const float* rewards,          // [N]
                           const int32_t* group_start,    // [G+1]
                           const uint8_t* mask,           // [N], may be null
                           const double* batch_variance,  // [1], null unless the scale is the batch's
                           const uint32_t* bad_offsets,   // [1], not 0: some are bad
                           float* advantage,              // [N], may be null
                           float* mean,                   // [G], may be null
                           float* std,                    // [G], may be null
                           Moments* suffix,               // [N], scratch of the leave-one-out options
                           int64_t N, int64_t G, int32_t groups, Parameters p) {  // of a warp
  const bool alone = *bad_offsets == 0;  // no rollout is in two groups, or in none
  if (!alone && advantage != nullptr)
    for (int64_t i = thread_index(); i < N; i += int64_t{gridDim.x} * kThreads) advantage[i] = NAN;
  const bool leaves_out = p.center == kCenterLeaveOneOut || p.scale == kLeaveOneOutStd;
  const int64_t first = (int64_t{blockIdx.x} * kWarps + warp_index()) * groups;
  for_groups(group_start, first, groups, N, G, [&](const Team& team, int64_t g, const Range& group_range) {
    const int64_t begin = group_range.begin, end = group_range.end;
    const Moments real = team_moments(team, rewards, mask, begin, end);
    const Moments group = merge(real, p.virtual_rewards);
    const bool single = real.count == 1, raw = single && p.singleton == kRaw;
    const double center = raw ? 0 : group.mean, spread = raw ? 1 : variance(group, p.ddof);
    const double bad = group_range.good ? 0 : NAN;
    if (team.lane() == 0 && g >= 0) {
      if (mean != nullptr) mean[g] = static_cast<float>((real.count == 0 ? 0 : center) + bad);
      if (std != nullptr) std[g] = static_cast<float>((real.count == 0 ? 0 : sqrt(spread)) + bad);
    }
    if (advantage == nullptr || !alone) return;

    const bool each = !single && leaves_out;
    const int64_t pieces = end - begin <= team.lanes ? 1 : ceil_div(end - begin, kWarp);  // the same in all teams
    const auto one = [&](int64_t i) {
      return i < end && kept(mask, i) ? repeated(rewards[i], 1) : Moments{};
    };
    if (leaves_out) {  // the moments of those after each rollout, from the last piece to the first
      Moments after;
      for (int64_t piece = pieces; piece-- > 0;) {
        const int64_t i = begin + piece * kWarp + team.lane();
        const Moments inclusive = scan_lanes(team, one(i), true);
        const bool last = team.lane() == team.lanes - 1;
        Moments exclusive = from_lane(inclusive, last ? lane_index() : lane_index() + 1);
        if (last) exclusive = Moments{};
        if (i < end) suffix[i] = merge(exclusive, after);
        after = merge(from_lane(inclusive, team.first()), after);
      }
    }
    double divisor = 1;
    if (p.scale == kScaleMean && !raw) divisor = group.mean + p.eps;
    if (p.scale == kGroupStd || p.scale == kBatchStd || p.scale == kLeaveOneOutStd)
      divisor = divisor_of(raw ? 1 : p.scale == kBatchStd ? *batch_variance : spread, p.eps, p.eps_under_root);
    Moments before = p.virtual_rewards;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t i = begin + piece * kWarp + team.lane();
      Moments others;
      if (leaves_out) {
        const Moments inclusive = scan_lanes(team, one(i), false);
        const bool lowest = team.lane() == 0;
        Moments exclusive = from_lane(inclusive, lowest ? lane_index() : lane_index() - 1);
        if (lowest) exclusive = Moments{};
        if (i < end) others = merge(merge(before, exclusive), suffix[i]);
        before = merge(before, from_lane(inclusive, team.first() + team.lanes - 1));
      }
      if (i >= end) continue;
      if (!kept(mask, i) || (single && !raw)) {
        advantage[i] = 0;
        continue;
      }
      const double baseline =
          p.center == kCenterNone ? 0 : each && p.center == kCenterLeaveOneOut ? others.mean : center;
      const double own = each && p.scale == kLeaveOneOutStd
                             ? divisor_of(variance(others, p.ddof), p.eps, p.eps_under_root)
                             : divisor;
      advantage[i] = static_cast<float>((rewards[i] - baseline) / own);
    }
  });
}

using Args = grpo_group_advantage_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t N = axes['N'], G = axes['G'];
  const float* rewards = data<float>(args.rewards);
  const int32_t* group_start = data<int32_t>(args.group_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  if (args.virtual_count > 0 && is_null(args.virtual_reward))
    return fail(GRPO_OPTION, "virtual_reward", "is null, expected the reward of the {virtual_count} virtual rollouts");
  const Parameters p{args.center,
                     args.scale,
                     args.singleton,
                     args.ddof,
                     args.eps,
                     args.eps_under_root != 0,
                     repeated(args.virtual_count > 0 ? args.virtual_reward : 0,
                              static_cast<double>(args.virtual_count))};
  const bool each = p.center == kCenterLeaveOneOut || p.scale == kLeaveOneOutStd;
  Moments* suffix = each ? on.scratch<Moments>(N) : nullptr;
  double* batch_variance = nullptr;
  const int32_t groups = G > 0 && N / G <= 16 ? 4 : 1;
  const int64_t blocks = ceil_div(G, int64_t{kWarps} * groups);
  if (p.scale == kBatchStd && G > 0) {
    Moments* moments = on.scratch<Moments>(G);
    batch_variance = on.scratch<double>(1);
    on(group_moments_kernel, {blocks, kThreads}, rewards, group_start, mask, moments, N, G, groups);
    on(batch_variance_kernel, {1, kBatchThreads, sizeof(BatchShared)}, moments, batch_variance, G, p);
  }
  on(group_advantage_kernel, {G == 0 ? 1 : blocks, kThreads}, rewards, group_start, mask, batch_variance,
     bad_offsets(group_start, G, N, on), data<float>(args.advantage), data<float>(args.mean), data<float>(args.std),
     suffix, N, G, groups, p);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGroupAdvantage, group_advantage);

}  // namespace grpo::cuda
