// Advantage of each rollout relative to the others for its prompt.
//
// One warp per group, whatever its size: lane l takes rollouts l, l + 32, ... of the group. The rewards are read twice
// (the second time from cache) and written once: 8 bytes per rollout, 9 with a mask. Statistics are float64 in two
// passes, combined over the lanes in a fixed order. The batch's variance takes two launches more: one moment per group,
// then one block that merges them in order. A launch before looks at the offsets: where one of them is bad, groups may
// meet, and all advantages are NaN; mean and std are so where the group's own offsets are bad.
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

// Of the unmasked x[begin, end), by one warp. Values that are all equal have exactly that mean and m2 = 0.
__device__ Moments warp_moments(const float* x, const uint8_t* mask, int64_t begin, int64_t end) {
  double sum = 0, count = 0;
  float low = INFINITY, high = -INFINITY;
  bool nan = false;
  for (int64_t i = begin + lane_index(); i < end; i += kWarp) {
    if (!kept(mask, i)) continue;
    const float value = x[i];
    sum += value;
    ++count;
    low = fminf(low, value);
    high = fmaxf(high, value);
    nan |= isnan(value);
  }
  sum = warp_reduce(sum, Add{});
  count = warp_reduce(count, Add{});
  low = warp_reduce(low, [](float a, float b) { return fminf(a, b); });
  high = warp_reduce(high, [](float a, float b) { return fmaxf(a, b); });
  nan = __any_sync(kAllLanes, nan);
  if (count == 0) return {};
  if (!nan && low == high) return repeated(low, count);
  const double mean = sum / count;
  double squares = 0;
  for (int64_t i = begin + lane_index(); i < end; i += kWarp) {
    if (!kept(mask, i)) continue;
    const double distance = x[i] - mean;
    squares += distance * distance;
  }
  return {count, mean, warp_reduce(squares, Add{})};
}

// The others of rollout i: the group's moments before it and after it, merged. The lanes hold one rollout each;
// `before` and `after` come in from the pieces of 32 on either side.
__device__ Moments scan_lanes(Moments own, bool from_the_right) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int from = from_the_right ? lane_index() + distance : lane_index() - distance;
    const int source = from < 0 || from >= kWarp ? lane_index() : from;
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

// Grid: ceil(G / 8). Block: 256. Shared: 0. Work: 4 bytes per rollout, 5 with a mask, twice; 24 per group. Bound:
// issue.
__global__ void __launch_bounds__(kThreads)
    group_moments_kernel(const float* rewards,        // [N]
                         const int32_t* group_start,  // [G+1]
                         const uint8_t* mask,         // [N], may be null
                         Moments* moments,            // [G], of the unmasked rewards
                         int64_t N, int64_t G) {
  const int64_t g = int64_t{blockIdx.x} * kWarps + warp_index();
  if (g >= G) return;
  const Range group = range_of(group_start, g, N);
  const Moments own = warp_moments(rewards, mask, group.begin, group.end);
  if (lane_index() == 0) moments[g] = own;
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
// Grid: ceil(G / 8). Block: 256. Shared: 0. Work: 8 bytes per rollout, 9 with a mask. Bound: issue.
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
                           int64_t N, int64_t G, Parameters p) {
  const bool alone = *bad_offsets == 0;  // no rollout is in two groups, or in none
  if (!alone && advantage != nullptr)
    for (int64_t i = thread_index(); i < N; i += int64_t{gridDim.x} * kThreads) advantage[i] = NAN;
  const int64_t g = int64_t{blockIdx.x} * kWarps + warp_index();
  if (g >= G) return;
  const Range group_range = range_of(group_start, g, N);
  const int64_t begin = group_range.begin, end = group_range.end;
  const Moments real = warp_moments(rewards, mask, begin, end);
  const Moments group = merge(real, p.virtual_rewards);
  const bool single = real.count == 1, raw = single && p.singleton == kRaw;
  const double center = raw ? 0 : group.mean, spread = raw ? 1 : variance(group, p.ddof);
  const double bad = group_range.good ? 0 : NAN;
  if (lane_index() == 0) {
    if (mean != nullptr) mean[g] = static_cast<float>((real.count == 0 ? 0 : center) + bad);
    if (std != nullptr) std[g] = static_cast<float>((real.count == 0 ? 0 : sqrt(spread)) + bad);
  }
  if (advantage == nullptr || !alone) return;

  const bool each = !single && (p.center == kCenterLeaveOneOut || p.scale == kLeaveOneOutStd);
  const int64_t pieces = ceil_div(end - begin, kWarp);
  const auto one = [&](int64_t i) {
    return i < end && kept(mask, i) ? repeated(rewards[i], 1) : Moments{};
  };
  if (each) {  // the moments of those after each rollout, from the last piece to the first
    Moments after;
    for (int64_t piece = pieces; piece-- > 0;) {
      const int64_t i = begin + piece * kWarp + lane_index();
      const Moments inclusive = scan_lanes(one(i), true);
      const int next = lane_index() + 1 < kWarp ? lane_index() + 1 : lane_index();
      Moments exclusive = from_lane(inclusive, next);
      if (next == lane_index()) exclusive = Moments{};
      if (i < end) suffix[i] = merge(exclusive, after);
      after = merge(from_lane(inclusive, 0), after);
    }
  }
  Moments before = p.virtual_rewards;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t i = begin + piece * kWarp + lane_index();
    Moments others;
    if (each) {
      const Moments inclusive = scan_lanes(one(i), false);
      const int previous = lane_index() > 0 ? lane_index() - 1 : 0;
      Moments exclusive = from_lane(inclusive, previous);
      if (lane_index() == 0) exclusive = Moments{};
      if (i < end) others = merge(merge(before, exclusive), suffix[i]);
      before = merge(before, from_lane(inclusive, kWarp - 1));
    }
    if (i >= end) continue;
    if (!kept(mask, i) || (single && !raw)) {
      advantage[i] = 0;
      continue;
    }
    const double baseline = p.center == kCenterNone ? 0 : each && p.center == kCenterLeaveOneOut ? others.mean : center;
    double divisor = 1;
    if (p.scale == kScaleMean) {
      divisor = raw ? 1 : group.mean + p.eps;
    } else if (p.scale != kScaleNone) {
      const double v = raw                                  ? 1
                       : p.scale == kBatchStd               ? *batch_variance
                       : each && p.scale == kLeaveOneOutStd ? variance(others, p.ddof)
                                                            : spread;
      divisor = divisor_of(v, p.eps, p.eps_under_root);
    }
    advantage[i] = static_cast<float>((rewards[i] - baseline) / divisor);
  }
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
  if (p.scale == kBatchStd && G > 0) {
    Moments* moments = on.scratch<Moments>(G);
    batch_variance = on.scratch<double>(1);
    on(group_moments_kernel, {ceil_div(G, kWarps), kThreads}, rewards, group_start, mask, moments, N, G);
    on(batch_variance_kernel, {1, kBatchThreads, sizeof(BatchShared)}, moments, batch_variance, G, p);
  }
  on(group_advantage_kernel, {G == 0 ? 1 : ceil_div(G, kWarps), kThreads}, rewards, group_start, mask, batch_variance,
     bad_offsets(group_start, G, N, on), data<float>(args.advantage), data<float>(args.mean), data<float>(args.std),
     suffix, N, G, p);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGroupAdvantage, group_advantage);

}  // namespace grpo::cuda
