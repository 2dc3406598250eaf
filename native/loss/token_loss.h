// What one token adds to the loss: the one place where the formulas of policy_loss, policy_loss_from_logits and
// linear_policy_loss stand. `Real` is double, or a vector of doubles with one token per lane; hence selections instead
// of branches, & and | instead of && and ||.
//
// A token's term has two derivatives: one with respect to its own logp while every importance ratio is held fixed
// (cispo, reinforce, the KL), and one with respect to the logarithm of the ratio it was multiplied by. Which logp the
// second one flows to is the business of whoever formed the ratio: the token's own, or all of its sequence.
//
// Included inside a namespace, once per instruction set (see policy_loss_range.cc), after objective.h, <cmath>,
// <cstdint> and <type_traits>.

#include "formulas/elementary.h"

// ---- bounds: a bound that is NaN does not bind, a value that is NaN stays NaN ---------------------------------------

// Whether a bound above 0 is a number. Asked of its upper bits: most bounds of most objectives are null, and a GPU has
// few float64 comparisons to spare.
GRPO_FORMULA bool binds(double bound) { return __builtin_bit_cast(uint64_t, bound) >> 32 < 0x7ff00000; }

template <class Real>
GRPO_FORMULA Mask<Real> outside(Real x, double bound) {
  if (!binds(bound)) return Mask<Real>{};
  return (x > constant<Real>(bound)) | (x < constant<Real>(-bound));
}

template <class Real>
GRPO_FORMULA Real clamped(Real x, double bound) {
  if (!binds(bound)) return x;
  const Real high = constant<Real>(bound), low = constant<Real>(-bound);
  return x > high ? high : x < low ? low : x;
}

// The smaller and the larger of two: NaN if one of them is, which fmin and fmax would hide.
template <class Real>
GRPO_FORMULA Real smaller(Real x, Real y) {
  return (y < x) | (y != y) ? y : x;
}
template <class Real>
GRPO_FORMULA Real larger(Real x, Real y) {
  return (y > x) | (y != y) ? y : x;
}

// VESPO's log-ratios: those of the tokens within +-20, their sum from log 1e-8 to 20.
constexpr double kVespoLogRatio = 20, kVespoLowest = -18.420680743952367;

// Where the ratio may lie (for the geometric ratio: each log-ratio). No bound on a side is an infinite one, so that
// a NaN among the bounds that a caller gives per token shows in the loss.
template <class Real>
struct Interval {
  Real low, high;
};

template <class Real>
GRPO_FORMULA Interval<Real> clip_interval(const Objective& objective) {
  const double center = objective.ratio == Ratio::kGeometric ? 0 : 1;
  const bool no_low = objective.clip_low != objective.clip_low, no_high = objective.clip_high != objective.clip_high;
  return {constant<Real>(no_low ? -INFINITY : center - objective.clip_low),
          constant<Real>(no_high ? INFINITY : center + objective.clip_high)};
}

// Bounds that a caller gives per token, one or both. Where they cross, the upper one decides, and a NaN is both.
template <class Real>
GRPO_FORMULA Interval<Real> given_interval(Real low, Real high) {
  return {smaller(low, high), low == low ? high : low};
}

// GMPO clips each log-ratio before the average, on the side where the advantage would push it further; the clipped
// surrogate is then that of an unbounded ratio.
template <class Real>
GRPO_FORMULA Real geometric_log_ratio(Real log_ratio, Real advantage, Interval<Real> interval) {
  const Real below = smaller(log_ratio, interval.high), above = larger(log_ratio, interval.low);
  return advantage > 0 ? below : above;
}

// A token's log-ratio as it enters the ratio of its sequence.
template <class Real>
GRPO_FORMULA Real summed_log_ratio(const Objective& objective, Real log_ratio, Real advantage,
                                   Interval<Real> interval) {
  if (objective.ratio == Ratio::kGeometric) return geometric_log_ratio(log_ratio, advantage, interval);
  return objective.surrogate == Surrogate::kVespo ? clamped(log_ratio, kVespoLogRatio) : log_ratio;
}

// ---- one unmasked token ---------------------------------------------------------------------------------------------

// Of a token, or of its sequence.
template <class Real>
struct ImportanceRatio {
  Real log;  // clamped
  Real value;
  Mask<Real> fixed;  // the log-ratio lies outside a clamp: no gradient flows through it
};

