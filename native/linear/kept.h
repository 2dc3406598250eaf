// Rows of hidden states that have sets of ids (logits/kept_sets.h): of the head only the rows that a set keeps are
// multiplied, for one row of hidden states at a time.
//
//   kept_softmax            logits of the set, their softmax
//   kept_gradient           the logits become their gradient in place; gradHidden
//   add_kept_head_gradient  gradHead, row after row of those that are in any set, of each the sum over its rows of
//                           hidden states in their order
//
// A row whose set is one id is certain of it: logp 0 (another token's is -inf), entropy 0, no gradient, whatever its
// hidden state. It is multiplied only where its logsumexp is asked for.
//
// for_softmax_rows and for_gradient_rows are what the operations call: they part the rows with sets from those without,
// which go through the chunks of chunk.h.
#pragma once

#include "linear/chunk.h"
#include "logits/sort_by_key.h"

namespace grpo {

struct RowSplit {
  RowTokens whole, kept;
};
inline int64_t split_scratch(int64_t T) { return 3 * T + 2; }
RowSplit split_rows(const RowTokens& tokens, const KeptSets& kept, int32_t* scratch);  // [split_scratch]

struct KeptShape {
  int64_t T, D, M;
  bool gradient;
  // Sums of float32 that rows with and without sets have in common, each of so many rows of the head; 0: none.
  int64_t head_sum, bias_sum;
  int64_t threads;
};

// Null where the shape does not need it.
struct KeptLinearMemory {
  KeptMemory sets;
  float *hidden, *sum;  // [threads,D] each
  Target* targets;      // [T]
  uint8_t* live;        // [T], whether a row has a gradient
  int32_t* pairs;       // [4 M]
  float* head_sum;      // [head_sum,D]
  float* bias_sum;      // [bias_sum]
};

// `both`: there are rows with and without sets; gradients null for the softmax alone.
KeptShape kept_shape(const Linear& linear, const LinearGradients* gradients, bool both);
void lay_out(const KeptShape& shape, Arena& arena, KeptLinearMemory& memory);

// Of row i of those with sets; the logit of each of its tokens into logit[t] where that is not null.
RowSoftmax kept_softmax(const Linear& linear, const RowTokens& kept, int64_t i, const KeptLinearMemory& memory,
                        int worker, float* logit);
// Where its set is one id: the logsumexp of its tokens.
void write_single_logsumexp(const Linear& linear, const RowTokens& kept, int64_t i, const KeptLinearMemory& memory,
                            int worker,
                            float* logsumexp);  // [T]
// Its gradient in place of its logits, and its gradHidden.
void kept_gradient(const Linear& linear, const RowTokens& kept, int64_t i, const RowSoftmax& softmax,
                   const KeptLinearMemory& memory, int worker,
                   const float* grad_logp,     // [T]
                   const float* grad_entropy,  // [T], may be null
                   const LinearGradients& gradients);
// What all of them add to gradHead and gradHeadBias.
void add_kept_head_gradient(const Linear& linear, const RowTokens& kept, const KeptLinearMemory& memory,
                            const LinearGradients& gradients);

// Zeros, where no row without a set has begun the gradients.
void begin_gradients(const Linear& linear, const LinearGradients& gradients);
// With the sums that both kinds of rows have in common in their place, and what becomes of these.
LinearGradients common_sums(const Linear& linear, const LinearGradients& gradients, const KeptLinearMemory& memory);
void round_common_sums(const Linear& linear, const KeptLinearMemory& memory, const LinearGradients& gradients);

// As for_softmax_chunks, of rows of both kinds; a row with a set is a chunk of its own, and `forward` is called on all threads.
template <class Forward>
void for_softmax_rows(const Linear& linear, const RowTokens& tokens,
                      float* logit,      // [T]
                      float* logsumexp,  // [T], may be null: what a set of one id leaves to this
                      int64_t chunk_rows, Forward&& forward) {
  if (linear.kept.start == nullptr) return for_softmax_chunks(linear, tokens, logit, chunk_rows, forward);
  Scratch<int32_t> split(split_scratch(linear.T));
  const RowSplit rows = split_rows(tokens, linear.kept, split.data());
  for_softmax_chunks(linear, rows.whole, logit, chunk_rows, forward);
  const Laid<KeptShape, KeptLinearMemory> memory(kept_shape(linear, nullptr, false));
  place_tokens(linear.kept, rows.kept, linear.token, memory->sets);
  parallel_for(rows.kept.count, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      RowSoftmax softmax = kept_softmax(linear, rows.kept, i, *memory, worker, logit);
      forward(chunk_of(rows.kept, i, i + 1), &softmax);
      if (logsumexp != nullptr) write_single_logsumexp(linear, rows.kept, i, *memory, worker, logsumexp);
    }
  });
}

// As for_gradient_chunks.
template <class Between>
void for_gradient_rows(const Linear& linear, const RowTokens& tokens,
                       float* logit,               // [T], may be null
                       const float* grad_logp,     // [T]
                       const float* grad_entropy,  // [T], may be null
                       const LinearGradients& gradients, int64_t chunk_rows, Between&& between) {
  if (linear.kept.start == nullptr)
    return for_gradient_chunks(linear, tokens, logit, grad_logp, grad_entropy, gradients, chunk_rows, between);
  Scratch<int32_t> split(split_scratch(linear.T));
  const RowSplit rows = split_rows(tokens, linear.kept, split.data());
  const bool both = rows.whole.count > 0 && rows.kept.count > 0;
  const Laid<KeptShape, KeptLinearMemory> memory(kept_shape(linear, &gradients, both));
  const LinearGradients sums = common_sums(linear, gradients, *memory);
  if (rows.whole.count > 0)
    for_gradient_chunks(linear, rows.whole, logit, grad_logp, grad_entropy, sums, chunk_rows, between);
  else begin_gradients(linear, sums);
  place_tokens(linear.kept, rows.kept, linear.token, memory->sets);
  parallel_for(rows.kept.count, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      RowSoftmax softmax = kept_softmax(linear, rows.kept, i, *memory, worker, logit);
      between(chunk_of(rows.kept, i, i + 1), &softmax);
      kept_gradient(linear, rows.kept, i, softmax, *memory, worker, grad_logp, grad_entropy, sums);
    }
  });
  if (cancelled()) return;
  add_kept_head_gradient(linear, rows.kept, *memory, sums);
  round_common_sums(linear, *memory, gradients);
}

}  // namespace grpo
