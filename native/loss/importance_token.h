// The importance weight of one token and its estimate of the divergence, of a double or of a vector of doubles with one
// token per lane. Included inside a namespace, once per instruction set and by the CUDA kernels.

#include "formulas/elementary.h"

// Logs of ratios are held within 20 of 0; NaN stays.
template <class Real>
GRPO_FORMULA Real held_log(Real x) {
  return x < -20 ? constant<Real>(-20) : x > 20 ? constant<Real>(20) : x;
}

template <class Real>
GRPO_FORMULA Real importance_ratio_of(Real log) {
  return exponential(held_log(log));
}

// Of KL(engine || trainer), from the log of the ratio: -d, d^2 / 2, exp(d) - 1 - d. The tail of the exponential keeps
// the digits of a small d, which exp(d) - 1 would lose.
template <class Real>
GRPO_FORMULA Real divergence(Estimate estimate, Real log) {
  const Real d = held_log(log);
  if (estimate == Estimate::kK1) return 0 - d;
  if (estimate == Estimate::kK2) return d * d * 0.5;
  const Reduced<Real> e = reduce_exponent(d);
  return e.k == 0 ? e.tail : (exponential_of(e, d) - 1) - d;
}

template <class Real>
struct ImportanceCut {
  Real weight;
  Mask<Real> low, high;  // what was below and above the bounds
};

// A NaN lies outside of no bound, and stays.
template <class Real>
GRPO_FORMULA ImportanceCut<Real> importance_cut(Real ratio, const ImportanceOptions& o) {
  const bool zero = o.outside == Outside::kZero;
  const Real low = constant<Real>(zero ? 0 : o.low), high = constant<Real>(zero ? 0 : o.high);
  const auto below = ratio < o.low, above = ratio > o.high;
  return {below ? low : above ? high : ratio, below, above};
}

// Whether a gate leaves this out.
template <class Real>
GRPO_FORMULA Mask<Real> importance_gated(Real ratio, const ImportanceOptions& o) {
  return (ratio < o.gate_low) | (ratio > o.gate_high);
}
