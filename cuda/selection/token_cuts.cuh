// Where select_tokens cuts: the key of the last token that is kept, and its place.
#pragma once

#include "selection/token_digits.cuh"

namespace grpo::cuda {

// Tokens with a greater key are kept, and those with this key up to place `last`.
struct Cut {
  uint32_t key;
  int32_t last;
};
__device__ __forceinline__ Cut nothing() { return {UINT32_MAX, kNoPlace}; }

// Of each set for itself, by one block.
void cut_sets(const uint32_t* keys,           // [T]
              const int32_t* sequence_start,  // [S+1], null: one set of all tokens
              Cut* cuts,                      // [sets]
              int64_t sets, int64_t T, int64_t count, double fraction, Launch& on);

// Of a batch, by all blocks, once the first digit is found.
void cut_batch(const uint32_t* keys,  // [T, and masked ones up to a multiple of 4]
               TokenDigits* state,
               Cut* cut,  // [1]
               int64_t T, Launch& on);

}  // namespace grpo::cuda