// Of a token alone: what VESPO bounds besides is the product of a sequence.
template <class Real>
GRPO_FORMULA ImportanceRatio<Real> token_ratio(const Objective& objective, Real log_ratio) {
  const Real log = clamped(log_ratio, objective.log_ratio_clamp);
  return {log, exponential(log), outside(log_ratio, objective.log_ratio_clamp)};
}

template <class Real>
GRPO_FORMULA ImportanceRatio<Real> importance_ratio(const Objective& objective, Real log_ratio) {
  Real log = clamped(log_ratio, objective.log_ratio_clamp);
  Mask<Real> fixed = outside(log_ratio, objective.log_ratio_clamp);
  if (objective.surrogate == Surrogate::kVespo) {
    const Real low = constant<Real>(kVespoLowest), high = constant<Real>(kVespoLogRatio);
    fixed |= (log < low) | (log > high);
    log = log < low ? low : log > high ? high : log;
  }
  return {log, exponential(log), fixed};
}

template <class Real>
struct Token {
  Real logp, old_logp;  // old_logp is logp without one
  bool alone;           // in its sequence, whose ratio is then its own; does not matter to ratios of tokens
  Real advantage;
  Real weight;
  ImportanceRatio<Real> ratio;
  Interval<Real> interval;  // infinite for the geometric ratio
  Real ref_log_ratio;       // logp - refLogp; 0 without a reference
};

// ---- clipping -------------------------------------------------------------------------------------------------------

// What the statistics call clipped, and what DPPO drops: the token left its interval on the side where the advantage
// would push it further.
template <class Real>
struct Clipping {
  Mask<Real> low, high, dual;
};

// A log-probability that rounding left above 0 counts as 0.
template <class Real>
GRPO_FORMULA Real probability(Real logp) {
  const Real p = exponential(logp), one = constant<Real>(1);
  return p > one ? one : p;
}

// The KL of the two outcomes "this token" and "another one", before and now.
template <class Real>
GRPO_FORMULA Real binary_kl(Real logp, Real p, Real old_logp, Real old_p) {
  const Real own = old_p * (old_logp - logp), zero = constant<Real>(0);
  const Real others = (1 - old_p) * logarithm((1 - old_p + 1e-8) / (1 - p + 1e-8));
  return (old_p == 0 ? zero : own) + others;
}

// DPPO's trust region is one of probabilities: of their difference, or of the KL on the side to which they moved.
template <class Real>
GRPO_FORMULA Clipping<Real> outside_region(const Objective& objective, const Token<Real>& token) {
  const Real p = probability(token.logp), old_p = probability(token.old_logp);
  const Real low = constant<Real>(objective.clip_low), high = constant<Real>(objective.clip_high);
  Clipping<Real> clip = {};
  if (objective.surrogate == Surrogate::kDppoTv) {
    clip.low = p - old_p < -low, clip.high = p - old_p > high;
  } else {
    const Real kl = binary_kl(token.logp, p, token.old_logp, old_p);
    clip.low = (kl > low) & (p < old_p), clip.high = (kl > high) & (p > old_p);
  }
  clip.low &= token.advantage < 0, clip.high &= token.advantage > 0;
  return clip;
}

// x and its interval: of the ratio, or of a log-ratio of the geometric one.
template <class Real>
GRPO_FORMULA Clipping<Real> clipping(const Objective& objective, const Token<Real>& token, Real x,
                                     Interval<Real> interval) {
  Clipping<Real> clip = {};
  switch (objective.surrogate) {
    case Surrogate::kClip:
    case Surrogate::kCispo:
      clip.low = (token.advantage < 0) & (x < interval.low);
      clip.high = (token.advantage > 0) & (x > interval.high);
      if (binds(objective.dual_clip)) clip.dual = (token.advantage < 0) & (x > constant<Real>(objective.dual_clip));
      return clip;
    case Surrogate::kDppoTv:
    case Surrogate::kDppoKl: return outside_region(objective, token);
    default: return clip;
  }
}

// ---- the surrogate --------------------------------------------------------------------------------------------------

template <class Real>
struct Term {
  Real value;
  Real grad_logp;  // with every ratio held fixed
  Real grad_log_ratio;
};

