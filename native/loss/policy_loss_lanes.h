// The body of policy_loss_range.cc, included inside a namespace once per instruction set. Static and inlined as all of
// lanes.h, and for its reason.

#include "loss/lanes.h"

// x * factor where it counts. Not 0 * x: a denominator of 0 gives 0, also where x is NaN.
GRPO_LANES Lanes scaled(LaneMask live, Lanes factor, Lanes x) {
  const Lanes zero = {};
  return live & (factor != zero) ? factor * x : zero;
}

// What differs between sequences, for the tokens of one vector.
struct LaneSequence {
  Lanes advantage, factor, entropy_factor;
};

GRPO_LANES double advantage_of(const LossInputs& in, int64_t s) {
  return in.advantage == nullptr ? 0 : in.advantage[s];
}

GRPO_LANES LaneSequence one_sequence(const LossInputs& in, const Denominators& denominators, int64_t s) {
  return {constant<Lanes>(advantage_of(in, s)), constant<Lanes>(factor_at(denominators.policy, denominators, s)),
          constant<Lanes>(factor_at(denominators.entropy, denominators, s))};
}

// Of the tokens t to t + count - 1, of which the first belongs to sequence s; s becomes that of the last.
GRPO_LANES LaneSequence several_sequences(const LossInputs& in, const Denominators& denominators, int64_t t, int count,
                                          int64_t& s) {
  LaneSequence lanes = {};
  for (int i = 0; i < count; ++i) {
    while (in.sequence_start[s + 1] <= t + i) ++s;
    lanes.advantage[i] = advantage_of(in, s);
    lanes.factor[i] = factor_at(denominators.policy, denominators, s);
    lanes.entropy_factor[i] = factor_at(denominators.entropy, denominators, s);
  }
  return lanes;
}

