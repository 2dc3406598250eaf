// A call of linear_policy_loss, which the operation makes and linear_policy_loss_plan rehearses.
#pragma once

#include "linear/chunk.cuh"
#include "loss/policy_loss.cuh"

namespace grpo::cuda {

struct LinearLoss {
  Linear linear;
  LinearGradients gradients;
  const int32_t* row;  // [T], null: t
  LossInputs in;       // without logp and entropy
  Objective objective;
  int64_t chunk_rows;  // may be null
  float *logp, *entropy, *loss;  // [T], [T], [1], may be null
  double* stats;                 // [kStatCount], may be null
  int64_t M;                     // ids in all sets
};

void linear_policy_loss(const LinearLoss& call, Launch& on);

}  // namespace grpo::cuda
