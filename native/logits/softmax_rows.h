// What the operations on rows of logits share: which tokens a row predicts, log-probability and entropy from the
// statistics of a row, and what the tokens' gradients mean for the row.
#pragma once

#include <cmath>
#include <cstdint>

#include "interface/operation.h"
#include "vector/vector.h"

namespace grpo {

// ---- the tokens of a row --------------------------------------------------------------------------------------------

// The rows that unmasked tokens name, ascending. The tokens of row[i] are t[start[i]] .. t[start[i + 1] - 1],
// ascending.
struct RowTokens {
  const int32_t* row;    // [count]
  const int32_t* start;  // [count + 1]
  const int32_t* t;      // [start[count]]
  int64_t count;
};

// int32s of scratch that row_tokens needs: as many as there are tokens, however many rows there are.
inline int64_t row_tokens_scratch(int64_t T) { return 4 * T + 2; }

// `row` and `mask` are each read once, and a row out of bounds is passed over: what comes out is safe to work by, even if
// another thread writes to the two meanwhile.
RowTokens row_tokens(const int32_t* row,   // [T], null: token t is of row t
                     const uint8_t* mask,  // [T], may be null
                     int32_t* scratch,     // [row_tokens_scratch]; the result points into it
                     int64_t T, int64_t R);

// ---- the softmax of a row -------------------------------------------------------------------------------------------

// Of u = scale * x: x the logits of a row and scale = 1 / temperature, or with a soft-cap c x = tanh(logit / c) and
// scale = c / temperature.
struct RowSoftmax {
  float max;       // of x
  double log_sum;  // logsumexp - scale * max
  double entropy;

  double logsumexp(float scale) const { return static_cast<double>(scale) * max + log_sum; }
  double logp(float x, float scale) const {
    return static_cast<double>(scale) * (static_cast<double>(x) - max) - log_sum;
  }
};

inline RowSoftmax row_softmax(const SoftmaxStats& stats) {
  const double log_sum = std::log(stats.sum);
  return {stats.max, log_sum, log_sum - stats.weighted / stats.sum};  // of two terms that are never below 0
}

// The sums over a row's tokens of the derivatives of the loss with respect to their logp and entropy.
struct RowGradient {
  double logp, entropy;
  bool zero;  // of every token both are exactly 0, which a sum that is 0 does not say
};

inline RowGradient row_gradient(const RowTokens& tokens, int64_t i,
                                const float* grad_logp,      // [T]
                                const float* grad_entropy)   // [T], may be null
{
  RowGradient gradient{0, 0, true};
  for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) {
    const float logp = grad_logp[tokens.t[j]], entropy = grad_entropy == nullptr ? 0 : grad_entropy[tokens.t[j]];
    gradient.logp += logp;
    gradient.entropy += entropy;
    gradient.zero = gradient.zero && logp == 0 && entropy == 0;
  }
  return gradient;
}

// The derivative of the loss with respect to n of the row's logits, but for the tokens' own entries, to each of which
// 1 / temperature * grad_logp[t] is still to be added. softcap: 0 without one. y may be x itself.
inline void softmax_gradient(const RowSoftmax& row, const RowGradient& gradient, float scale, double softcap,
                             const void* x,  // [n]
                             Float type,
                             void* y,  // [n]
                             Float y_type, int64_t n) {
  const bool capped = softcap != 0;
  const double slope = capped ? scale / softcap : scale;
  vector_kernels().softmax_gradient(x, type, n, scale, row.max, row.log_sum, static_cast<float>(-slope * gradient.logp),
                                    static_cast<float>(-slope * gradient.entropy), row.log_sum - row.entropy, capped, y,
                                    y_type);
}

}  // namespace grpo
