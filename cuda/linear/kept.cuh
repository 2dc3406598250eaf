// Rows of hidden states that have sets of ids (logits/kept_sets.cuh): of the head only the rows that a set keeps are
// multiplied. All other rows go through the chunks of chunk.cuh. Which rows are of which kind the device alone knows:
// the work of both kinds is enqueued, and ends at once where there is none.
//
//   kept_softmax   the logits of each row's set and their softmax; logp, entropy and logsumexp of its tokens
//   kept_gradient  the logits become their gradient in place; gradHidden; then pairs of id and row are sorted, by ids
//                  and those of one id by rows, and each id's row of gradHead is the sum over its rows in that order
//
// A set of one id takes part in none of it, but for its logsumexp: logp 0, entropy 0, no gradient.
#pragma once

#include "linear/chunk.cuh"

namespace grpo::cuda {

struct KeptSoftmax {
  double most, log_sum, entropy;  // the largest logit; of the logits / temperature, see RowSoftmax of the CPU
};

struct KeptRows {
  RowSets sets;
  NamedRows named;       // those that have sets
  float* logits;         // [M], then their gradients
  KeptSoftmax* softmax;  // [rows]
  uint32_t* column;      // [M], of those with a gradient; else past the end
  int32_t* row;          // [M], likewise

  // Whether the call has sets; without, nothing is enqueued.
  bool exist() const { return sets.set != nullptr; }
};

// Those that unmasked tokens name and that have sets, and the tokens of the other rows; gradients null where none are
// wanted.
KeptRows kept_rows(const Linear& linear, const TokenRows& tokens, const LinearGradients* gradients, Launch& on);
inline TokenRows rows_without_set(TokenRows tokens) {
  if (tokens.sets.set != nullptr) tokens.which = TokenRows::kWithoutSet;
  return tokens;
}

void kept_softmax(const Linear& linear, const KeptRows& kept,
                  float* logp,       // [T], may be null
                  float* entropy,    // [T], may be null
                  float* logsumexp,  // [T], may be null
                  Launch& on);

// After kept_softmax, and before end_gradients of `chunk`, whose sums are rounded once with what this adds.
void kept_gradient(const Linear& linear, const KeptRows& kept, const LinearChunk& chunk,
                   const float* logsumexp,     // [T], may be null
                   const float* entropy,       // [T], may be null
                   const float* grad_logp,     // [T]
                   const float* grad_entropy,  // [T], may be null
                   const LinearGradients& gradients, Launch& on);

}  // namespace grpo::cuda
