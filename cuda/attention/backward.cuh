// The backward pass of shared-prefix attention: what its files hand to each other.
#pragma once

#include "attention/attention.cuh"
#include "attention/schedule.cuh"

namespace grpo::cuda {

struct Gradient {
  void* data;      // may be null
  int64_t stride;  // elements from one token to the next
  Float type;
  float scale;  // what the sums are multiplied by
};

struct Backward {
  Heads q, k, v, grad_out, out;
  const float* logsumexp;  // [P,H]
  float* delta;            // [P,H]  scratch
  Gradient grad_q, grad_k, grad_v;
  Float type;  // of q, k, v, grad_out, out
};

// From where the scores of a query are measured. One that saw only -inf has logsumexp = -inf: measured from infinity
// its weights are 0, and not NaN.
__device__ __forceinline__ float origin_of(float logsumexp) { return logsumexp == -INFINITY ? INFINITY : logsumexp; }

void form_delta(const Backward& backward, const AttentionShape& shape, Launch& on);

// By matrix instructions: gradK and gradV for work on keys, gradQ for work on queries. Without marks none has been done:
// the inputs or the GPU do not allow it.
Again grad_keys_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                            const WorkList& work, Launch& on);
Again grad_queries_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                               const WorkList& work, Launch& on);

// Without: what is marked.
void grad_keys_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                       const WorkList& work, const Again& again, Launch& on);
void grad_queries_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                          const WorkList& work, const Again& again, Launch& on);

}  // namespace grpo::cuda
