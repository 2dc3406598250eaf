// Backward pass of shared-prefix attention, see attention/tiles.h.
//
// Its products stand in attention/backward.cc, the gradient of sinks in attention/sink.cc. Here are two schedules, with
// the same bits, because both add the same tile products to the same element in the same order (gradQ: leaf to root;
// gradK, gradV: query tiles as they are packed, head blocks within a tile):
//   trees    a thread owns a tree and a key head: five products for each pair of tiles. gradK and gradV of half
//            precision are summed in float32 rows of the tree's tokens, for one key head per thread;
//   owners   threads own query tiles for gradQ, then blocks of keys for gradK and gradV: seven products, since the
//            scores are formed twice, but as many tasks as there are tiles, and scratch for tiles only. Also where
//            gradQ or both others are not wanted.
#include <algorithm>
#include <cmath>

#include "attention/backward.h"
#include "attention/out_low.h"
#include "attention/rows.h"
#include "attention/sink.h"

namespace grpo {
namespace {

constexpr int64_t kBlockKeys = 4 * kTileKeys;  // of an owner, so that it packs the queries once for four key tiles

// All pairs of a query tile: gradQ whole, and its part of gradK and gradV where sums are given.
void add_query_tile(const BackwardProblem& problem, const TokenTile& tile, int64_t key_head, int64_t block,
                    const Sums& sums_k, const Sums& sums_v, const BackwardWorkspace& work) {
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
void with_sums(const BackwardProblem& problem, int64_t key_head, int32_t begin, int32_t end,
               const BackwardWorkspace& work, F&& add) {
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

bool needs_sums(const BackwardProblem& problem) {
  const auto needs = [](const Gradient& x) { return x.data != nullptr && x.type != Float::kF32; };
  return needs(problem.grad_k) || needs(problem.grad_v);
}

// Whether a thread per tree and key head is the faster schedule, in at most the memory of the gradients themselves.
bool prefer_trees(const BackwardProblem& problem, const int32_t* roots, int64_t G, int64_t largest) {
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

void run_trees(const BackwardProblem& problem, const int32_t* roots, int64_t G, int64_t largest) {
  const int64_t K = problem.sizes.K;
  const Segments& segments = problem.segments;
  for_each_task<BackwardWorkspace>(G * K, [&](int64_t task, const BackwardWorkspace& work) {
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

void run_owners(const BackwardProblem& problem) {
  const Segments& segments = problem.segments;
  const int64_t K = problem.sizes.K, blocks = problem.blocks.count;
  TileList tiles([&](auto&& add) { for_each_query_tile(segments, 0, segments.B, problem.blocks.tokens, add); });
  if (problem.grad_q.data != nullptr) {
    for_each_task<BackwardWorkspace>(K * blocks * tiles.count, [&](int64_t task, const BackwardWorkspace& work) {
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
  for_each_task<BackwardWorkspace>(K * key_blocks.count, [&](int64_t task, const BackwardWorkspace& work) {
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

void prefix_attention_backward(const BackwardProblem& problem) {
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

bool is_power_of_two(float x) {
  int exponent;
  return std::fabs(std::frexp(x, &exponent)) == 0.5f;
}

int check_out_low(const Args& args, const AttentionSizes& sizes) {
  if (args.out_low == nullptr) return GRPO_OK;
  const int64_t at = first_foreign_low(data<void>(args.out), data<void>(args.out_low), sizes.type,
                                       sizes.P * sizes.H * sizes.E);
  if (at < 0) return GRPO_OK;
  const int64_t row = at / sizes.E;
  const std::string place = "[" + std::to_string(row / sizes.H) + "," + std::to_string(row % sizes.H) + "," +
                            std::to_string(at % sizes.E) + "]";
  return fail(GRPO_VALUE, "out_low", "has at " + place + " more than rounding can have lost of {out} there, " +
                                         "expected the {out_low} of the forward call that returned {out}");
}

int run(const Args& args, const Axes& axes) {
  Segments segments = segments_of(args, axes);
  const AttentionSizes sizes = sizes_of(args, axes);
  if (int status = check_attention(args, axes)) return status;
  if (int status = check_layout(segments)) return status;
  if (int status = check_out_low(args, sizes)) return status;
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
                             HeadBlocks(sizes), grad_scale,
                             sizes.bf16 && (sizes.standard || is_power_of_two(grad_scale))});
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
