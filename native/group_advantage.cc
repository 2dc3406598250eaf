// Advantage of each rollout relative to the others for its prompt. One task per group: its rewards are read twice, the
// second time from cache, and written once; 8 bytes per rollout.
#include "formulas/moments.h"
#include "interface/operation.h"

#include <vector>

namespace grpo {
namespace {

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

// The moments of the others of each rollout, from those before it and those after it: O(n), and without the
// cancellation of subtracting one value from the whole when that value is an outlier.
void leave_one_out(const float* rewards,           // [n]
                   const uint8_t* mask,            // [n], may be null
                   const Moments& virtual_rewards,
                   Moments* others,                // [n]
                   int64_t n) {
  const auto one = [&](int64_t i) { return repeated(rewards[i], mask == nullptr || mask[i] != 0 ? 1 : 0); };
  Moments before = virtual_rewards;
  for (int64_t i = 0; i < n; ++i) {
    others[i] = before;
    before = merge(before, one(i));
  }
  Moments after;
  for (int64_t i = n; i-- > 0;) {
    others[i] = merge(others[i], after);
    after = merge(after, one(i));
  }
}

void group_advantage(const float* rewards,     // [n], of one group
                     const uint8_t* mask,      // [n], may be null
                     const Moments& real,      // of the unmasked rewards
                     double batch_variance,
                     float* advantage,         // [n], may be null
                     float* mean,              // [1], may be null
                     float* std,               // [1], may be null
                     Moments* others,          // [n], scratch for the leave-one-out options
                     int64_t n, const Parameters& p) {
  const Moments group = merge(real, p.virtual_rewards);
  const bool single = real.count == 1, raw = single && p.singleton == kRaw;
  const double center = raw ? 0 : group.mean, spread = raw ? 1 : variance(group, p.ddof);
  if (mean != nullptr) *mean = static_cast<float>(real.count == 0 ? 0 : center);
  if (std != nullptr) *std = static_cast<float>(real.count == 0 ? 0 : std::sqrt(spread));
  if (advantage == nullptr) return;

  const bool each = !single && (p.center == kCenterLeaveOneOut || p.scale == kLeaveOneOutStd);
  if (each) leave_one_out(rewards, mask, p.virtual_rewards, others, n);
  for (int64_t i = 0; i < n; ++i) {
    if ((mask != nullptr && mask[i] == 0) || (single && !raw)) {
      advantage[i] = 0;
      continue;
    }
    const bool by_others = each && p.center == kCenterLeaveOneOut;
    const double baseline = p.center == kCenterNone ? 0 : by_others ? others[i].mean : center;
    double divisor = 1;
    if (p.scale == kScaleMean) {
      divisor = raw ? 1 : group.mean + p.eps;
    } else if (p.scale != kScaleNone) {
      const double v = raw                               ? 1
                       : p.scale == kBatchStd            ? batch_variance
                       : each && p.scale == kLeaveOneOutStd ? variance(others[i], p.ddof)
                                                         : spread;
      divisor = divisor_of(v, p.eps, p.eps_under_root);
    }
    advantage[i] = static_cast<float>((rewards[i] - baseline) / divisor);
  }
}

using Args = grpo_group_advantage_args;

int run(const Args& args, const Axes& axes) {
  const int64_t groups = axes['G'];
  const float* rewards = data<float>(args.rewards);
  const int32_t* start = data<int32_t>(args.group_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float *advantage = data<float>(args.advantage), *mean = data<float>(args.mean), *std = data<float>(args.std);
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

  int64_t longest = 0;
  for (int64_t g = 0; g < groups; ++g) longest = std::max<int64_t>(longest, start[g + 1] - start[g]);
  const bool each = p.center == kCenterLeaveOneOut || p.scale == kLeaveOneOutStd;
  Scratch<Moments> others(each ? longest * thread_count() : 0);
  const auto real = [&](int64_t g) {
    return moments_of(rewards + start[g], mask == nullptr ? nullptr : mask + start[g], start[g + 1] - start[g]);
  };

  double batch_variance = 0;
  if (p.scale == kBatchStd) {
    Scratch<Moments> of_group(groups);
    parallel_for(groups, 1024, [&](int64_t begin, int64_t end, int) {
      for (int64_t g = begin; g < end; ++g) of_group[g] = real(g);
    });
    Moments batch;
    for (int64_t g = 0; g < groups; ++g)
      if (of_group[g].count > 0) batch = merge(batch, merge(of_group[g], p.virtual_rewards));
    batch_variance = variance(batch, p.ddof);
  }

  parallel_for(groups, 1024, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = start[g];
      group_advantage(rewards + first, mask == nullptr ? nullptr : mask + first, real(g), batch_variance,
                      advantage == nullptr ? nullptr : advantage + first, mean == nullptr ? nullptr : mean + g,
                      std == nullptr ? nullptr : std + g, each ? &others[worker * longest] : nullptr,
                      start[g + 1] - first, p);
    }
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(rewards, "f32[N]"),
    GRPO_IN(group_start, "i32[G+1] offsets N"),
    GRPO_IN(mask, "u8[N] ?"),
    GRPO_OUT(advantage, "f32[N]"),
    GRPO_OUT(mean, "f32[G]"),
    GRPO_OUT(std, "f32[G]"),
    GRPO_OPT(center, "enum mean|leave_one_out|none"),
    GRPO_OPT(scale, "enum group_std|batch_std|leave_one_out_std|mean|none"),
    GRPO_OPT(ddof, "integer = 1 0..1"),
    GRPO_OPT(eps, "number = 0.0001 >= 0"),
    GRPO_OPT(eps_under_root, "boolean = false"),
    GRPO_OPT(virtual_count, "integer = 0 >= 0"),
    GRPO_OPT(virtual_reward, "number? = null f32"),
    GRPO_OPT(singleton, "enum zero|raw"),
};

}  // namespace

GRPO_OPERATION(kGroupAdvantage, group_advantage, kFields);

}  // namespace grpo
