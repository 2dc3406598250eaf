// Backward pass of shared-prefix attention, see attention/tiles.h.
//
//   p = exp(scale q.k - logsumexp)   gradV[j] = sum_q p gradOut[q]      delta[q] = gradOut[q] . out[q]
//   s = scale p (gradOut.v - delta)  gradK[j] = sum_q s q               gradQ[q] = sum_j s k[j]
//   with a soft-cap s times its slope; with a sink gradSink, see attention/sink.h
//
// Two schedules with the same bits, because both add the same tile products to the same element in the same order
// (gradQ: leaf to root; gradK, gradV: query tiles as they are packed, head blocks within a tile):
//   trees    a thread owns a tree and a key head: five products for each pair of tiles. gradK and gradV of half
//            precision are summed in float32 rows of the tree's tokens, for one key head per thread;
//   owners   threads own query tiles for gradQ, then blocks of keys for gradK and gradV: seven products, since the
//            scores are formed twice, but as many tasks as there are tiles, and scratch for tiles only. Also where
//            gradQ or both others are not wanted.
#include <algorithm>

#include "attention/attention.h"
#include "attention/rows.h"
#include "attention/sink.h"
#include "attention/work.h"

namespace grpo {
namespace {

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

constexpr int64_t kBlockKeys = 4 * kTileKeys;  // of an owner, so that it packs the queries once for four key tiles

struct Problem {
  Heads q, k, v;
  const void *grad_out, *out;  // [P,H,E]
  const void* out_low;         // [P,H,E]  what rounding lost of out; may be null
  const float* logsumexp;      // [P,H]
  const Segments& segments;
  Gradient grad_q, grad_k, grad_v;
  const AttentionSizes& sizes;
  HeadBlocks blocks;
  float grad_scale;  // what all gradients are multiplied by
};

// Float32 sums of a gradient, row by row from token `origin`: the output itself where it is float32.
struct Sums {
  float* data;  // null: not wanted
  int64_t stride;
  int32_t origin;

  float* row(int32_t token) const { return data + (token - origin) * stride; }
};

struct Workspace {
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
  float* visible;       // [kTileRows, max(D, E)]  what one key is seen by, and zeros
  float* sums_k;        // [keys, D]  gradients that are not float32 themselves
  float* sums_v;        // [keys, E]

