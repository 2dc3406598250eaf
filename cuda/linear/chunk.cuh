// Logits from hidden states, logits = hidden head^T + bias, a chunk of rows at a time: what the linear operations have
// in common. The whole [R,V] never exists. Everything is enqueued without waiting: the device alone knows how many rows
// unmasked tokens name and how many of a chunk have a gradient; the products read those numbers when they run.
//
//   chunk_softmax    one product: the logits of a chunk, float32; from them the softmax of each row and the logp of its
//                    tokens
//   chunk_gradient   the logits become their gradient in place; rows whose coefficients are all exactly 0 are left out
//                    of the two products, which give gradHidden and gradHead
//
// The sums of gradHead and gradHeadBias run over the rows in order, chunk after chunk. What a row gets depends neither
// on the chunk that it is in nor on the others.
#pragma once

#include "logits/row_tokens.cuh"
#include "native/linear/linear.h"

namespace grpo::cuda {

// The rows that tokens name, in ascending order, and the tokens of each, in ascending order too.
struct NamedRows {
  const int32_t* start;   // first token of each row in `tokens`: [R+1], or [T+1] by the places of `row`
  const int32_t* tokens;  // [T]
  const int32_t* row;     // [R or T], of which count exist
  const uint32_t* count;  // [1]
  bool by_place;

  // Of the row that stands in place i.
  __device__ __forceinline__ int32_t begin(int64_t i) const { return start[by_place ? i : row[i]]; }
  __device__ __forceinline__ int32_t end(int64_t i) const { return start[(by_place ? i : row[i]) + 1]; }
};

// How many rows tokens can name.
inline int64_t most_named(const Linear& linear) { return linear.R < linear.T ? linear.R : linear.T; }

// Of a row of logits / temperature.
struct Softmax {
  float most, sum, log_sum;  // the largest logit; the sum of exp((logit - most) / temperature), and its logarithm
  float logsumexp, entropy;
};

// Where the largest of some numbers is wanted, NaN among them shows.
struct LargerOrNan {
  __device__ __forceinline__ float operator()(float x, float y) const { return x > y || x != x ? x : y; }
};

NamedRows named_rows(const TokenRows& tokens, Launch& on);

inline TokenRows token_rows(const Linear& linear, const int32_t* row, const uint8_t* mask) {
  // A part of a vocabulary: ids beyond it belong to the other parts, any up to the end of int32.
  TokenRows rows{linear.token, row, mask, linear.T, linear.R, linear.part ? int64_t{INT_MAX} + 1 : linear.V};
  if (linear.part) rows.padding = linear.vocab_start + linear.V, rows.padding_end = linear.vocab_start + linear.width;
  return rows;
}

struct LinearChunk {
  NamedRows named;      // set by the caller
  int64_t begin, rows;  // of the list of named rows; fewer where it ends before
  float* logits;        // [rows,stride]
  int64_t stride;       // V, and what aligns the next row to 16 bytes
  Softmax* softmax;     // [rows]
  int32_t* live;        // [1], rows of this chunk that exist
  int32_t* has_gradient;                  // [rows]
  int32_t *kept, *kept_row, *kept_count;  // [rows], [rows], [1]: those with a gradient
  float *row_largest, *column_largest;    // [rows], [V]: magnitudes of their gradients, null unless a product asks
  float* head_sum;      // [V,D], null where gradHead is float32 itself or not wanted
  float* bias_sum;      // [V], likewise
  // [1], how many rows have no set, in a call with sets: the sums are of use where there is any. Null: all rows.
  const uint32_t* whole_rows;
};

// Memory for a chunk of chunk_rows rows (null: as many as are good); gradients null where none are wanted.
LinearChunk linear_chunk(const Linear& linear, const LinearGradients* gradients, int64_t chunk_rows, Launch& on);

void chunk_softmax(const Linear& linear, LinearChunk& chunk, int64_t begin,
                   float* logp,       // [T], may be null
                   float* entropy,    // [T], may be null
                   float* logsumexp,  // [T], may be null
                   Launch& on);

// logsumexp and entropy replace those of the logits where they are given.
void chunk_gradient(const Linear& linear, const LinearChunk& chunk,
                    const float* logsumexp,     // [T], may be null
                    const float* entropy,       // [T], may be null
                    const float* grad_logp,     // [T]
                    const float* grad_entropy,  // [T], may be null
                    const LinearGradients& gradients, Launch& on);

// Before the first chunk and after the last one.
void begin_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on);
void end_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on);

}  // namespace grpo::cuda
