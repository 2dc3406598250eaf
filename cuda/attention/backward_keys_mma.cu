// gradK and gradV by matrix instructions: a block owns 64 keys of one key head and runs over the queries that see them,
// 64 at a time: those of up to four heads, so that short responses fill what is copied. One kernel forms both where
// both are bf16, v has up to 128 columns, and there is neither a window nor a soft-cap; else each has its own, which
// forms the probabilities again: 5 products in place of 4.
#include "attention/backward_mma.cuh"

namespace grpo::cuda {
namespace {

// The queries of a round: up to 2^log_tokens tokens of each of some heads.
struct alignas(16) Round {
  int32_t token, end, head;
  bool there;
};

template <int kD, int kE, int kTermsK, int kTermsV>
using Shapes = BackwardShapes<kD, kE, (kTermsK > 0 && kTermsV > 0)>;

// v is there only where gradK is wanted.
template <int kD, int kE, int kTermsK, int kTermsV>
struct KeysShared {
  using S = Shapes<kD, kE, kTermsK, kTermsV>;
  static constexpr int kStages = S::kStages, kParts = S::kParts;
  alignas(16) f16 k[kTileTokens * kD];
  alignas(16) f16 v[kTermsK > 0 ? kTileTokens * kE : 8];
  alignas(16) f16 q[kStages][kTileTokens * kD];
  alignas(16) f16 grad_out[kStages][kTileTokens * kE];
  SharedWeights<kParts, kTermsK> slopes;
  SharedWeights<kParts, kTermsV> weights;
  QueryNumbers numbers[kStages][kTileTokens];
  QueryWalk walk;
  Round round[3];  // one thread walks, two rounds ahead
  // What lies here and could be known: sums take all registers.
  int64_t item;
  TokenTile tile;
  int32_t key_head;
  float size_k, size_v;  // of numbers of the copies
  bool marked;           // one of the copies
  int log_tokens;        // of a round, of each head
};

// Whether all results are finite, and the tile is not marked. kTermsK, kTermsV: 0 where a gradient is not formed.
template <int kD, int kE, int kTermsK, int kTermsV>
__device__ bool grad_keys(const Matrices& on, const Forest& forest, const AttentionShape& shape,
                          KeysShared<kD, kE, kTermsK, kTermsV>& shared) {
  using S = Shapes<kD, kE, kTermsK, kTermsV>;
  constexpr int kStages = S::kStages, kThreads = S::kThreads, kParts = S::kParts;
  constexpr int kUnroll = kParts == 1 ? 1 : S::kWidest <= 128 ? 8 : 4;
  constexpr bool kBoth = kTermsK > 0 && kTermsV > 0;  // which leaves no registers for a window or a soft-cap
  const TokenTile& tile = shared.tile;
  const int64_t P = shape.P;

  const auto walk_on = [&](int turn) {
    if (threadIdx.x != 0) return;
    const int32_t group = static_cast<int32_t>(shape.H / shape.K);
    Round next = shared.round[turn_after(turn, 2)];  // the one before
    next.token += 1 << shared.log_tokens;
    if (next.there && next.token >= shared.walk.end && shared.walk.next(forest)) next.token = shared.walk.token;
    if (next.there && next.token >= shared.walk.end) {
      next.head += kTileTokens >> shared.log_tokens;
      next.there = next.head < (shared.key_head + 1) * group;
      shared.walk.begin(forest, tile);
      next.token = shared.walk.token;
    }
    next.end = shared.walk.end;
    shared.round[turn] = next;
  };
  const auto begin_copy = [&](const Round& round, int stage) {
    const int queries = round.end - round.token, log_tokens = shared.log_tokens;
    const int64_t first = round.head * P + round.token;
    copy_heads<kD, kTileTokens, kThreads>(shared.q[stage], on.q.data + first * kD, P * kD, log_tokens, queries);
    copy_heads<kE, kTileTokens, kThreads>(shared.grad_out[stage], on.grad_out.data + first * kE, P * kE, log_tokens,
                                          queries);
    if (threadIdx.x < kTileTokens) {
      const int token = threadIdx.x & ((1 << log_tokens) - 1);
      cp_async16(&shared.numbers[stage][threadIdx.x], on.numbers + first + (threadIdx.x >> log_tokens) * P + token,
                 token < queries);
    }
    cp_async_commit();
  };

  const Pair<kParts> pair;
  float sum_k[kTermsK > 0 ? kD / kParts / 8 : 1][4], sum_v[kTermsV > 0 ? kE / kParts / 8 : 1][4];
  float unit_k[2] = {kLeastUnit, kLeastUnit}, unit_v[2] = {kLeastUnit, kLeastUnit};
#pragma unroll
  for (auto& x : sum_k)
#pragma unroll
    for (float& y : x) y = 0;
#pragma unroll
  for (auto& x : sum_v)
#pragma unroll
    for (float& y : x) y = 0;

  const int64_t row = shared.key_head * P + tile.begin;
  const int count = tile.end - tile.begin;
  copy_rows<kD, kTileTokens, kThreads>(shared.k, on.k.data + row * kD, count);
  if constexpr (kTermsK > 0) copy_rows<kE, kTileTokens, kThreads>(shared.v, on.v.data + row * kE, count);
  if (threadIdx.x == 0) {
    const int32_t power_k = on.k.power[row], power_v = on.v.power[row];
    shared.size_k = size_of_power(power_k);
    shared.size_v = size_of_power(power_v);
    shared.marked = power_k == kMarked || power_v == kMarked;
    shared.walk.begin(forest, tile);
    const int64_t head = shared.key_head * (shape.H / shape.K);
    shared.round[0] = {shared.walk.token, shared.walk.end, static_cast<int32_t>(head), true};
  }
  walk_on(1);
  __syncthreads();
  begin_copy(shared.round[0], 0);
  for (int turn = 0, stage = 0;; turn = turn_after(turn, 1), stage = kStages == 2 ? stage ^ 1 : 0) {
    const Round &now = shared.round[turn], &following = shared.round[turn_after(turn, 1)];
    const bool more = following.there;
    if (kStages == 2) {
      if (more) begin_copy(following, stage ^ 1);
      else cp_async_commit();
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    walk_on(turn_after(turn, 2));
#pragma unroll 1
    for (int i = 0; i < 2 / kParts; ++i) {
      const int half = (kParts == 2 ? pair.part : i) * kHalf;
      const QueryNumbers* numbers = shared.numbers[stage] + half;
      const f16 *q = shared.q[stage] + half * kD, *grad_out = shared.grad_out[stage] + half * kE;
      float score[kHalfFragments][4], slope[kHalfFragments][4];
      multiply_rows<kD, kUnroll>(score, shared.k, pair.rows, q);
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          score[i][c] = __fmul_rn(score[i][c], numbers[quad_column(i) + c % 2].scale * shared.size_k);
      const auto form_slopes = [&] {
        multiply_rows<kE, kUnroll>(slope, shared.v, pair.rows, grad_out);
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const QueryNumbers& query = numbers[quad_column(i) + c % 2];
            slope[i][c] = fmaf(slope[i][c], query.scale * shared.size_v, -query.slope);
          }
      };
      if constexpr (kTermsK > 0 && !kBoth) form_slopes();
      if (!kBoth && shape.softcap > 0) {
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            float steepness;
            score[i][c] = capped(score[i][c], shape, steepness);
            if (kTermsK > 0) slope[i][c] *= steepness;
          }
      }
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const QueryNumbers& query = numbers[quad_column(i) + c % 2];
          score[i][c] = probability(score[i][c], query.logsumexp) * query.grad;
        }
      const int32_t tokens = 1 << shared.log_tokens;
      if (now.token < tile.end - 1 || now.token + tokens > now.end || (!kBoth && forest.position != nullptr)) {
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int32_t query = now.token + ((half + quad_column(i) + c % 2) & (tokens - 1));
            const int own = pair.rows + quad_row() + c / 2 * 8;
            // Nobody sees a row past the end, which would spoil its unit.
            bool sees = tile.begin + own < tile.end && query >= tile.begin + own && query < now.end;
            if (!kBoth && sees && forest.position != nullptr)
              sees = forest.position[query] - forest.window < forest.position[tile.begin + own];
            if (!sees) score[i][c] = 0;
          }
      }
      if constexpr (kTermsV > 0)
        add_weighted<kE, kParts, kTermsV>(sum_v, unit_v, score, shared.grad_out[stage], half, shared.weights, pair);
      if constexpr (kTermsK > 0) {
        if constexpr (kBoth) form_slopes();
#pragma unroll
        for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) slope[i][c] *= score[i][c];
        add_weighted<kD, kParts, kTermsK>(sum_k, unit_k, slope, shared.q[stage], half, shared.slopes, pair);
      }
    }
    __syncthreads();  // the copies of the round after next go where this round's were
    if (!more) break;
    if (kStages == 1) begin_copy(following, 0);
  }

  bool good = !shared.marked;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const int64_t token = tile.begin + pair.rows + quad_row() + which * 8;
    if (token >= tile.end) continue;
    const Gradient &to_k = on.backward.grad_k, &to_v = on.backward.grad_v;
    if (kTermsK > 0 && to_k.data != nullptr)
      good &= store_row<kTermsK, kParts>(sum_k, pair.part, which, unit_k[which] * to_k.scale, to_k,
                                         token * to_k.stride + shared.key_head * shape.D, static_cast<int>(shape.D));
    if (kTermsV > 0 && to_v.data != nullptr)
      good &= store_row<kTermsV, kParts>(sum_v, pair.part, which, unit_v[which] * to_v.scale, to_v,
                                         token * to_v.stride + shared.key_head * shape.E, static_cast<int>(shape.E));
  }
  return good;
}