  static Workspace cut(Carver& carver, const AttentionSizes& sizes, int64_t keys) {
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

// delta[r] = grad_out[r] . out[r], by the very chain of products and sums that forms gradOut . v in add_pair: where out
// is v (a token that sees only itself) the two cancel to exactly 0. As diagonals of small squares, because the vector
// code has products of matrices only.
void form_delta(const float* out, const Workspace& work, int64_t rows, int64_t E) {
  constexpr int64_t kSquare = 16;
  for (int64_t r = 0; r < rows; r += kSquare) {
    const int64_t n = std::min(kSquare, rows - r);
    vector_kernels().matmul_tile(out + r * E, E, 1, work.grad_columns + r, kTileRows, work.scores, kSquare, n, n, E,
                                 false);
    for (int64_t i = 0; i < n; ++i) work.delta[r + i] = work.scores[i * kSquare + i];
  }
}

Queries pack(const Problem& problem, int64_t key_head, int64_t block, int32_t begin, int32_t end,
             const Workspace& work) {
  const AttentionSizes& sizes = problem.sizes;
  const int64_t H = sizes.H, D = sizes.D, E = sizes.E;
  const int64_t head = problem.blocks.head(key_head, block), heads = problem.blocks.heads(block);
  const int64_t tokens = end - begin, rows = tokens * heads, first = begin * H + head;
  gather(problem.q.data, sizes.type, begin * problem.q.stride + head * D, problem.q.stride, tokens, heads * D, work.q);
  transpose(work.q, rows, D, work.q_columns);
  gather(problem.grad_out, sizes.type, first * E, H * E, tokens, heads * E, work.grad_out);
  // All gradients are linear in gradOut, so that the factor belongs to it.
  for (int64_t i = 0; problem.grad_scale != 1 && i < rows * E; ++i) work.grad_out[i] *= problem.grad_scale;
  transpose(work.grad_out, rows, E, work.grad_columns);
  gather(problem.out, sizes.type, first * E, H * E, tokens, heads * E, work.grad_q);
  if (problem.out_low != nullptr) add_rows(problem.out_low, sizes.type, first * E, H * E, tokens, heads * E, work.grad_q);
  form_delta(work.grad_q, work, rows, E);
  gather(problem.logsumexp, Float::kF32, first, H, tokens, heads, work.logsumexp);
  return {key_head, head, heads, begin, end, all_finite(work.q, rows * D) && all_finite(work.grad_out, rows * E)};
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
void add_to_keys(const Sums& sums, const float* factors, const float* x, const TilePair& pair, int64_t rows,
                 int64_t columns, const KeyRanges* seen, float* visible) {
  if (sums.data == nullptr) return;
  const VectorKernels& kernels = vector_kernels();
  if (seen == nullptr)
    return kernels.matmul_tile(factors, kTileRows, 1, x, columns, sums.row(pair.key), sums.stride, pair.keys, columns,
                               rows, true);
  for (int32_t j = 0; j < pair.keys; ++j)
    kernels.matmul_tile(factors + j * kTileRows, kTileRows, 1, rows_that_see(j, *seen, x, rows, columns, visible),
                        columns, sums.row(pair.key + j), sums.stride, 1, columns, rows, true);
}

// What one pair of tiles adds to the gradients.
void add_pair(const Problem& problem, const Queries& queries, const TilePair& pair, bool grad_q, const Sums& sums_k,
              const Sums& sums_v, const Workspace& work) {
  const AttentionSizes& sizes = problem.sizes;
  const int64_t D = sizes.D, E = sizes.E, keys = pair.keys;
  const VectorKernels& kernels = vector_kernels();
  const int64_t first = (pair.token - queries.begin) * queries.heads;
  const int64_t rows = (pair.token_end - pair.token) * queries.heads;
  const Heads &k = problem.k, &v = problem.v;
  gather(k.data, sizes.type, pair.key * k.stride + queries.key_head * D, k.stride, keys, D, work.k);
  gather(v.data, sizes.type, pair.key * v.stride + queries.key_head * E, v.stride, keys, E, work.v);
  kernels.matmul_tile(work.k, D, 1, work.q_columns + first, kTileRows, work.scores, kTileRows, keys, rows, D, false);
  kernels.matmul_tile(work.v, E, 1, work.grad_columns + first, kTileRows, work.grad_scores, kTileRows, keys, rows, E,
                      false);
  const KeyRanges ranges = seen_keys(problem.segments, pair, queries.heads, work.ranges);
  kernels.softmax_tile_backward(work.scores, work.grad_scores, kTileRows, keys, rows, ranges, sizes.softcap,
                                work.logsumexp + first, work.delta + first, sizes.scale);

  // Zero times a value that is not finite would not be zero: then sums run over what is visible alone, key by key and
  // query by query. For finite values the zeros change no bit.
  const bool finite = ranges.end == nullptr || (queries.finite && all_finite(work.k, keys * D));
  const KeyRanges* seen = finite ? nullptr : &ranges;
  add_to_keys(sums_v, work.scores, work.grad_out + first * E, pair, rows, E, seen, work.visible);
  add_to_keys(sums_k, work.grad_scores, work.q + first * D, pair, rows, D, seen, work.visible);
  if (!grad_q) return;
  float* sum = work.grad_q + first * D;
  if (finite) return kernels.matmul_tile(work.grad_scores, 1, kTileRows, work.k, D, sum, D, rows, D, keys, true);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t begin = ranges.begin[r], count = ranges.end[r] - begin;
    if (count > 0)
      kernels.matmul_tile(work.grad_scores + begin * kTileRows + r, 1, kTileRows, work.k + begin * D, D, sum + r * D, D,
                          1, D, count, true);
  }
}

// All pairs of a query tile: gradQ whole, and its part of gradK and gradV where sums are given.
void add_query_tile(const Problem& problem, const TokenTile& tile, int64_t key_head, int64_t block, const Sums& sums_k,
                    const Sums& sums_v, const Workspace& work) {
  if (cancelled()) return;
  const int64_t D = problem.sizes.D, stride = problem.grad_q.stride;
  const Queries queries = pack(problem, key_head, block, tile.begin, tile.end, work);
  const int64_t tokens = tile.end - tile.begin;
  std::fill_n(work.grad_q, tokens * queries.heads * D, 0.0f);
  for_each_pair(problem.segments, tile, [&](const TilePair& pair) {
    add_pair(problem, queries, pair, true, sums_k, sums_v, work);
  });
  scatter(work.grad_q, problem.grad_q.data, problem.grad_q.type, tile.begin * stride + queries.head * D, stride, tokens,
          queries.heads * D);
}

// Calls add(sums of gradK, sums of gradV) with sums for tokens [begin, end) of a key head that begin as zero, and
// writes them into the gradients if they are not their own memory.
template <class F>
void with_sums(const Problem& problem, int64_t key_head, int32_t begin, int32_t end, const Workspace& work, F&& add) {
  const int64_t D = problem.sizes.D, E = problem.sizes.E;
  const auto open = [&](const Gradient& gradient, int64_t n, float* own) {
    if (gradient.data == nullptr) return Sums{nullptr, 0, begin};
    Sums sums{own, n, begin};
    if (gradient.type == Float::kF32)
      sums = {static_cast<float*>(gradient.data) + begin * gradient.stride + key_head * n, gradient.stride, begin};
    for (int32_t token = begin; token < end; ++token) std::fill_n(sums.row(token), n, 0.0f);
    return sums;
  };
  const auto close = [&](const Gradient& gradient, int64_t n, const Sums& sums) {
    if (sums.data == nullptr || gradient.type == Float::kF32) return;
    scatter(sums.data, gradient.data, gradient.type, begin * gradient.stride + key_head * n, gradient.stride,
            end - begin, n);
  };
  const Sums sums_k = open(problem.grad_k, D, work.sums_k), sums_v = open(problem.grad_v, E, work.sums_v);
  add(sums_k, sums_v);
  close(problem.grad_k, D, sums_k);
  close(problem.grad_v, E, sums_v);
}

bool needs_sums(const Problem& problem) {
  const auto needs = [](const Gradient& x) { return x.data != nullptr && x.type != Float::kF32; };
  return needs(problem.grad_k) || needs(problem.grad_v);
}

// Whether a thread per tree and key head is the faster schedule, in at most the memory of the gradients themselves.
bool prefer_trees(const Problem& problem, const int32_t* roots, int64_t G, int64_t largest) {
  const AttentionSizes& sizes = problem.sizes;
  if (problem.grad_q.data == nullptr) return false;
  if (problem.grad_k.data == nullptr && problem.grad_v.data == nullptr) return false;
  const int64_t threads = thread_count(), row = sizes.D + sizes.E;
  if (needs_sums(problem)) {
    const int64_t gradients = sizes.P * (sizes.H * sizes.D + sizes.K * row) * size_of(sizes.type);
    if (threads * largest * row * int64_t{sizeof(float)} > gradients) return false;
  }
  if (threads == 1 || G * sizes.K >= 32 * threads) return true;
  // Tasks go to whichever thread is free, tree by tree; a task costs as many products as it has pairs of tiles.
  Scratch<double> busy(threads);
  std::fill_n(busy.data(), threads, 0.0);
  double total = 0;
  for (int64_t g = 0; g < G; ++g) {
    double cost = 0;
    for_each_query_tile(problem.segments, roots[g], roots[g + 1], problem.blocks.tokens, [&](const TokenTile& tile) {
      for_each_pair(problem.segments, tile, [&](const TilePair& pair) {
        cost += static_cast<double>(pair.keys) * (pair.token_end - pair.token);
      });
    });
    for (int64_t i = 0; i < sizes.K; ++i) *std::min_element(busy.data(), busy.data() + threads) += cost;
    total += cost * static_cast<double>(sizes.K);
  }
  const double last = *std::max_element(busy.data(), busy.data() + threads);
  return 5 * last <= 7 * total / static_cast<double>(threads);
}

void run_trees(const Problem& problem, const int32_t* roots, int64_t G, int64_t largest) {
  const int64_t K = problem.sizes.K;
  const Segments& segments = problem.segments;
  for_each_task<Workspace>(G * K, [&](int64_t task, const Workspace& work) {
    const int64_t g = task / K, key_head = task % K;
    const int32_t begin = segments.start[roots[g]], end = segments.start[roots[g + 1]];
    with_sums(problem, key_head, begin, end, work, [&](const Sums& sums_k, const Sums& sums_v) {
      for_each_query_tile(segments, roots[g], roots[g + 1], problem.blocks.tokens, [&](const TokenTile& tile) {
        for (int64_t block = 0; block < problem.blocks.count; ++block)
          add_query_tile(problem, tile, key_head, block, sums_k, sums_v, work);
      });
    });
  }, problem.sizes, needs_sums(problem) ? largest : 0);
}

void run_owners(const Problem& problem) {
  const Segments& segments = problem.segments;
  const int64_t K = problem.sizes.K, blocks = problem.blocks.count;
  TileList tiles([&](auto&& add) { for_each_query_tile(segments, 0, segments.B, problem.blocks.tokens, add); });
  if (problem.grad_q.data != nullptr) {
    for_each_task<Workspace>(K * blocks * tiles.count, [&](int64_t task, const Workspace& work) {
      const Sums none{nullptr, 0, 0};
      add_query_tile(problem, tiles[task % tiles.count], task / tiles.count / blocks, task / tiles.count % blocks,
                     none, none, work);
    }, problem.sizes, 0);
  }
  if (problem.grad_k.data == nullptr && problem.grad_v.data == nullptr) return;

  // Smaller blocks where there would be too few for all threads; the sums are the same.
  const int64_t block_keys = problem.sizes.P * K / kBlockKeys >= 16 * thread_count() ? kBlockKeys : kTileKeys;
  TileList key_blocks([&](auto&& add) {
    for (int32_t b = 0; b < segments.B; ++b)
      for (int64_t at = segments.start[b], end = segments.start[b + 1]; at < end; at += block_keys)
        add(TokenTile{b, static_cast<int32_t>(at), static_cast<int32_t>(std::min(at + block_keys, end))});
  });
  for_each_task<Workspace>(K * key_blocks.count, [&](int64_t task, const Workspace& work) {
    const TokenTile& keys = key_blocks[task % key_blocks.count];
    const int64_t key_head = task / key_blocks.count;
    const int32_t subtree_end = segments.start[segments.end[keys.segment]];
    with_sums(problem, key_head, keys.begin, keys.end, work, [&](const Sums& sums_k, const Sums& sums_v) {
      const TokenTile* tile = std::upper_bound(tiles.begin(), tiles.end(), keys.begin,
                                               [](int32_t token, const TokenTile& t) { return token < t.end; });
      for (; tile < tiles.end() && tile->begin < subtree_end && !cancelled(); ++tile) {
        for (int64_t block = 0; block < blocks; ++block) {
          // Packed for the first pair: with a window there may be none.
          Queries queries{};
          for_each_pair(segments, keys.segment, keys.begin, keys.end, *tile, [&](const TilePair& pair) {
            if (queries.heads == 0)
              queries = pack(problem, key_head, block, std::max(tile->begin, keys.begin),
                             std::min(tile->end, subtree_end), work);
            add_pair(problem, queries, pair, false, sums_k, sums_v, work);
          });
        }
      }
    });
  }, problem.sizes, needs_sums(problem) ? block_keys : 0);
}

void prefix_attention_backward(const Problem& problem) {
  const Segments& segments = problem.segments;
  const int64_t G = std::count(segments.parent, segments.parent + segments.B, -1);
  Scratch<int32_t> roots(G + 1);
  int64_t largest = 0;
  int32_t root = 0;
  for (int64_t g = 0; g < G; root = segments.end[root]) {
    roots[g++] = root;
    largest = std::max<int64_t>(largest, segments.start[segments.end[root]] - segments.start[root]);
  }
  roots[G] = root;
  if (prefer_trees(problem, roots.data(), G, largest)) return run_trees(problem, roots.data(), G, largest);
  run_owners(problem);
}

// ---- the C interface ------------------------------------------------------------------------------------------------

using Args = grpo_prefix_attention_backward_args;

int run(const Args& args, const Axes& axes) {
  Segments segments = segments_of(args, axes);
  const AttentionSizes sizes = sizes_of(args, axes);
  if (int status = check_attention(args, axes)) return status;
  if (int status = check_layout(segments)) return status;
  if (sizes.H == 0) return GRPO_OK;
  const float grad_scale = static_cast<float>(args.grad_scale);
  if (args.grad_sink != nullptr)
    sink_gradient(data<float>(args.sink), data<void>(args.grad_out), data<void>(args.out), data<void>(args.out_low),
                  sizes.type, data<float>(args.logsumexp), grad_scale, data<float>(args.grad_sink), sizes.P, sizes.H,
                  sizes.E);
  // Gradients without elements need no pass over the pairs of tokens.
  const bool columns = sizes.D > 0 && (args.grad_q != nullptr || args.grad_k != nullptr);
  if (!(columns || (sizes.E > 0 && args.grad_v != nullptr))) return GRPO_OK;
  Scratch<int32_t> position(segments.window == kNoWindow ? 0 : sizes.P);
  if (segments.window != kNoWindow) {
    find_positions(segments, position.data());
    segments.position = position.data();
  }
  prefix_attention_backward({heads_of(args.q), heads_of(args.k), heads_of(args.v), data<void>(args.grad_out),
                             data<void>(args.out), data<void>(args.out_low), data<float>(args.logsumexp), segments,
                             Gradient::of(args.grad_q), Gradient::of(args.grad_k), Gradient::of(args.grad_v), sizes,
                             HeadBlocks(sizes), grad_scale});
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(q, "f32|bf16|f16[P,H,D] strided"),
    GRPO_IN(k, "=q[P,K,D] strided"),
    GRPO_IN(v, "=q[P,K,E] strided"),
    GRPO_IN(grad_out, "=q[P,H,E]"),
    GRPO_IN(out, "=q[P,H,E]"),
    GRPO_IN(out_low, "=q[P,H,E] ?"),
    GRPO_IN(logsumexp, "f32[P,H]"),
    GRPO_IN(segment_start, "i32[B+1] offsets P"),
    GRPO_IN(segment_parent, "i32[B]"),
    GRPO_IN(segment_end, "i32[B]"),
    GRPO_IN(sink, "f32[H] ?"),
    GRPO_OUT(grad_q, "~q[P,H,D] strided"),
    GRPO_OUT(grad_k, "~k[P,K,D] strided"),
    GRPO_OUT(grad_v, "~v[P,K,E] strided"),
    GRPO_OUT(grad_sink, "f32[H] if sink"),
    GRPO_OPT(scale, "number? = null f32 inverse"),
    GRPO_OPT(window, "integer? = null >= 1"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(precision, "enum high|standard"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
};

}  // namespace

GRPO_OPERATION_BY(by_vectors, kPrefixAttentionBackward, prefix_attention_backward, kFields);

}  // namespace grpo
