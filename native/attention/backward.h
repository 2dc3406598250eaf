// What the schedules of the backward pass share: its arguments, a thread's workspace, and what one pair of a query tile
// and a key tile adds to the gradients.
#pragma once

#include <algorithm>

#include "attention/attention.h"
#include "attention/products.h"
#include "attention/tiles.h"
#include "attention/work.h"

namespace grpo {

// A gradient has its own type, so that half-precision inputs may have float32 gradients.
struct Gradient {
  void* data;  // may be null
  Float type;
  int64_t stride;  // elements from one token to the next

  static Gradient of(DLTensor* x) {
    if (x == nullptr) return {nullptr, Float::kF32, 0};
    return {grpo::data<void>(x), float_type(x), row_stride(x)};
  }
};

struct BackwardProblem {
  Heads q, k, v;
  const void *grad_out, *out;  // [P,H,E]
  const void* out_low;         // [P,H,E]  what rounding lost of out; may be null
  const float* logsumexp;      // [P,H]
  const Segments& segments;
  Gradient grad_q, grad_k, grad_v;
  const AttentionSizes& sizes;
  HeadBlocks blocks;
  float grad_scale;    // what all gradients are multiplied by
  bool bf16_grad_out;  // sizes.bf16, and gradOut times that is bf16
};

// Float32 sums of a gradient, row by row from token `origin`: the output itself where it is float32.
struct Sums {
  float* data;  // null: not wanted
  int64_t stride;
  int32_t origin;

  float* row(int32_t token) const { return data + (token - origin) * stride; }
};

struct BackwardWorkspace {
  float* q;             // [kTileRows, D]
  float* q_columns;     // [D, kTileRows]  q transposed
  float* grad_out;      // [kTileRows, E]  times grad_scale
  float* grad_columns;  // [E, kTileRows]  grad_out transposed
  float* grad_q;        // [kTileRows, D]  and out [kTileRows, E], while queries are packed
  float* k;             // [kTileKeys, D]
  float* v;             // [kTileKeys, E]
  float* scores;        // [kTileKeys, kTileRows]
  float* grad_scores;   // [kTileKeys, kTileRows]
  float *logsumexp, *delta;
  int32_t* ranges;      // [2 * kTileRows]
  float* visible;       // [kTileRows, max(D, E)]  what one key is seen by, or one query sees, and zeros
  float* products;      // scratch of products
  float* sums_k;        // [keys, D]  gradients that are not float32 themselves
  float* sums_v;        // [keys, E]

  static BackwardWorkspace cut(Carver& carver, const AttentionSizes& sizes, int64_t keys) {
    return {.q = carver.take(kTileRows * sizes.D),
            .q_columns = carver.take(kTileRows * sizes.D),
            .grad_out = carver.take(kTileRows * sizes.E),
            .grad_columns = carver.take(kTileRows * sizes.E),
            .grad_q = carver.take(kTileRows * std::max(sizes.D, sizes.E)),
            .k = carver.take(kTileKeys * sizes.D),
            .v = carver.take(kTileKeys * sizes.E),
            .scores = carver.take(kTileKeys * kTileRows),
            .grad_scores = carver.take(kTileKeys * kTileRows),
            .logsumexp = carver.take(kTileRows),
            .delta = carver.take(kTileRows),
            .ranges = reinterpret_cast<int32_t*>(carver.take(2 * kTileRows)),
            .visible = carver.take(kTileRows * std::max(sizes.D, sizes.E)),
            .products = carver.take(product_scratch(sizes)),
            .sums_k = carver.take(keys * sizes.D),
            .sums_v = carver.take(keys * sizes.E)};
  }
};

// The queries of tokens [begin, end) and of some heads of one key head, packed into a workspace.
struct Queries {
  int64_t key_head, head, heads;
  int32_t begin, end;
  bool finite;
};

// Copies queries into a workspace, with what all of their pairs need: gradOut in two directions, and delta.
Queries pack(const BackwardProblem& problem, int64_t key_head, int64_t block, int32_t begin, int32_t end,
             const BackwardWorkspace& work);

// What one pair of tiles adds to the gradients.
void add_pair(const BackwardProblem& problem, const Queries& queries, const TilePair& pair, bool grad_q,
              const Sums& sums_k, const Sums& sums_v, const BackwardWorkspace& work);

}  // namespace grpo
