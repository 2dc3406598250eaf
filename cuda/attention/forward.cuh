// The forward pass of shared-prefix attention: what its files hand to each other.
#pragma once

#include "attention/attention.cuh"
#include "attention/schedule.cuh"

namespace grpo::cuda {

struct Forward {
  Heads q, k, v;
  const float* sink;  // [H]  may be null
  void* out;          // may be null
  void* out_low;      // what rounding loses of out; may be null
  float* logsumexp;   // may be null
  Float type;
};

// Of a row with that highest score and that sum of exp(score - highest). A sink, a logit without a value, is added last
// and in float64: a large one takes no digits from the scores, and where it outweighs them all nothing overflows.
struct RowSoftmax {
  float logsumexp;
  double factor;  // of a sum of exp(score - highest) v
};
__device__ __forceinline__ RowSoftmax softmax_of_row(double highest, double sum, const float* sink) {
  double logsumexp = highest + log(sum), share = 1;
  if (sink != nullptr && *sink != -INFINITY) {
    const double own = logsumexp, distance = fabs(own - *sink);
    logsumexp = fmax(own, static_cast<double>(*sink)) + log1p(exp(-distance));  // NaN of either is one of the distance
    share = exp(own - logsumexp);
  }
  return {static_cast<float>(logsumexp), share / sum};
}

// By matrix instructions, on a list of tiles of query_tile_tokens().
Again attend_by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                         const WorkList& work, Launch& on);
// 0, and why: the inputs do not allow it.
int32_t query_tile_tokens(const Forward& forward, const AttentionShape& shape, Launch& on);

// Without: what is marked.
void attend_plainly(const Forward& forward, const Forest& forest, const AttentionShape& shape, const WorkList& work,
                    const Again& again, Launch& on);

}  // namespace grpo::cuda