// -min(ratio A, clip(ratio) A), and for A < 0 at most -c A with a dual clip: each sign of A knows one bound. Where both
// sides of a minimum are equal the ratio counts as unclipped: the gradient is kept at ties. A bound that is NaN is not
// passed, and is the value.
template <class Real>
GRPO_FORMULA Term<Real> clip_term(const Objective& objective, Real advantage, Real ratio, Interval<Real> interval) {
  const Mask<Real> gains = advantage > 0, loses = advantage < 0;
  const Real zero = constant<Real>(0), bound = gains ? interval.high : interval.low;
  Mask<Real> passed = (gains & (ratio > interval.high)) | (loses & (ratio < interval.low));
  Real bounded = passed | ((gains | loses) & (bound != bound)) ? bound : ratio;
  if (binds(objective.dual_clip)) {
    const Real dual = constant<Real>(objective.dual_clip);
    const Mask<Real> beyond = loses & (bounded > dual);
    bounded = beyond ? dual : bounded;
    passed = beyond ? bounded != ratio : passed;
  }
  const Real value = -advantage * bounded;
  return {value, zero, passed & (value == value) ? zero : value};
}

template <class Real>
GRPO_FORMULA Term<Real> cispo_term(Real logp, Real advantage, Real ratio, Interval<Real> interval) {
  const Real gradient = -advantage * smaller(larger(ratio, interval.low), interval.high);
  return {gradient * logp, gradient, constant<Real>(0)};
}

// -A 4/tau sigmoid(tau (ratio - 1)), derivative -A ratio 4 sigmoid (1 - sigmoid). The exponential of a negative
// number keeps the second factor's digits where the sigmoid is close to 1, and is finite for any ratio.
template <class Real>
GRPO_FORMULA Term<Real> sapo_term(const Objective& objective, Real advantage, Real ratio) {
  const Real zero = constant<Real>(0), one = constant<Real>(1);
  const Real tau = advantage > 0 ? constant<Real>(objective.tau_positive) : constant<Real>(objective.tau_negative);
  const Real x = tau * (ratio - 1);
  const Real small = exponential(x > 0 ? -x : x), sum = 1 + small;
  const Real sigmoid = (x > 0 ? one : small) / sum;
  // An infinite ratio has gradient 0, the limit, and not 0 * infinity.
  const Real gate = small == 0 ? zero : 4 * small / (sum * sum) * ratio;
  return {-advantage * 4 / tau * sigmoid, zero, -advantage * gate};
}

// -phi A logp, phi = W^power exp(decay (1 - W)) held fixed, W the clamped product of ratios. A phi that is NaN or
// infinite counts as 0.
template <class Real>
GRPO_FORMULA Term<Real> vespo_term(const Objective& objective, const Token<Real>& token) {
  const Mask<Real> positive = token.advantage >= 0;
  const Real zero = constant<Real>(0);
  const Real power = positive ? constant<Real>(objective.power_positive) : constant<Real>(objective.power_negative);
  const Real decay = positive ? constant<Real>(objective.decay_positive) : constant<Real>(objective.decay_negative);
  const Real phi = exponential(decay + power * token.ratio.log - decay * token.ratio.value);
  const Real gradient = -(phi - phi == 0 ? phi : zero) * token.advantage;
  return {gradient * token.logp, gradient, zero};
}

// -A logp + beta/2 d^2 with d = logp - oldLogp, of which an advantage of 0 removes the first part alone.
template <class Real>
GRPO_FORMULA Term<Real> dro_term(const Objective& objective, const Token<Real>& token) {
  const Real zero = constant<Real>(0), d = token.logp - token.old_logp, pull = objective.dro_beta * d;
  const Real reward = token.advantage * token.logp;
  return {pull * d / 2 - (token.advantage == 0 ? zero : reward), pull - token.advantage, zero};
}

// -A min(ratio, cap) logp with the ratio held fixed, and nothing outside the trust region. clipping() asks for that
// too; where the surrogate is a constant the compiler forms it once.
template <class Real>
GRPO_FORMULA Term<Real> dppo_term(const Objective& objective, const Token<Real>& token) {
  const Real zero = constant<Real>(0), cap = constant<Real>(objective.ratio_cap);
  const Real gradient = -token.advantage * (token.ratio.value > cap ? cap : token.ratio.value);
  const Clipping<Real> clip = outside_region(objective, token);
  const Mask<Real> dropped = clip.low | clip.high;
  const Real value = gradient * token.logp;
  return {dropped ? zero : value, dropped ? zero : gradient, zero};
}

