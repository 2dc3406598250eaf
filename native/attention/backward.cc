// The products of the backward pass, tile by tile:
//
//   p = exp(scale q.k - logsumexp)   gradV[j] = sum_q p gradOut[q]      delta[q] = gradOut[q] . out[q]
//   s = scale p (gradOut.v - delta)  gradK[j] = sum_q s q               gradQ[q] = sum_j s k[j]
//   with a soft-cap s times its slope
#include "attention/backward.h"

#include "attention/rows.h"

namespace grpo {
namespace {

// delta[r] += grad_out[r] . out[r], by the very chain of products and sums that forms gradOut . v in add_pair: where
// out is v (a token that sees only itself) the two cancel to exactly 0. As diagonals of small squares, because the
// vector code has products of matrices only.
void add_delta(const BackwardProblem& problem, const float* out, const BackwardWorkspace& work, int64_t rows) {
  constexpr int64_t kSquare = 16;
  const int64_t E = problem.sizes.E;
  for (int64_t r = 0; r < rows; r += kSquare) {
    const int64_t n = std::min(kSquare, rows - r);
    multiply_rows(problem.bf16_grad_out, out + r * E, work.grad_out + r * E, work.grad_columns + r, E, work.scores, n,
                  n, work.products);
    for (int64_t i = 0; i < n; ++i) work.delta[r + i] += work.scores[i * kTileRows + i];
  }
}

// x[rows, columns], with zeros for the rows that do not see key j.
const float* rows_that_see(int64_t j, const KeyRanges& seen, const float* x, int64_t rows, int64_t columns, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    if (seen.begin[r] <= j && j < seen.end[r]) std::copy_n(x + r * columns, columns, y + r * columns);
    else std::fill_n(y + r * columns, columns, 0.0f);
  }
  return y;
}

// sums[keys, columns] += factors[keys, rows] x[rows, columns], factors being 0 where a row does not see a key.
void add_to_keys(const BackwardProblem& problem, const Sums& sums, const float* factors, const float* x,
                 const TilePair& pair, int64_t rows, int64_t columns, const KeyRanges* seen,
                 const BackwardWorkspace& work) {
  if (sums.data == nullptr) return;
  const auto add = [&](int32_t j, int64_t keys, const float* x) {
    multiply(problem.sizes.standard, rows_of(factors + j * kTileRows, kTileRows), rows_of(x, columns),
             sums.row(pair.key + j), sums.stride, keys, columns, rows, true, work.products);
  };
  if (seen == nullptr) return add(0, pair.keys, x);
  for (int32_t j = 0; j < pair.keys; ++j) add(j, 1, rows_that_see(j, *seen, x, rows, columns, work.visible));
}

}  // namespace

Queries pack(const BackwardProblem& problem, int64_t key_head, int64_t block, int32_t begin, int32_t end,
             const BackwardWorkspace& work) {
  const AttentionSizes& sizes = problem.sizes;
  const int64_t H = sizes.H, D = sizes.D, E = sizes.E;
  const int64_t head = problem.blocks.head(key_head, block), heads = problem.blocks.heads(block);
  const int64_t tokens = end - begin, rows = tokens * heads, first = begin * H + head;
  gather(problem.q.data, sizes.type, begin * problem.q.stride + head * D, problem.q.stride, tokens, heads * D, work.q);
  if (!sizes.bf16) transpose(work.q, rows, D, work.q_columns);
  gather(problem.grad_out, sizes.type, first * E, H * E, tokens, heads * E, work.grad_out);
  // All gradients are linear in gradOut, so that the factor belongs to it.
  for (int64_t i = 0; problem.grad_scale != 1 && i < rows * E; ++i) work.grad_out[i] *= problem.grad_scale;
  if (!problem.bf16_grad_out) transpose(work.grad_out, rows, E, work.grad_columns);
  gather(problem.out, sizes.type, first * E, H * E, tokens, heads * E, work.grad_q);
  std::fill_n(work.delta, rows, 0.0f);
  add_delta(problem, work.grad_q, work, rows);
  if (problem.out_low != nullptr) {
    gather(problem.out_low, sizes.type, first * E, H * E, tokens, heads * E, work.grad_q);
    add_delta(problem, work.grad_q, work, rows);
  }
  gather(problem.logsumexp, Float::kF32, first, H, tokens, heads, work.logsumexp);
  return {key_head, head, heads, begin, end, all_finite(work.q, rows * D) && all_finite(work.grad_out, rows * E)};
}

void add_pair(const BackwardProblem& problem, const Queries& queries, const TilePair& pair, bool grad_q,
              const Sums& sums_k, const Sums& sums_v, const BackwardWorkspace& work) {
  const AttentionSizes& sizes = problem.sizes;
  const int64_t D = sizes.D, E = sizes.E, keys = pair.keys;
  const int64_t first = (pair.token - queries.begin) * queries.heads;
  const int64_t rows = (pair.token_end - pair.token) * queries.heads;
  const Heads &k = problem.k, &v = problem.v;
  const float *q = work.q + first * D, *grad_out = work.grad_out + first * E;
  gather(k.data, sizes.type, pair.key * k.stride + queries.key_head * D, k.stride, keys, D, work.k);
  gather(v.data, sizes.type, pair.key * v.stride + queries.key_head * E, v.stride, keys, E, work.v);
  multiply_rows(sizes.bf16, work.k, q, work.q_columns + first, D, work.scores, keys, rows, work.products);
  multiply_rows(problem.bf16_grad_out, work.v, grad_out, work.grad_columns + first, E, work.grad_scores, keys, rows,
                work.products);
  const KeyRanges ranges = seen_keys(problem.segments, pair, queries.heads, work.ranges);
  vector_kernels().softmax_tile_backward(work.scores, work.grad_scores, kTileRows, keys, rows, ranges, sizes.softcap,
                                         work.logsumexp + first, work.delta + first, sizes.scale);

  // Zero times a value that is not finite would not be zero: then each sum has zeros for what is hidden. For finite
  // values these change no bit.
  const bool finite = ranges.end == nullptr || (queries.finite && all_finite(work.k, keys * D));
  const KeyRanges* seen = finite ? nullptr : &ranges;
  add_to_keys(problem, sums_v, work.scores, grad_out, pair, rows, E, seen, work);
  add_to_keys(problem, sums_k, work.grad_scores, q, pair, rows, D, seen, work);
  if (!grad_q) return;
  const auto add = [&](int64_t r, int64_t count, const float* k) {
    multiply(sizes.standard, {work.grad_scores + r, Float::kF32, 1, kTileRows}, rows_of(k, D),
             work.grad_q + (first + r) * D, D, count, D, keys, true, work.products);
  };
  if (finite) return add(0, rows, work.k);
  for (int64_t r = 0; r < rows; ++r)
    add(r, 1, keys_seen(work.k, ranges.begin[r], ranges.end[r], keys, D, work.visible));
}

}  // namespace grpo
