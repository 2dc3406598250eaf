// The backward pass of shared-prefix attention: what its files hand to each other.
#pragma once

#include "attention/attention.cuh"
#include "attention/factors.cuh"
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
  const void* out_low;     // [P,H,E]  may be null
  const float* sink;       // [H]  may be null
  const float* logsumexp;  // [P,H]
  float* delta;            // [P,H]  scratch
  Gradient grad_q, grad_k, grad_v;
  float* grad_sink;  // [H]  may be null
  Float type;  // of q, k, v, grad_out, out
};

// From where the scores of a query are measured. One that saw only -inf has logsumexp = -inf: measured from infinity
// its weights are 0, and not NaN.
__device__ __forceinline__ float origin_of(float logsumexp) { return logsumexp == -INFINITY ? INFINITY : logsumexp; }

// gradOut . out, with what rounding lost of out where that is given; gradSink where it is wanted.
void form_delta(const Backward& backward, const AttentionShape& shape, Launch& on);

// What grad_keys_by_matrices needs of a query, besides its rows. The weights of a key's sums are w = p grad for gradOut
// and w (scale gradOut.v - slope) for q, v being in its size and both copies as they are. A query without q or gradOut
// has no weight.
struct alignas(16) QueryNumbers {
  float scale;  // that of scores, without its sign, times the size of a number of the copy of q
  float logsumexp;
  float grad;   // size of a number of the copy of gradOut
  float slope;  // delta scale / grad
};

struct Matrices {
  Backward backward;
  Factor q, k, v, grad_out;
  QueryNumbers* numbers;  // [H,P]
};

// Copies for the matrix kernels; false, and why: the inputs do not allow it.
bool fit_matrices(const Backward& backward, const AttentionShape& shape, Launch& on);
Matrices prepare_matrices(const Backward& backward, const AttentionShape& shape, const WorkList& keys, Launch& on);
// Of a tile of queries of grad_queries_by_matrices.
int32_t query_tile_tokens(const AttentionShape& shape);

// gradK and gradV for work on keys, gradQ for work on queries. Without marks none has been done: the GPU does not allow
// it.
Again grad_keys_by_matrices(const Matrices& matrices, const Forest& forest, const AttentionShape& shape,
                            const WorkList& work, Launch& on);
Again grad_queries_by_matrices(const Matrices& matrices, const Forest& forest, const AttentionShape& shape,
                               const WorkList& work, Launch& on);

// Without: what is marked.
void grad_keys_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                       const WorkList& work, const Again& again, Launch& on);
void grad_queries_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                          const WorkList& work, const Again& again, Launch& on);

}  // namespace grpo::cuda
