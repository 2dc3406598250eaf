// The forward pass of shared-prefix attention: what its files hand to each other.
#pragma once

#include "attention/attention.cuh"
#include "attention/schedule.cuh"

namespace grpo::cuda {

struct Forward {
  Heads q, k, v;
  void* out;         // may be null
  float* logsumexp;  // may be null
  Float type;
};

// By matrix instructions, on a list of tiles of query_tile_tokens().
Again attend_by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                         const WorkList& work, Launch& on);
// 0, and why: the inputs do not allow it.
int32_t query_tile_tokens(const Forward& forward, const AttentionShape& shape, Launch& on);

// Without: what is marked.
void attend_plainly(const Forward& forward, const Forest& forest, const AttentionShape& shape, const WorkList& work,
                    const Again& again, Launch& on);

}  // namespace grpo::cuda
