// Logits from hidden states, logits = hidden head^T + bias, a chunk of rows at a time: what the linear operations have
// in common. The whole [R,V] never exists. Everything is enqueued without waiting: the device alone knows how many rows
// unmasked tokens name and how many of a chunk have a gradient; the products read those numbers when they run.
//
//   chunk_softmax    one product: the logits of a chunk, float32; from them the softmax of each row and the logp of its
//                    tokens
//   chunk_gradient   the logits become their gradient in place, float32, or f16 where that is enough (halves.cuh); rows
//                    whose coefficients are all exactly 0 are left out of the two products, which give gradHidden and
//                    gradHead
//
// The sums of gradHead and gradHeadBias run over the rows in order, chunk after chunk. What a row gets depends neither
// on the chunk that it is in nor on the others.
//
// How many rows a chunk has decides the order of the sums, and is a function of the vocabulary and of the device: of
// the memory that it has, not of what happens to be free. So a call's bits, and the memory that a plan promises, do not
// depend on what else runs.
#pragma once

#include "linear/matmul.cuh"
#include "blocks/powers.cuh"
#include "logits/logits_softmax.cuh"
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

NamedRows named_rows(const TokenRows& tokens, Launch& on);

inline TokenRows token_rows(const Linear& linear, const int32_t* row, const uint8_t* mask) {
  // A part of a vocabulary: ids beyond it belong to the other parts, any up to the end of int32.
  TokenRows rows{linear.token, row, mask, linear.T, linear.R, linear.part ? int64_t{INT_MAX} + 1 : linear.V};
  if (linear.part) rows.padding = linear.vocab_start + linear.V, rows.padding_end = linear.vocab_start + linear.width;
  return rows;
}

constexpr int32_t kNoExponent = INT32_MIN;

struct LinearChunk {
  NamedRows named;      // set by the caller
  int64_t begin, rows;  // of the list of named rows; fewer where it ends before
  float* logits;        // [rows,stride]
  int64_t stride;       // V, and what aligns the next row to 32 bytes
  SoftmaxOfRow* softmax;                  // [rows]
  int32_t* live;                          // [1], rows of this chunk that exist
  float* own_gradient;                    // [T], in the order of the list: of the tokens' own logits
  int32_t* has_gradient;                  // [rows]
  int32_t *kept, *kept_row, *kept_count;  // [rows], [rows], [1]: those with a gradient
  float *row_largest, *column_largest;    // [rows], [V]: magnitudes of their gradients, null unless a product asks
  float* head_sum;      // [V,D], null where gradHead is float32 itself or not wanted
  float* bias_sum;      // [V], likewise
  // [1], how many rows have no set, in a call with sets: the sums are of use where there is any. Null: all rows.
  const uint32_t* whole_rows;

  // Where the factors of the gradients are f16 (halves.cuh). Each is 2^power times what it stands for.
  bool halves;
  Choice choice;           // they are, unless the device finds the head too wide for that
  int32_t* power;          // [rows], of the gradients, which lie at the begin of their row of logits
  Matrix head;             // [V,D], the call's own where that is f16
  const int32_t* head_power;  // [1], null: 0
  f16* halved_head;        // [V,D], null where it is the call's own
  uint32_t* head_words;    // [3], likewise: its largest magnitude, its power, how many numbers lose digits
  f16* hidden;             // [rows,D], of the rows that are kept
  int32_t *hidden_exponent, *hidden_power;  // [1]

  __device__ __forceinline__ bool is_halved() const { return halves && !choice.head_is_wide(); }
  __device__ __forceinline__ double gradient(int64_t i, int64_t v) const {
    const float* row = logits + i * stride;
    if (!is_halved()) return row[v];
    return static_cast<double>(to_float(reinterpret_cast<const f16*>(row)[v])) * PowerOfTwo::exactly(-power[i]);
  }
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
