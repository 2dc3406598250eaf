// Logits from hidden states, logits = hidden head^T + bias, a chunk of rows at a time: what the linear operations have
// in common. The whole [R,V] never exists. A chunk is worked on in blocks of kBlock columns of the vocabulary:
//
//   chunk_softmax    one product:   the logits of a block, and from them the softmax of each row, block by block
//   chunk_gradient   two products:  the logits become their gradient in place, then gradHidden and gradHead
//
// Every sum has a fixed order, whatever the number of threads. What a row gets does not depend on the chunk it is in;
// gradHead and gradHeadBias are sums over rows, chunk after chunk.
#pragma once

#include "linear/arena.h"
#include "linear/linear.h"
#include "logits/logits.h"

namespace grpo {

struct ChunkShape {
  int64_t T, D, V;
  int64_t rows;   // of a chunk; the last one may have fewer
  bool several;   // chunks
  bool gradient;  // or only the softmax
  bool bias;      // is its gradient wanted?
  Float head_type, bias_type;  // of the gradients
  int64_t threads;
};

// For `rows` rows, in chunks of chunk_rows (null: as many as are good); gradients null for the softmax alone.
ChunkShape chunk_shape(const Linear& linear, const LinearGradients* gradients, int64_t rows, int64_t chunk_rows);

// Null where the shape does not need it.
struct ChunkMemory {
  int64_t rows;
  float* hidden;        // [rows,D], then the chunk's rows of gradHidden
  float* logits;        // with a gradient [rows,V], block after block; otherwise a block [rows,kBlock] for each thread
  RowSoftmax* parts;    // [rows,blocks]
  RowSoftmax* softmax;  // [rows]
  float* temperature;   // [rows], where rows have their own
  float* product;       // scratch of the matrix product, for each thread
  int32_t *kept, *local, *start;  // [rows], [rows], [rows+1]
  int32_t* t;                     // [T]
  Target* targets;                // [T]
  float* head_sum;  // gradHead in float32 where it is not: [V,D], or with one chunk [sum_columns,D] for each thread
  float* bias_sum;  // [V], likewise
  int64_t sum_columns;
};

void lay_out(const ChunkShape& shape, Arena& arena, ChunkMemory& memory);

// Rows begin .. end - 1 of those that `tokens` lists.
RowTokens chunk_of(const RowTokens& tokens, int64_t begin, int64_t end);

// The softmax of each row of a chunk into memory.softmax, the logit of each token into logit[t].
void chunk_softmax(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, bool keep_logits,
                   float* logit);  // [T], may be null

// After chunk_softmax with keep_logits: what the chunk adds to the gradients. Rows of a chunk whose coefficients are
// all exactly 0 take part in no product. Call it for one chunk at least, though it be empty: the first one fills with
// zeros.
void chunk_gradient(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory,
                    const float* grad_logp,     // [T]
                    const float* grad_entropy,  // [T], may be null
                    const LinearGradients& gradients, bool first_chunk, bool last_chunk);

// Calls forward(chunk, softmax) for each chunk of rows, whose tokens' logits are in `logit`.
template <class Forward>
void for_softmax_chunks(const Linear& linear, const RowTokens& tokens,
                        float* logit,  // [T]
                        int64_t chunk_rows, Forward&& forward) {
  const ChunkShape shape = chunk_shape(linear, nullptr, tokens.count, chunk_rows);
  const Laid<ChunkShape, ChunkMemory> memory(shape);
  for (int64_t begin = 0; begin < tokens.count && !cancelled(); begin += shape.rows) {
    const RowTokens chunk = chunk_of(tokens, begin, std::min(begin + shape.rows, tokens.count));
    chunk_softmax(linear, chunk, *memory, false, logit);
    forward(chunk, memory->softmax);
  }
}

// All of it: between the softmax of a chunk and its gradient, between(chunk, softmax) may complete grad_logp and
// grad_entropy for the chunk's tokens, from their logits in `logit` and the softmax of their rows, which it may change.
template <class Between>
void for_gradient_chunks(const Linear& linear, const RowTokens& tokens,
                         float* logit,               // [T], may be null
                         const float* grad_logp,     // [T]
                         const float* grad_entropy,  // [T], may be null
                         const LinearGradients& gradients, int64_t chunk_rows, Between&& between) {
  const ChunkShape shape = chunk_shape(linear, &gradients, tokens.count, chunk_rows);
  const Laid<ChunkShape, ChunkMemory> memory(shape);
  int64_t begin = 0, end;
  do {
    end = std::min(begin + shape.rows, tokens.count);
    const RowTokens chunk = chunk_of(tokens, begin, end);
    chunk_softmax(linear, chunk, *memory, true, logit);
    between(chunk, memory->softmax);
    chunk_gradient(linear, chunk, *memory, grad_logp, grad_entropy, gradients, begin == 0, end == tokens.count);
  } while ((begin = end) < tokens.count && !cancelled());
}

}  // namespace grpo
