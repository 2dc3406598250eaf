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

#ifndef GRPO_FORMULA
#ifdef __CUDACC__
#define GRPO_FORMULA __host__ __device__ inline
#else
#define GRPO_FORMULA static inline __attribute__((always_inline))
#endif
#endif

template <class Real>
using Mask = decltype(Real{} < Real{});

template <class Real>
GRPO_FORMULA Real constant(double x) {
  if constexpr (std::is_arithmetic_v<Real>) return static_cast<Real>(x);
  else return x - Real{};
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

// x = k log 2 + r with |r| <= log(2) / 2, and tail = exp(r) - 1 - r. A double or a vector of doubles.
template <class Real>
struct Reduced {
  Real half_scale;  // 2^(k - 1): k may be 1024
  Real k, r, tail;
};

template <class Real>
GRPO_FORMULA Reduced<Real> reduce_exponent(Real x) {
  using Bits = std::conditional_t<std::is_arithmetic_v<Real>, uint64_t, Mask<Real>>;
  // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  const double round = 0x1.8p52;
  const Real shifted = x * 0x1.71547652b82fep+0 + round;
  const Real k = shifted - round;
  // log 2 in two parts; k times the first is exact.
  const Real r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  const Real half_scale = __builtin_bit_cast(Real, (__builtin_bit_cast(Bits, shifted) + 1022) << 52);
  // The Taylor series up to r^13 (what it leaves out is below 1e-17), in pairs: sums that do not wait for one another.
  const Real r2 = r * r, r4 = r2 * r2;
  const Real p0 = (r * (1.0 / 6) + 0.5) + r2 * (r * (1.0 / 120) + 1.0 / 24);
  const Real p4 = (r * (1.0 / 5040) + 1.0 / 720) + r2 * (r * (1.0 / 362880) + 1.0 / 40320);
  const Real p8 = (r * (1.0 / 39916800) + 1.0 / 3628800) + r2 * (r * (1.0 / 6227020800) + 1.0 / 479001600);
  return {half_scale, k, r, r2 * (p0 + r4 * (p4 + r4 * p8))};
}

template <class Real>
GRPO_FORMULA Real exponential_of(Reduced<Real> e, Real x) {
  const Real y = 2 * (e.half_scale * (1 + (e.r + e.tail)));
  return x > 709.782712893384 ? constant<Real>(INFINITY) : x < -707 ? constant<Real>(0) : y;
}

// Within one unit in the last place: exactly 1 at 0, 0 below -707, infinite above 709.78, NaN for NaN.
template <class Real>
GRPO_FORMULA Real exponential(Real x) {
  return exponential_of(reduce_exponent(x), x);
}

// ---- bounds: a bound that is NaN does not bind, a value that is NaN stays NaN ---------------------------------------

template <class Real>
GRPO_FORMULA Mask<Real> outside(Real x, double bound) {
  return (x > constant<Real>(bound)) | (x < constant<Real>(-bound));
}

template <class Real>
GRPO_FORMULA Real clamped(Real x, double bound) {
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

// GMPO clips each log-ratio before the average, on the side where the advantage would push it further; the clipped
// surrogate is then that of an unbounded ratio.
template <class Real>
GRPO_FORMULA Real geometric_log_ratio(Real log_ratio, Real advantage, Interval<Real> interval) {
  const Real below = smaller(log_ratio, interval.high), above = larger(log_ratio, interval.low);
  return advantage > 0 ? below : above;
}

// What the statistics call clipped: the surrogate has an interval, and x (the ratio, or a log-ratio of the geometric
// one) left it on the side where the advantage would push it further.
template <class Real>
struct Clipping {
  Mask<Real> low, high, dual;
};

template <class Real>
GRPO_FORMULA Clipping<Real> clipping(const Objective& objective, Real advantage, Real x, Interval<Real> interval) {
  Clipping<Real> clip = {};
  if (objective.surrogate != Surrogate::kClip && objective.surrogate != Surrogate::kCispo) return clip;
  clip.low = (advantage < 0) & (x < interval.low);
  clip.high = (advantage > 0) & (x > interval.high);
  clip.dual = (advantage < 0) & (x > constant<Real>(objective.dual_clip));
  return clip;
}

// ---- the surrogate --------------------------------------------------------------------------------------------------

template <class Real>
struct Term {
  Real value;
  Real grad_logp;  // with every ratio held fixed
  Real grad_log_ratio;
};

// -min(ratio A, clip(ratio) A), and for A < 0 at most -c A with a dual clip. Where both sides of a minimum are equal
// the ratio counts as unclipped: the gradient is kept at ties.
template <class Real>
GRPO_FORMULA Term<Real> clip_term(const Objective& objective, Real advantage, Real ratio, Interval<Real> interval) {
  const Real clip = smaller(larger(ratio, interval.low), interval.high), dual = constant<Real>(objective.dual_clip);
  const Real below = smaller(ratio, clip), above = larger(ratio, clip);
  const Real above_dual = above > dual ? dual : above;
  const Real bounded = advantage > 0 ? below : advantage < 0 ? above_dual : ratio;
  const Real value = -advantage * bounded, zero = constant<Real>(0);
  return {value, zero, (bounded == ratio) | (value != value) ? value : zero};
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

template <class Real>
GRPO_FORMULA Term<Real> surrogate_term(const Objective& objective, Real logp, Real advantage, Real ratio,
                                       Interval<Real> interval) {
  switch (objective.surrogate) {
    case Surrogate::kClip: return clip_term(objective, advantage, ratio, interval);
    case Surrogate::kCispo: return cispo_term(logp, advantage, ratio, interval);
    case Surrogate::kSapo: return sapo_term(objective, advantage, ratio);
    default: return {-advantage * logp, -advantage, constant<Real>(0)};
  }
}

// ---- the KL to the reference ----------------------------------------------------------------------------------------

template <class Real>
struct KlEstimate {
  Real value;
  Real gradient;
};

// exp(-y) - 1 + y and 1 - exp(-y), of which the tail of the exponential keeps the digits that a small y would lose.
template <class Real>
GRPO_FORMULA KlEstimate<Real> k3_estimate(Real y) {
  const Reduced<Real> e = reduce_exponent(-y);
  const Real inverse = exponential_of(e, -y);  // exp(-y)
  const Real value = inverse - 1 + y, gradient = 1 - inverse;
  return {e.k == 0 ? e.tail : value, e.k == 0 ? y - e.tail : gradient};
}

// Of x = logp - refLogp.
template <class Real>
GRPO_FORMULA KlEstimate<Real> kl_estimate(const Objective& objective, Real x) {
  const Real y = clamped(x, objective.kl_clamp), zero = constant<Real>(0), one = constant<Real>(1);
  KlEstimate<Real> kl = {y, one};
  if (objective.kl == Kl::kK3) kl = k3_estimate(y);
  if (objective.kl == Kl::kK2) kl = {y * y / 2, y};
  if (objective.kl == Kl::kAbs) kl = {y < 0 ? -y : y, y > 0 ? one : y < 0 ? -one : zero};
  kl.gradient = outside(x, objective.kl_clamp) | outside(kl.value, objective.kl_value_clamp) ? zero : kl.gradient;
  if (objective.kl_gradient == KlGradient::kK2) kl.gradient = x;
  kl.value = clamped(kl.value, objective.kl_value_clamp);
  return kl;
}

// ---- one unmasked token ---------------------------------------------------------------------------------------------

// Of a token, or of its sequence.
template <class Real>
struct ImportanceRatio {
  Real value;
  Mask<Real> fixed;  // the log-ratio lies outside the clamp: no gradient flows through it
};

template <class Real>
GRPO_FORMULA ImportanceRatio<Real> importance_ratio(const Objective& objective, Real log_ratio) {
  return {exponential(clamped(log_ratio, objective.log_ratio_clamp)), outside(log_ratio, objective.log_ratio_clamp)};
}

template <class Real>
struct Token {
  Real logp;
  Real advantage;
  Real weight;
  ImportanceRatio<Real> ratio;
  Interval<Real> interval;  // infinite for the geometric ratio
  Real ref_log_ratio;       // logp - refLogp; 0 without a reference
};

template <class Real>
struct TokenLoss {
  Real policy;   // weight * surrogate
  Real kl_loss;  // klCoef * kl, times the ratio if klWeight says so
  Real kl;       // the value of `kl` alone
  Real grad_logp;
  Real grad_log_ratio;
};

template <class Real>
GRPO_FORMULA TokenLoss<Real> token_loss(const Objective& objective, Token<Real> token) {
  const Real zero = constant<Real>(0), ratio = token.ratio.value;
  TokenLoss<Real> loss = {zero, zero, zero, zero, zero};
  const Term<Real> term = surrogate_term(objective, token.logp, token.advantage, ratio, token.interval);
  // Selected, not multiplied by 0: the term of what is left out may be infinite or NaN.
  const Mask<Real> acts = (token.advantage != 0) & (token.weight != 0);
  loss.policy = acts ? token.weight * term.value : zero;
  loss.grad_logp = acts ? token.weight * term.grad_logp : zero;
  loss.grad_log_ratio = acts ? token.weight * term.grad_log_ratio : zero;

  const KlEstimate<Real> kl = kl_estimate(objective, token.ref_log_ratio);
  loss.kl = kl.value;
  if (objective.kl_coef != 0) {
    const bool weighted = objective.kl_weight == KlWeight::kRatio;
    const Real factor = weighted ? ratio * constant<Real>(objective.kl_coef) : constant<Real>(objective.kl_coef);
    loss.kl_loss = factor * kl.value;
    loss.grad_logp += factor * kl.gradient;
    if (weighted) loss.grad_log_ratio += loss.kl_loss;
  }
  loss.grad_log_ratio = token.ratio.fixed ? zero : loss.grad_log_ratio;
  return loss;
}