template <class Real>
GRPO_FORMULA Term<Real> surrogate_term(const Objective& objective, const Token<Real>& token) {
  const Real advantage = token.advantage, ratio = token.ratio.value;
  switch (objective.surrogate) {
    case Surrogate::kClip: return clip_term(objective, advantage, ratio, token.interval);
    case Surrogate::kCispo: return cispo_term(token.logp, advantage, ratio, token.interval);
    case Surrogate::kSapo: return sapo_term(objective, advantage, ratio);
    case Surrogate::kVespo: return vespo_term(objective, token);
    case Surrogate::kDro: return dro_term(objective, token);
    case Surrogate::kDppoTv:
    case Surrogate::kDppoKl: return dppo_term(objective, token);
    default: return {-advantage * token.logp, -advantage, constant<Real>(0)};
  }
}

// ---- the KL to the reference ----------------------------------------------------------------------------------------

template <class Real>
struct KlEstimate {
  Real value;
  Real gradient;
  Mask<Real> clamped;  // by klClamp or klValueClamp
};

// exp(-y) - 1 + y and 1 - exp(-y), of which the tail of the exponential keeps the digits that a small y would lose.
template <class Real>
GRPO_FORMULA KlEstimate<Real> k3_estimate(Real y) {
  const Reduced<Real> e = reduce_exponent(-y);
  const Real beyond = exponential_of(e, -y) - 1, near = e.r + e.tail;  // exp(-y) - 1
  return {e.k == 0 ? e.tail : beyond + y, e.k == 0 ? -near : 0 - beyond, y != y};
}

// Of x = logp - refLogp.
template <class Real>
GRPO_FORMULA KlEstimate<Real> kl_estimate(const Objective& objective, Real x) {
  const Real y = clamped(x, objective.kl_clamp), zero = constant<Real>(0), one = constant<Real>(1);
  KlEstimate<Real> kl = {y, one, y != y};
  if (objective.kl == Kl::kK3) kl = k3_estimate(y);
  if (objective.kl == Kl::kK2) kl = {y * y / 2, y, y != y};
  if (objective.kl == Kl::kAbs) kl = {y < 0 ? -y : y, y > 0 ? one : y < 0 ? -one : zero, y != y};
  kl.clamped = outside(x, objective.kl_clamp) | outside(kl.value, objective.kl_value_clamp);
  kl.gradient = kl.clamped ? zero : kl.gradient;
  if (objective.kl_gradient == KlGradient::kK2) kl.gradient = x;
  kl.value = clamped(kl.value, objective.kl_value_clamp);
  return kl;
}

// value + gradient: with a weight w whose logarithm has slope 1 in logp, d/dlogp (w v(x)) = w (v + v'). In closed form,
// for a sum of the two parts has no digit left where exp(-x) is large:
//
//   k1   x + 1
//   k2   x^2 / 2 + x = x (x + 2) / 2
//   k3   (exp(-x) - 1 + x) + (1 - exp(-x)) = x
//   abs  |x| + sign(x)
//
// k1 and abs are that sum already, rounded once. With klGradient 'k2', v' = x: 2 x, the same x (x + 2) / 2,
// exp(-x) - 1 + 2 x and |x| + x, of which none is a difference of large numbers. A clamped value is a constant.
template <class Real>
GRPO_FORMULA Real weighted_gradient(const Objective& objective, Real x, const KlEstimate<Real>& kl) {
  const Real sum = kl.value + kl.gradient;
  Real closed = sum;
  if (objective.kl == Kl::kK2) closed = x * (x + 2) / 2;
  if (objective.kl == Kl::kK3 && objective.kl_gradient == KlGradient::kExact) closed = x;
  return kl.clamped ? sum : closed;
}

