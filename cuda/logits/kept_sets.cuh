// Sets of ids that rows were sampled from (native/logits/kept_sets.h) on a device, where nobody has looked at them:
// which rows have one, and which of these is none that may be followed.
#pragma once

#include "launch/launch.cuh"
#include "native/logits/kept_sets.h"

namespace grpo::cuda {

// All null: no row has a set.
struct RowSets {
  KeptSets kept;
  const uint8_t* set;  // [R], not 0: a set, and a good one
  const uint8_t* bad;  // [R], not 0: its ids do not rise within the vocabulary
  int64_t M;

  __device__ __forceinline__ bool has(int64_t r) const { return set != nullptr && set[r] != 0; }
};

// Whether the id is in the set of row r, which has one.
__device__ __forceinline__ bool in_set(const KeptSets& kept, int64_t r, int64_t id) {
  const Kept set = set_of(kept, r);
  const int64_t place = ids_before(set, id);
  return place < set.count && set.ids[place] == id;
}

// Of a vocabulary of `width` columns, or of one of which they are a part. Where the offsets do not rise from 0 to M,
// all rows are bad: two sets that meet would write to one place.
RowSets row_sets(const KeptSets& kept, int64_t R, int64_t M, bool part, int64_t width, Launch& on);

// What tokens of rows without sets have of the whole vocabulary too.
void copy_outputs(const float* from, float* to, int64_t T, Launch& on);  // [T] each

}  // namespace grpo::cuda
