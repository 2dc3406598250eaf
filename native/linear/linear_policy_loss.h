// The memory of linear_policy_loss, which the operation takes and linear_policy_loss_plan measures.
#pragma once

#include "linear/linear_token_logprob.h"
#include "loss/policy_loss.h"

namespace grpo {

struct LossShape {
  int64_t T, R, S;
  Ratio ratio;
  bool gradient;               // is any wanted?
  bool own_logp, own_entropy;  // or they are outputs
};

struct LossMemory {
  int32_t* rows;          // [row_tokens_scratch]
  int32_t* count;         // [S]
  double* sums;           // [policy_loss_scratch]
  float *logp, *entropy;  // [T]
  float *grad_logp, *grad_entropy;  // [T]
  uint8_t* has_gradient;            // [T], ratios of sequences
};

void lay_out(const LossShape& shape, Arena& arena, LossMemory& memory);

inline bool in_one_pass(const LossShape& shape) { return shape.ratio == Ratio::kToken && shape.gradient; }

}  // namespace grpo