// Whether rounding to float32 leaves a number. What it rounds to infinity counts as infinite although float64 holds it.
template <class Real>
GRPO_FORMULA Mask<Real> float32_holds(Real x) {
  // Of one number the bits tell, without a float64 instruction: 0x1.ffffffp127 and all above it.
  if constexpr (std::is_arithmetic_v<Real>)
    return (__builtin_bit_cast(uint64_t, x) & 0x7fffffffffffffff) < 0x47effffff0000000;
  return (x < constant<Real>(0x1.ffffffp127)) & (x > constant<Real>(-0x1.ffffffp127));
}

// ---- the loss of a token --------------------------------------------------------------------------------------------

template <class Real>
struct TokenLoss {
  Real policy;   // weight * surrogate
  Real kl_loss;  // klCoef * kl, times its weight
  Real kl;       // the value of `kl` alone
  Real grad_logp;
  Real grad_log_ratio;
};

// What klWeight multiplies the KL of a token by. `own`: its derivative flows to the token alone.
template <class Real>
struct KlWeightOf {
  Real value;
  Mask<Real> fixed;
  bool own;
};

template <class Real>
GRPO_FORMULA KlWeightOf<Real> kl_weight_of(const Objective& objective, const Token<Real>& token) {
  const bool by_token = objective.ratio == Ratio::kToken;
  const Real log_ratio = token.logp - token.old_logp;
  if (objective.kl_weight == KlWeight::kTokenRatio && !by_token) {
    const ImportanceRatio<Real> own = token_ratio(objective, log_ratio);
    return {own.value, own.fixed, true};
  }
  Mask<Real> fixed = token.ratio.fixed;
  if (token.alone && objective.surrogate == Surrogate::kVespo) fixed |= outside(log_ratio, kVespoLogRatio);
  return {token.ratio.value, fixed, by_token || objective.ratio == Ratio::kSequenceToken || token.alone};
}

// klCoef times weight * value, clamped. A weight whose derivative flows to the whole sequence leaves its part in
// grad_log_ratio; there the sum over tokens is as large as its largest term, and no form keeps the digits of the rest.
template <class Real>
GRPO_FORMULA void add_kl(const Objective& objective, const Token<Real>& token, const KlEstimate<Real>& kl,
                         TokenLoss<Real>& loss) {
  const Real zero = constant<Real>(0), coef = constant<Real>(objective.kl_coef);
  const bool weighted = objective.kl_weight != KlWeight::kNone;
  const KlWeightOf<Real> own = kl_weight_of(objective, token);
  const Real given = weighted ? own.value : constant<Real>(1), most = constant<Real>(objective.kl_weight_clamp);
  Mask<Real> cut{};
  if (weighted && binds(objective.kl_weight_clamp)) cut = given > most;
  const Real weight = cut ? most : given;
  const Real term = weight * kl.value;
  const Real factor = outside(term, objective.kl_term_clamp) ? zero : coef * weight;
  loss.kl_loss = coef * clamped(term, objective.kl_term_clamp);
  Real gradient = kl.gradient;
  if (weighted) {
    const Mask<Real> constant_weight = own.fixed | cut;
    if (own.own)
      gradient = constant_weight ? gradient : weighted_gradient(objective, token.ref_log_ratio, kl);
    else loss.grad_log_ratio += constant_weight ? zero : factor * kl.value;
  }
  loss.grad_logp += factor * gradient;
}

template <class Real>
GRPO_FORMULA TokenLoss<Real> token_loss(const Objective& objective, const Token<Real>& token) {
  const Real zero = constant<Real>(0);
  TokenLoss<Real> loss = {zero, zero, zero, zero, zero};
  const Term<Real> term = surrogate_term(objective, token);
  // Selected, not multiplied by 0: the term of what is left out may be infinite or NaN.
  Mask<Real> acts = token.weight != 0;
  if (objective.surrogate != Surrogate::kDro) acts &= token.advantage != 0;
  loss.policy = acts ? token.weight * term.value : zero;
  loss.grad_logp = acts ? token.weight * term.grad_logp : zero;
  loss.grad_log_ratio = acts ? token.weight * term.grad_log_ratio : zero;

  const KlEstimate<Real> kl = kl_estimate(objective, token.ref_log_ratio);
  loss.kl = kl.value;
  if (objective.kl_coef != 0) add_kl(objective, token, kl, loss);
  loss.grad_log_ratio = token.ratio.fixed ? zero : loss.grad_log_ratio;
  return loss;
}
