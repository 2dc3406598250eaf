// The forward pass of shared-prefix attention: what its files hand to each other.
#pragma once

#include "attention/attention.cuh"
#include "attention/schedule.cuh"

namespace grpo::cuda {

struct Forward {
  const void *q, *k, *v;
  void* out;         // may be null
  float* logsumexp;  // may be null
  Float type;
};

// By matrix instructions. The items that have to be done again, [bound, H]; null: none has been done, the inputs do not
// allow it.
const uint8_t* attend_by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                                  const WorkList& work, Launch& on);

// Without: those items, or all where `again` is null.
void attend_plainly(const Forward& forward, const Forest& forest, const AttentionShape& shape, const WorkList& work,
                    const uint8_t* again, Launch& on);

}  // namespace grpo::cuda
