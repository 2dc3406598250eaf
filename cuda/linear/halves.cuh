// The factors of gradHidden and gradHead as f16, so that each product of the backward pass takes one term:
//
//   gradient of logits   written once, as f16 (chunk_gradient.cu), times a power of two of its row
//   head                 converted once in a call, times one power of two: 8 digits of bf16 are exact in the 11 of f16,
//                        and its range down to 2^-32 of the largest
//   hidden               the rows with a gradient, with their rows' powers taken back: gradHead is a sum over rows, all
//                        of one scale. Exact for rows and numbers down to 2^-32 of the largest product; what is smaller
//                        loses digits below 2^-40 of it, a 2^-16th of what float32 sums lose
//
// The gradient is rounded to 11 digits, a bf16 result to 8: root mean square error 1.01 times that of rounding alone.
// Results in f16 are as fine as the factor, and where one gradient outweighs the others of its row all of them have its
// error: up to 2.6 times that of rounding. They and results in float32 take more terms, see matmul.cuh.
#pragma once

#include "linear/chunk.cuh"

namespace grpo::cuda {

// Whether the gradients that are wanted are formed so: those in bf16, of a head without a bias, whose gradient is a sum of
// float32 gradients. Not whether that one is wanted decides: the bits of the others do not depend on it.
bool by_halves(const Linear& linear, const LinearGradients& gradients, int64_t rows);

// Once in a call. What becomes of it is in chunk.head, chunk.head_power and chunk.choice.
void halve_head(const Linear& linear, const LinearChunk& chunk, Launch& on);

// Of a chunk whose rows with a gradient are listed: chunk.hidden and chunk.hidden_power.
void halve_hidden(const Linear& linear, const LinearChunk& chunk, Launch& on);

}  // namespace grpo::cuda
