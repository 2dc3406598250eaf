// gradQ by matrix instructions: a block owns 64 rows of queries, of up to four heads of one key head, and runs over the
// keys of their paths.
#include "attention/backward_mma.cuh"

namespace grpo::cuda {
namespace {

// Of a row: score = scale times the product of the copies, slope = p (grad times that of gradOut and v - delta).
struct RowNumbers {
  float scale, logsumexp, grad, delta;
};

template <int kD, int kE, int kTerms>
struct QueriesShared {
  static constexpr int kStages = BackwardShapes<kD, kE>::kStages;
  alignas(16) f16 q[kTileTokens * kD];
  alignas(16) f16 grad_out[kTileTokens * kE];
  alignas(16) f16 k[kStages][kTileTokens * kD];
  alignas(16) f16 v[kStages][kTileTokens * kE];
  SharedWeights<BackwardShapes<kD, kE>::kParts, kTerms> slopes;
  RowNumbers numbers[kTileTokens];
  Steps steps;
  TokenTile tile;
  int32_t first_head;
  const f16 *own_k, *own_v;  // of the key head
  uint32_t item;
};

// Whether all results are finite, and no tile of keys was marked.
template <int kD, int kE, int kTerms>
__device__ bool grad_queries(const Matrices& on, const Forest& forest, const AttentionShape& shape, int log_tokens,
                             QueriesShared<kD, kE, kTerms>& shared) {
  using S = BackwardShapes<kD, kE>;
  constexpr int kStages = S::kStages, kThreads = S::kThreads, kParts = S::kParts;
  const TokenTile& tile = shared.tile;
  const int64_t P = shape.P;
  const auto walk_on = [&](int turn) {
    const int64_t row = shared.first_head / static_cast<int32_t>(shape.H / shape.K) * P;
    shared.steps.walk_on(turn, forest, on.k.power + row, on.v.power + row);
  };
  const auto begin_copy = [&](const KeyTile& keys, int stage) {
    copy_rows<kD, kTileTokens, kThreads>(shared.k[stage], shared.own_k + keys.key * int64_t{kD}, keys.keys);
    copy_rows<kE, kTileTokens, kThreads>(shared.v[stage], shared.own_v + keys.key * int64_t{kE}, keys.keys);
  };

  if (threadIdx.x == 0) shared.steps.walk.begin(forest, tile);
  walk_on(0);  // a query sees itself at least
  walk_on(1);
  __syncthreads();
  const int count = tile.end - tile.begin;
  const int64_t first_row = shared.first_head * P + tile.begin;
  copy_heads<kD, kTileTokens, kThreads>(shared.q, on.q.data + first_row * kD, P * kD, log_tokens, count);
  copy_heads<kE, kTileTokens, kThreads>(shared.grad_out, on.grad_out.data + first_row * kE, P * kE, log_tokens, count);
  if (threadIdx.x < kTileTokens) {
    const int token = threadIdx.x & ((1 << log_tokens) - 1);
    RowNumbers& own = shared.numbers[threadIdx.x];
    if (token < count) {
      const int64_t head = shared.first_head + (threadIdx.x >> log_tokens), t = tile.begin + token;
      const int64_t copied = head * P + t, row = t * shape.H + head;
      own = {fabsf(shape.scale) * size_of_power(on.q.power[copied]), origin_of(on.backward.logsumexp[row]),
             size_of_power(on.grad_out.power[copied]), on.backward.delta[row]};
    } else {
      own = {0, 0, 0, 0};
    }
  }
  begin_copy(shared.steps.step[0].keys, 0);
  cp_async_commit();

  // The 16 rows of this warp are tokens of one head.
  const Pair<kParts> pair;
  const int32_t first = tile.begin + (pair.rows & ((1 << log_tokens) - 1)), token = first + quad_row();
  const RowNumbers* numbers = shared.numbers + pair.rows + quad_row();
  float sum[kD / kParts / 8][4], unit[2] = {kLeastUnit, kLeastUnit};
#pragma unroll
  for (auto& x : sum)
#pragma unroll
    for (float& y : x) y = 0;
  bool good = true;
  for (int turn = 0, stage = 0;; turn = turn_after(turn, 1), stage = kStages == 2 ? stage ^ 1 : 0) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before
    const Step &now = shared.steps.step[turn], &following = shared.steps.step[turn_after(turn, 1)];
    const bool more = following.there;
    if (kStages == 2 && more) begin_copy(following.keys, stage ^ 1);
    walk_on(turn_after(turn, 2));
    cp_async_commit();
    const KeyTile keys = now.keys;
    if (first + 16 > keys.key && first < keys.token_end && first < tile.end) {
      good = good && now.power_k != kMarked && now.power_v != kMarked;
      const float size_k = size_of_power(now.power_k), size_v = size_of_power(now.power_v);
#pragma unroll 1
      for (int i = 0; i < 2 / kParts; ++i) {
        const int half = (kParts == 2 ? pair.part : i) * kHalf;
        const f16 *k = shared.k[stage] + half * kD, *v = shared.v[stage] + half * kE;
        float score[kHalfFragments][4], slope[kHalfFragments][4];
        multiply_rows<kD, 1>(score, shared.q, pair.rows, k);
        multiply_rows<kE, 1>(slope, shared.grad_out, pair.rows, v);
#pragma unroll
        for (int which = 0; which < 2; ++which) {
          const RowNumbers& row = numbers[which * 8];
          const float scale = row.scale * size_k, size = row.grad * size_v * size_k, delta = row.delta * size_k;
#pragma unroll
          for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float &x = score[i][which * 2 + c], &y = slope[i][which * 2 + c];
              x = __fmul_rn(x, scale);
              y = fmaf(y, size, -delta);
            }
        }
        if (shape.softcap > 0) {
#pragma unroll
          for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              float steepness;
              score[i][c] = capped(score[i][c], shape, steepness);
              slope[i][c] *= steepness;
            }
        }
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) score[i][c] = probability(score[i][c], numbers[c / 2 * 8].logsumexp);
        if (keys.keys < kTileTokens || keys.key + kTileTokens - 1 > first || keys.token_end < tile.end ||
            forest.position != nullptr) {
#pragma unroll
          for (int which = 0; which < 2; ++which) {
            const int32_t t = token + which * 8;
            const int hidden = (t < tile.end ? hidden_keys(forest, keys, t) : 0) - quad_column(0) - half;
            const int visible = visible_keys(keys, t) - quad_column(0) - half;
#pragma unroll
            for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
              for (int c = 0; c < 2; ++c)
                if (i * 8 + c >= visible || i * 8 + c < hidden) score[i][which * 2 + c] = 0;
          }
        }
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) slope[i][c] *= score[i][c];
        add_weighted<kD, kParts, kTerms>(sum, unit, slope, shared.k[stage], half, shared.slopes, pair);
      }
    }
    if (!more) break;
    if (kStages == 1) {
      __syncthreads();  // nobody reads the tile
      begin_copy(following.keys, 0);
      cp_async_commit();
    }
  }

  const Gradient& to = on.backward.grad_q;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const int64_t t = token + which * 8;
    if (t < tile.end)
      good &= store_row<kTerms, kParts>(sum, pair.part, which, unit[which] * (shape.scale * to.scale), to,
                        t * to.stride + (shared.first_head + (pair.rows >> log_tokens)) * shape.D,
                        static_cast<int>(shape.D));
  }
  return good;
}

