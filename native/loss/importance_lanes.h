// The body of importance_range.cc, included inside a namespace once per instruction set. Static and inlined as all of
// lanes.h, and for its reason.

#include "loss/lanes.h"

// In float32, as the tokens of a column are: oldLogp - rolloutLogp, rounded once; 0 where masked.
GRPO_LANES Lanes log_ratios(const ImportanceInputs& in, int64_t t, int count, LaneMask live) {
  const HalfLanes d = load_half(in.old_logp, t, count) - load_half(in.rollout_logp, t, count);
  return live ? __builtin_convertvector(d, Lanes) : constant<Lanes>(0);
}

GRPO_LANES void weights_of(const ImportanceInputs& in, const ImportanceRange& range, float* weight, double* stats,
                           const ImportanceOptions& o, bool token_ratio) {
  const bool own = o.level == ImportanceLevel::kToken, gate = o.gate == ImportanceLevel::kToken;
  const Lanes zero = {}, infinity = constant<Lanes>(INFINITY);
  const LaneMask none = {}, closed = range.gated ? none - 1 : none;
  Lanes tokens = {}, differences = {}, largest = {}, kl = {}, ratios = {}, total = {}, squares = {};
  Lanes least = infinity, most = -infinity;
  LaneMask cut_low = {}, cut_high = {}, left_out = {}, non_finite = {};
  Lanes ratio = constant<Lanes>(range.ratio);
  for (int64_t t = range.begin; t < range.end; t += kLanes) {
    const int count = range.end - t < kLanes ? static_cast<int>(range.end - t) : kLanes;
    const LaneMask live = live_lanes(in.mask, t, count);
    const Lanes d = log_ratios(in, t, count, live);
    Lanes of_token = {};
    if (token_ratio) of_token = importance_ratio_of(d);
    if (own) ratio = of_token;
    const LaneMask gated = live & (gate ? importance_gated(of_token, o) : closed);
    const ImportanceCut<Lanes> cut = importance_cut(ratio, o);
    const HalfLanes rounded = __builtin_convertvector(live & ~gated ? cut.weight : zero, HalfLanes);
    if (weight != nullptr) store_half(weight, t, count, rounded);
    const Lanes w = __builtin_convertvector(rounded, Lanes), distance = d < 0 ? -d : d;
    tokens += live ? constant<Lanes>(1) : zero;
    differences += distance;
    largest = distance > largest ? distance : largest;
    kl -= d;
    ratios += live ? ratio : zero;
    least = live & (ratio < least) ? ratio : least;
    most = live & (ratio > most) ? ratio : most;
    total += w;
    squares += w * w;
    cut_low += live & ~gated & cut.low, cut_high += live & ~gated & cut.high, left_out += gated;
    non_finite += live & ((d - d != 0) | (w - w != 0));
  }
  stats[kImportanceTokens] = sum_of(tokens);
  stats[kLogpDifference] = sum_of(differences);
  stats[kEngineKl] = sum_of(kl);
  stats[kImportanceRatio] = sum_of(ratios);
  stats[kWeight] = sum_of(total);
  stats[kWeightSquare] = sum_of(squares);
  stats[kCutLow] = count_of(cut_low);
  stats[kCutHigh] = count_of(cut_high);
  stats[kGated] = count_of(left_out);
  stats[kRejected] = 0;
  stats[kImportanceNonFinite] = count_of(non_finite);
  stats[kLogpDifferenceMax] = 0, stats[kImportanceRatioMin] = INFINITY, stats[kImportanceRatioMax] = -INFINITY;
  for (int i = 0; i < kLanes; ++i) {
    if (largest[i] > stats[kLogpDifferenceMax]) stats[kLogpDifferenceMax] = largest[i];
    if (least[i] < stats[kImportanceRatioMin]) stats[kImportanceRatioMin] = least[i];
    if (most[i] > stats[kImportanceRatioMax]) stats[kImportanceRatioMax] = most[i];
  }
}

// Without the exponential of each token where no ratio of a token is asked for.
static void importance_weights(const ImportanceInputs& in, const ImportanceRange& range, float* weight, double* stats,
                               const ImportanceOptions& o) {
  if (o.level == ImportanceLevel::kToken || o.gate == ImportanceLevel::kToken) weights_of(in, range, weight, stats, o, true);
  else weights_of(in, range, weight, stats, o, false);
}

static void importance_estimates(const ImportanceInputs& in, int64_t begin, int64_t n, Estimate estimate, float* x) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const HalfLanes d = load_half(in.old_logp, begin + i, count) - load_half(in.rollout_logp, begin + i, count);
    store(x, i, count, divergence(estimate, __builtin_convertvector(d, Lanes)));
  }
}

static constexpr ImportanceLanes kImportanceLanes = {importance_weights, importance_estimates};