// Inlined with a surrogate that the compiler knows.
GRPO_LANES void surrogate_loss(const LossInputs& in, const Denominators& denominators, const TokenRange& range,
                               float* grad_logp, float* grad_entropy, RangeSums& sums, const Objective& given,
                               Surrogate surrogate) {
  Objective objective = given;
  objective.surrogate = surrogate;
  // k2 and its derivative are 0 at x = 0 as those of the others are, without an exponential.
  if (in.ref_logp == nullptr) objective.kl = Kl::kK2;
  const bool own_ratio = objective.ratio == Ratio::kToken, geometric = objective.ratio == Ratio::kGeometric;
  const bool cut = geometric || objective.surrogate == Surrogate::kVespo;
  const bool alone = !own_ratio && denominators.count[range.sequence] == 1;
  const bool own_gradient = own_ratio || objective.ratio == Ratio::kSequenceToken;
  const Interval<Lanes> interval = clip_interval<Lanes>(objective);
  const Lanes zero = {}, infinity = constant<Lanes>(INFINITY);

  Lanes total = {}, policy = {}, kl_loss = {}, entropy = {}, ratios = {}, approx_kl = {}, kl = {}, grad_log_ratio = {};
  Lanes ratio_min = infinity, ratio_max = -infinity;
  LaneMask clipped_low = {}, clipped_high = {}, clipped_dual = {}, non_finite = {};
  ImportanceRatio<Lanes> ratio = importance_ratio(objective, constant<Lanes>(own_ratio ? 0 : range.log_ratio));
  int64_t sequence = range.sequence, held = -1;
  LaneSequence of = {};

  for (int64_t t = range.begin; t < range.end; t += kLanes) {
    const int count = range.end - t < kLanes ? static_cast<int>(range.end - t) : kLanes;
    while (in.sequence_start[sequence + 1] <= t) ++sequence;
    if (in.sequence_start[sequence + 1] < t + count) {
      of = several_sequences(in, denominators, t, count, sequence);
      held = -1;
    } else if (held != sequence) {
      of = one_sequence(in, denominators, held = sequence);
    }

    const LaneMask live = live_lanes(in.mask, t, count);
    // What is masked reads as ordinary numbers, with nothing to exponentiate and no advantage.
    const Lanes logp = load(in.logp, t, count, live, 0);
    const Lanes old_logp = in.old_logp == nullptr ? logp : load(in.old_logp, t, count, live, 0);
    const Lanes ref_logp = load(in.ref_logp, t, count, live, 0), entropies = load(in.entropy, t, count, live, 0);
    // Without old log-probabilities 0, but NaN where logp is not finite: that has to show in the loss.
    const Lanes log_ratio = logp - old_logp;
    if (own_ratio && in.old_logp != nullptr) ratio = importance_ratio(objective, log_ratio);
    else if (own_ratio) ratio.value = 1 + log_ratio;

    Token<Lanes> token;
    token.logp = logp;
    token.old_logp = old_logp;
    token.alone = alone;
    token.advantage = in.token_advantage != nullptr ? load(in.token_advantage, t, count, live, 0)
                                                    : live ? of.advantage : zero;
    token.weight = load(in.weight, t, count, live, 1);
    token.ratio = ratio;
    Interval<Lanes> bounds = interval;
    if (in.ratio_low != nullptr) bounds.low = load(in.ratio_low, t, count, live, 0);
    if (in.ratio_high != nullptr) bounds.high = load(in.ratio_high, t, count, live, 0);
    token.interval = bounds;
    if (in.ratio_low != nullptr || in.ratio_high != nullptr) token.interval = given_interval(bounds.low, bounds.high);
    if (geometric) token.interval = {-infinity, infinity};
    token.ref_log_ratio = in.ref_logp == nullptr ? zero : logp - ref_logp;
    const TokenLoss<Lanes> loss = token_loss(objective, token);

    const Lanes term = loss.policy + loss.kl_loss;
    const Lanes added = scaled(live, of.factor, term);
    Lanes bonus = zero;
    if (objective.entropy_coef != 0) bonus = scaled(live, of.entropy_factor, entropies * objective.entropy_coef);
    total += added;
    total -= bonus;
    policy += live ? loss.policy : zero;
    kl_loss += live ? loss.kl_loss : zero;
    entropy += entropies;
    ratios += live ? ratio.value : zero;
    ratio_min = live & (ratio.value < ratio_min) ? ratio.value : ratio_min;
    ratio_max = live & (ratio.value > ratio_max) ? ratio.value : ratio_max;
    approx_kl -= log_ratio;
    kl += live ? loss.kl : zero;
    grad_log_ratio += live ? loss.grad_log_ratio : zero;
    const Clipping<Lanes> clip = clipping(objective, token, geometric ? log_ratio : ratio.value, bounds);
    clipped_low += clip.low, clipped_high += clip.high, clipped_dual += clip.dual;
    // A sum of floats is finite in double exactly where all of them are.
    const Lanes read = logp + old_logp + ref_logp + entropies + token.advantage + token.weight;
    const Lanes derivative = scaled(live, of.factor, loss.grad_logp + loss.grad_log_ratio);
    const Lanes by_entropy = 0 - objective.entropy_coef * of.entropy_factor;
    non_finite += live & ((read - read != 0) | (bounds.low != bounds.low) | (bounds.high != bounds.high) |
                          ~(float32_holds(term) & float32_holds(added - bonus) & float32_holds(derivative) &
                            float32_holds(by_entropy)));

    if (grad_logp != nullptr) {
      Lanes through_ratio = own_gradient ? loss.grad_log_ratio : constant<Lanes>(range.sequence_gradient);
      if (cut) {
        const Lanes kept = summed_log_ratio(objective, log_ratio, token.advantage, bounds);
        through_ratio = (kept == log_ratio) | (log_ratio != log_ratio) ? through_ratio : zero;  // NaN is not cut
      }
      const Lanes gradient = objective.grad_scale * scaled(live, of.factor, loss.grad_logp + through_ratio);
      store(grad_logp, t, count, gradient + 0);  // + 0: no -0
    }
    if (grad_entropy != nullptr)
      store(grad_entropy, t, count, live ? objective.grad_scale * by_entropy : zero);
  }

  double* stats = sums.stats;
  stats[kStatTokens] = stats[kStatSequences] = stats[kStatBadIndex] = 0;
  stats[kStatPolicy] = sum_of(policy);
  stats[kStatKlLoss] = sum_of(kl_loss);
  stats[kStatEntropy] = sum_of(entropy);
  stats[kStatClippedLow] = count_of(clipped_low);
  stats[kStatClippedHigh] = count_of(clipped_high);
  stats[kStatDualClipped] = count_of(clipped_dual);
  stats[kStatRatio] = sum_of(ratios);
  stats[kStatApproxKl] = sum_of(approx_kl);
  stats[kStatKl] = sum_of(kl);
  stats[kStatNonFinite] = count_of(non_finite);
  stats[kStatRatioMin] = INFINITY, stats[kStatRatioMax] = -INFINITY;
  for (int i = 0; i < kLanes; ++i) {
    if (ratio_min[i] < stats[kStatRatioMin]) stats[kStatRatioMin] = ratio_min[i];
    if (ratio_max[i] > stats[kStatRatioMax]) stats[kStatRatioMax] = ratio_max[i];
  }
  sums.loss = sum_of(total);
  sums.grad_log_ratio = sum_of(grad_log_ratio);
}

// A function per surrogate: in one loop with all of them the plain clip takes a fifth longer.
#define GRPO_SURROGATE_LOSS(name, surrogate)                                                                  \
  static void name(const LossInputs& in, const Denominators& denominators, const TokenRange& range,           \
                   float* grad_logp, float* grad_entropy, RangeSums& sums, const Objective& objective) {      \
    surrogate_loss(in, denominators, range, grad_logp, grad_entropy, sums, objective, Surrogate::surrogate);  \
  }
GRPO_SURROGATE_LOSS(clip_loss, kClip)
GRPO_SURROGATE_LOSS(cispo_loss, kCispo)
GRPO_SURROGATE_LOSS(sapo_loss, kSapo)
GRPO_SURROGATE_LOSS(reinforce_loss, kReinforce)
GRPO_SURROGATE_LOSS(vespo_loss, kVespo)
GRPO_SURROGATE_LOSS(dro_loss, kDro)
GRPO_SURROGATE_LOSS(dppo_tv_loss, kDppoTv)
GRPO_SURROGATE_LOSS(dppo_kl_loss, kDppoKl)
#undef GRPO_SURROGATE_LOSS

// In the order of the enum.
static constexpr RangeLoss kSurrogateLosses[] = {clip_loss,  cispo_loss, sapo_loss,    reinforce_loss,
                                                 vespo_loss, dro_loss,   dppo_tv_loss, dppo_kl_loss};
