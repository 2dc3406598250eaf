// The loss of a range of tokens, several tokens at a time: what policy_loss.cc calls and policy_loss_range.cc compiles
// for each instruction set.
#pragma once

#include "loss/policy_loss.h"

namespace grpo {

struct TokenRange {
  int64_t begin, end;
  int64_t sequence;  // of the first token; for sequence ratios all tokens belong to it
  // For sequence ratios: the sequence's log-ratio, not clamped, and, where the gradient of the ratio flows to the whole
  // sequence, what each of its tokens gets before aggregation.
  double log_ratio, sequence_gradient;
};

// Over the unmasked tokens.
struct RangeSums {
  double loss;
  double grad_log_ratio;     // of the terms' derivatives with respect to the log-ratio, before aggregation
  double stats[kStatCount];  // without tokens and sequences, which the denominators know
};

// grad_logp and grad_entropy, [T], may be null.
using RangeLoss = void (*)(const LossInputs& inputs, const Denominators& denominators, const TokenRange& range,
                           float* grad_logp, float* grad_entropy, RangeSums& sums, const Objective& objective);

// Of objectives with this surrogate.
RangeLoss range_loss(Surrogate surrogate);

}  // namespace grpo
