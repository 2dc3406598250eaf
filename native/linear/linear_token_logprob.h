// The two passes over all rows, for the operations of this name and for linear_policy_loss with ratios of sequences.
#pragma once

#include "linear/chunk.h"

namespace grpo {

// From the softmax of each row of a chunk, and logp[t] holding the logit of token t.
void write_token_logprob(const RowTokens& chunk, const RowSoftmax* softmax, const Temperature& temperature,
                         float* logp,        // [T]
                         float* entropy,     // [T], may be null
                         float* logsumexp);  // [T], may be null

// Masked tokens get 0.
void linear_token_logprob(const Linear& linear, const RowTokens& tokens,
                          float* logp,       // [T]
                          float* entropy,    // [T], may be null
                          float* logsumexp,  // [T], may be null
                          int64_t chunk_rows);

// `tokens` lists the tokens of which a coefficient is not 0.
void linear_token_logprob_backward(const Linear& linear, const RowTokens& tokens,
                                   const float* logsumexp,     // [T], null: those of the logits themselves
                                   const float* entropy,       // [T], null: likewise
                                   const float* grad_logp,     // [T]
                                   const float* grad_entropy,  // [T], may be null
                                   const LinearGradients& gradients, int64_t chunk_rows);

// row_tokens of the unmasked tokens of which a coefficient is not 0.
RowTokens tokens_with_gradient(const int32_t* row,         // [T], may be null
                               const uint8_t* mask,        // [T], may be null
                               const float* grad_logp,     // [T]
                               const float* grad_entropy,  // [T], may be null
                               uint8_t* has_gradient,      // [T], scratch
                               int32_t* scratch,           // [row_tokens_scratch]
                               int64_t T, int64_t R);

}  // namespace grpo