// Grid: tiles of queries x H / heads, at most 2 per multiprocessor. Block: 128 or 256. Shared: 50,336 to 149,152.
// Work: 64 x 64 x (2 D + E) products per pair of tiles, those of the sum once more where they take two terms. Bound:
// matrix units.
template <int kD, int kE, int kTerms>
__global__ void __launch_bounds__(BackwardShapes<kD, kE>::kThreads, BackwardShapes<kD, kE>::kBlocks)
    grad_queries_mma_kernel(Matrices on, Forest forest, AttentionShape shape, WorkList work, int log_tokens,
                            uint8_t* again) {  // [bound, H / heads], receives whether an item is to be done again
  using Shared = QueriesShared<kD, kE, kTerms>;
  DYN_SMEM(Shared, shared);
  const uint32_t heads = kTileTokens >> log_tokens, groups = static_cast<uint32_t>(shape.H) / heads;
  for (;;) {
    const uint32_t item = draw(work, shared.item);
    if (item >= *work.count * int64_t{groups}) return;
    if (threadIdx.x == 0) {
      shared.tile = work.tiles[item / groups];
      shared.first_head = static_cast<int32_t>(item % groups * heads);
      const int64_t row = shared.first_head / (shape.H / shape.K) * shape.P;
      shared.own_k = on.k.data + row * kD;
      shared.own_v = on.v.data + row * kE;
    }
    __syncthreads();
    const bool good = grad_queries<kD, kE, kTerms>(on, forest, shape, log_tokens, shared);
    const bool bad = __syncthreads_or(!good);
    if (threadIdx.x == 0) again[shared.item] = bad;
  }
}

}  // namespace

int32_t query_tile_tokens(const AttentionShape& shape) { return kTileTokens / heads_of_tile(shape); }

Again grad_queries_by_matrices(const Matrices& on, const Forest& forest, const AttentionShape& shape,
                               const WorkList& work, Launch& enqueue) {
  const int heads = heads_of_tile(shape), log_tokens = heads == 4 ? 4 : heads == 2 ? 5 : 6;
  const int64_t items = work.bound * (shape.H / heads);
  uint8_t* again = enqueue.scratch<uint8_t>(items);
  const bool done = with_widths(shape, [&]<int kD, int kE>() {
    const auto run = [&]<int kTerms>() {
      constexpr size_t kShared = sizeof(QueriesShared<kD, kE, kTerms>);
      if (static_cast<int64_t>(kShared) > enqueue.device.shared_limit) return false;
      enqueue(grad_queries_mma_kernel<kD, kE, kTerms>,
              {blocks_for(items, 2, enqueue), BackwardShapes<kD, kE>::kThreads, kShared}, on, forest, shape, work,
              log_tokens, again);
      return true;
    };
    return terms_of(on.backward.grad_q, on.backward.type) == 2 ? run.template operator()<2>()
                                                               : run.template operator()<1>();
  });
  if (!done) {
    enqueue.because("the GPU lets a block have less shared memory than this head size takes");
    return {nullptr, 1};
  }
  enqueue.runs("grad_queries_mma_kernel");
  return {again, heads};
}

}  // namespace grpo::cuda