// Grid: tiles of keys x K, at most 2 per multiprocessor. Block: 128 or 256. Shared: 43,168 to 149,136. Work: 64 x 64 x
// 2 (D + E) products per pair of tiles, those of sums once more where they take two terms. Bound: matrix units.
template <int kD, int kE, int kTermsK, int kTermsV>
__global__ void __launch_bounds__(Shapes<kD, kE, kTermsK, kTermsV>::kThreads,
                                  Shapes<kD, kE, kTermsK, kTermsV>::kBlocks)
    grad_keys_mma_kernel(Matrices on, Forest forest, AttentionShape shape, WorkList work, int log_tokens, bool anew,
                         uint8_t* again) {  // [bound, K], receives whether an item is to be done again
  using Shared = KeysShared<kD, kE, kTermsK, kTermsV>;
  DYN_SMEM(Shared, shared);
  if (threadIdx.x == 0) {
    shared.item = blockIdx.x;
    shared.log_tokens = log_tokens;
  }
  for (;;) {
    __syncthreads();
    const int64_t item = shared.item;
    if (item >= *work.count * shape.K) return;
    if (threadIdx.x == 0) {
      shared.tile = work.tiles[item / shape.K];
      shared.key_head = static_cast<int32_t>(item % shape.K);
    }
    __syncthreads();
    const bool good = grad_keys<kD, kE, kTermsK, kTermsV>(on, forest, shape, shared);
    const bool bad = __syncthreads_or(!good);
    if (threadIdx.x == 0) {
      again[shared.item] = bad || (!anew && again[shared.item] != 0);
      shared.item += gridDim.x;
    }
  }
}

