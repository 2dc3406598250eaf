// The log-probabilities of a token from those of two parts of the vocabulary, for both backends.
#pragma once

#include <cmath>

#include "formulas/formula.h"

namespace grpo {

struct TokenLogprob {
  double logp, entropy, logsumexp;
};

GRPO_FORMULA bool is_masked(TokenLogprob x) { return x.logp == 0 && x.entropy == 0 && x.logsumexp == 0; }

// A finite log-probability says that the part holds the token, and one part alone does: replicated logits are no parts.
GRPO_FORMULA bool claimed_twice(TokenLogprob a, TokenLogprob b) {
  return a.logp - a.logp == 0 && b.logp - b.logp == 0 && !(is_masked(a) && is_masked(b));
}

// With p = exp(part's logsumexp - logsumexp), the share of a part:
//   logsumexp = log sum exp(part's logsumexp),   entropy = sum p (part's entropy - log p),   logp = part's logp + log p
// A masked token stays 0; one that is claimed twice is NaN.
GRPO_FORMULA TokenLogprob merge(TokenLogprob a, TokenLogprob b) {
  if (claimed_twice(a, b)) return {NAN, NAN, NAN};
  if (is_masked(a) && is_masked(b)) return {0, 0, 0};
  if (a.logsumexp < b.logsumexp) {
    const TokenLogprob first = a;
    a = b;
    b = first;
  }
  // b holds nothing but -inf, as a may too.
  if (b.logsumexp == -INFINITY && a.logsumexp == a.logsumexp) return a;
  const double excess = log1p(exp(b.logsumexp - a.logsumexp));
  const double log_share_a = -excess, log_share_b = b.logsumexp - a.logsumexp - excess;
  const double share_a = exp(log_share_a), share_b = exp(log_share_b);
  const double logp_a = a.logp + log_share_a, logp_b = b.logp + log_share_b;
  return {logp_a < logp_b ? logp_b : logp_a,
          share_a * (a.entropy - log_share_a) + share_b * (b.entropy - log_share_b), a.logsumexp + excess};
}

}  // namespace grpo
