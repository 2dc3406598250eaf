// The log-probabilities of a token from those of the parts of a vocabulary, for both backends: in float64, in the order
// of the parts, with an exponential and a logarithm of our own: the bits do not depend on a machine's C library.
// `Real` is double, or a vector of doubles with one token per lane.
//
// With m the part of the largest logsumexp, d_i = logsumexp_i - logsumexp_m and S = sum exp(d_i) over i != m:
//   logsumexp = logsumexp_m + log(1 + S),   log p_i = d_i - log(1 + S),   logp = logp_i + log p_i
//   entropy = sum p_i (entropy_i - log p_i) = sum exp(d_i) (entropy_i - d_i) / (1 + S) + log(1 + S)
// The terms of each sum have one sign: nothing is lost to cancellation. Nor are small S, as in log1p.
//
// Included inside a namespace, once per instruction set (see logits/merge_range.cc), after <cmath>, <cstdint> and
// <type_traits>.

#include "formulas/elementary.h"

template <class Real>
struct Measured {
  Real logp, entropy, logsumexp;
};

// What is known of a token: `largest`, `claims`, `spoken` after look_at() of each part, the rest after add() of each.
template <class Real>
struct Merging {
  Real largest, sum, entropies, logp, claims;
  Mask<Real> spoken;   // a part says something else than (0, 0, 0)
  Mask<Real> missing;  // part m has not been added
};

template <class Real>
GRPO_FORMULA Merging<Real> nothing_merged() {
  const Real zero = constant<Real>(0), none = constant<Real>(-INFINITY);
  return {none, zero, zero, none, zero, zero != zero, zero == zero};
}

// A finite log-probability says that the part holds the token, and one part alone does: replicated logits are no parts.
template <class Real>
GRPO_FORMULA Mask<Real> claims_token(const Measured<Real>& x) {
  return x.logp - x.logp == constant<Real>(0);
}

// (0, 0, 0) is what a part says of a masked token, and of one that is its only column, with a logit of 0. All parts
// together tell the two apart: where one says something else, the token is not masked, and each (0, 0, 0) is a claim.
// Where none does, the whole is (0, 0, 0) either way.
template <class Real>
GRPO_FORMULA Mask<Real> claimed_twice(const Merging<Real>& m) {
  return (m.claims > constant<Real>(1)) & m.spoken;
}

template <class Real>
GRPO_FORMULA void look_at(Merging<Real>& m, const Measured<Real>& x) {
  const Real zero = constant<Real>(0);
  m.spoken = m.spoken | (x.logp != zero) | (x.entropy != zero) | (x.logsumexp != zero);
  m.claims += claims_token(x) ? constant<Real>(1) : zero;
  m.largest = (x.logsumexp > m.largest) | (x.logsumexp != x.logsumexp) ? x.logsumexp : m.largest;  // NaN stays
}

// A part of nothing but -inf is left out.
template <class Real>
GRPO_FORMULA void add(Merging<Real>& m, const Measured<Real>& x) {
  const Real zero = constant<Real>(0), above = m.largest - x.logsumexp;
  const Mask<Real> none = x.logsumexp == constant<Real>(-INFINITY), first = (x.logsumexp == m.largest) & m.missing;
  const Real share = none ? zero : exponential(-above);
  m.entropies += none ? zero : share * (x.entropy + above);
  m.sum += first ? zero : share;
  m.missing = m.missing & (x.logsumexp != m.largest);
  const Real own = none ? x.logp : x.logp - above;
  m.logp = (own > m.logp) | (own != own) ? own : m.logp;  // the largest, or NaN
}

// A masked token stays 0, and one that is claimed twice is NaN. Where all parts are left out: -inf, 0, -inf.
template <class Real>
GRPO_FORMULA Measured<Real> whole_of(const Merging<Real>& m) {
  const Real zero = constant<Real>(0), all = m.sum + 1;
  const Real excess = all == constant<Real>(1) ? m.sum : logarithm(all) * (m.sum / (all - 1));
  const Mask<Real> one = m.spoken & (m.claims <= constant<Real>(1));
  const Real other = m.spoken ? constant<Real>(NAN) : zero;
  return {one ? m.logp - excess : other, one ? m.entropies / all + excess : other, one ? m.largest + excess : other};
}