template <int kD, int kE, int kTermsK, int kTermsV>
bool launch(const Matrices& on, const Forest& forest, const AttentionShape& shape, const WorkList& work, bool anew,
            uint8_t* again, Launch& enqueue) {
  constexpr size_t kShared = sizeof(KeysShared<kD, kE, kTermsK, kTermsV>);
  if (static_cast<int64_t>(kShared) > enqueue.device.shared_limit) return false;
  int log_tokens = 6;
  for (int heads = heads_of_tile(shape); heads > 1; heads /= 2) --log_tokens;
  constexpr int kThreads = Shapes<kD, kE, kTermsK, kTermsV>::kThreads;
  enqueue(grad_keys_mma_kernel<kD, kE, kTermsK, kTermsV>,
          {blocks_for(work.bound * shape.K, 2, enqueue), kThreads, kShared}, on, forest, shape, work, log_tokens, anew,
          again);
  return true;
}

}  // namespace

Again grad_keys_by_matrices(const Matrices& on, const Forest& forest, const AttentionShape& shape, const WorkList& work,
                            Launch& enqueue) {
  const Backward& backward = on.backward;
  uint8_t* again = enqueue.scratch<uint8_t>(work.bound * shape.K);
  const bool k = backward.grad_k.data != nullptr, v = backward.grad_v.data != nullptr;
  const bool two_k = terms_of(backward.grad_k, backward.type) == 2;
  const bool two_v = terms_of(backward.grad_v, backward.type) == 2;
  const bool done = with_widths(shape, [&]<int kD, int kE>() {
    const auto run = [&]<int kTermsK, int kTermsV>(bool anew) {
      return launch<kD, kE, kTermsK, kTermsV>(on, forest, shape, work, anew, again, enqueue);
    };
    if constexpr (kD <= 192 && kE <= 128)
      if (k && v && !two_k && !two_v && shape.softcap == 0 && forest.position == nullptr &&
          run.template operator()<1, 1>(true))
        return true;
    bool good = true;
    if (k) good = two_k ? run.template operator()<2, 0>(true) : run.template operator()<1, 0>(true);
    if (v && good) good = two_v ? run.template operator()<0, 2>(!k) : run.template operator()<0, 1>(!k);
    return good;
  });
  if (!done) {
    enqueue.because("the GPU lets a block have less shared memory than this head size takes");
    return {nullptr, 1};
  }
  enqueue.runs("grad_keys_mma_kernel");
  return {again, 1};
}

}  // namespace grpo::cuda
