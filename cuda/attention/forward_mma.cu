// Shared-prefix attention by matrix instructions: bf16 and f16, head sizes up to 256.
//
// A block of eight warps owns 128 rows of queries (of head sizes above 128 a block owns 64), which are those of up to
// four heads of one key head: short responses fill a tile, and a key that is copied serves all of them. Keys and values
// go through a ring of tiles in shared memory, filled while others are at work. Of value sizes above 128 two warps
// share 16 rows: both form the scores, and each sums up half of the columns, 3 products in place of 2.
//
// Instructions of a warp for its 16 rows and 64 keys of head size 128, counted in machine code for sm_90a: 700 for 128
// matrix instructions, 5.5 each, where all of the tile is seen. They were 2,360 for 256 where probabilities
// went in as three bf16 terms, and copies found each row anew. 32 rows of a warp took 4.5 each, and more registers than
// there are.
//
// One term in each product: scores from f16 copies (factors.cuh), probabilities as 2^15 p in f16 relative to the
// running maximum. They are rounded to 11 digits, a bf16 result to 8: root mean square error 1.01 times that of
// rounding alone. A result in f16, and one whose rounded-off digits are wanted too, is as fine as that: there they go
// in as two terms.
#include "attention/forward.cuh"
#include "attention/sharing.cuh"
#include "attention/steps.cuh"
#include "blocks/exp2.cuh"

namespace grpo::cuda {
namespace {

constexpr float kUnit = 0x1p15f;  // probabilities are in units of its inverse
// A result of which no number exceeds it, 2^-22 of the largest value: those with the weight have values of nearly 0,
// and of what others add digits may be lost.
constexpr float kFaint = 0x1p-8f;

struct Inputs {
  Factor q, k, v;
};

template <int kD, int kE>
struct Shapes {
  static constexpr int kWidest = kD > kE ? kD : kE, kRows = kWidest <= 128 ? 128 : 64;
  static constexpr int kParts = kE <= 128 ? 1 : 2;  // warps that share 16 rows
  static constexpr int kThreads = kRows / 16 * kParts * kWarp, kStages = kWidest <= 128 ? 3 : 2;
  static constexpr int kUnroll = kWidest <= 128 ? kD / 16 : 1;
};

template <int kD, int kE>
struct MatrixShared {
  alignas(16) f16 q[Shapes<kD, kE>::kRows * kD];
  alignas(16) f16 ring[Shapes<kD, kE>::kStages][kTileTokens * Shapes<kD, kE>::kWidest];
  float unit[Shapes<kD, kE>::kRows];  // of the copies of q
  SharedMost most;
  Steps steps;
  // What every round needs lies here: sums take all registers.
  TokenTile tile;
  int32_t first_head;
  const f16 *k, *v;  // of the key head
  uint32_t item;
};

// Whether all results are finite, no tile of keys was marked and no result is faint.
template <class T, int kTerms, int kD, int kE>
__device__ bool attend(const Forward& on, const Inputs& inputs, const Forest& forest, const AttentionShape& shape,
                       int heads, MatrixShared<kD, kE>& shared) {
  using S = Shapes<kD, kE>;
  constexpr int kStages = S::kStages, kThreads = S::kThreads, kParts = S::kParts;
  const TokenTile& tile = shared.tile;
  const int64_t P = shape.P;
  const int tokens = S::kRows / heads;

  // The 16 rows of this warp are tokens of one head.
  const Pair<kParts> pair;
  const int32_t first = tile.begin + pair.rows % tokens, token = first + quad_row();
  const auto head = [&] { return shared.first_head + pair.rows / tokens; };
  float* const unit = shared.unit + pair.rows + quad_row();
  if (pair.part == 0 && lane_index() < 16) {
    const int32_t t = first + lane_index();
    shared.unit[pair.rows + lane_index()] = t < tile.end ? size_of_power(inputs.q.power[head() * P + t]) : 1;
  }
  float highest[2], total[2], rescale[2], sum[kE / kParts / 8][4];
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    highest[which] = -INFINITY;
    total[which] = 0;
  }
#pragma unroll
  for (int i = 0; i < kE / kParts / 8; ++i)
#pragma unroll
    for (int c = 0; c < 4; ++c) sum[i][c] = 0;

  const auto walk_on = [&](int turn) {
    const int64_t row = shared.first_head / static_cast<int32_t>(shape.H / shape.K) * P;
    shared.steps.walk_on(turn, forest, inputs.k.power + row, inputs.v.power + row);
  };
  const auto copy_k = [&](const KeyTile& keys, int slot) {
    copy_rows<kD, kTileTokens, kThreads>(shared.ring[slot], shared.k + keys.key * int64_t{kD}, keys.keys);
  };
  const auto copy_v = [&](const KeyTile& keys, int slot) {
    copy_rows<kE, kTileTokens, kThreads>(shared.ring[slot], shared.v + keys.key * int64_t{kE}, keys.keys);
  };
  // Keys and values of the tile of a turn follow each other around the ring.
  const auto slot_of_keys = [&](int turn) { return kStages == 2 ? 0 : turn_after(3 - turn, 0); };
  const auto slot_of_values = [&](int turn) { return kStages == 2 ? 1 : turn_after(4 - turn, 0); };

  if (threadIdx.x == 0) shared.steps.walk.begin(forest, tile);
  walk_on(0);  // a query sees itself at least
  walk_on(1);
  __syncthreads();
  copy_heads<kD, S::kRows, kThreads>(shared.q, inputs.q.data + (shared.first_head * P + tile.begin) * kD, P * kD,
                                     31 - __clz(tokens), tile.end - tile.begin);
  copy_k(shared.steps.step[0].keys, 0);
  cp_async_commit();
  if (kStages == 3) {
    copy_v(shared.steps.step[0].keys, 1);
    cp_async_commit();
  }
  bool good = true;
  int power_v = kZeros;  // of the sums
  for (int turn = 0;; turn = turn_after(turn, 1)) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // the keys are there, and nobody reads the values before
    const Step &now = shared.steps.step[turn], &following = shared.steps.step[turn_after(turn, 1)];
    const bool more = following.there;
    if (kStages == 2) copy_v(now.keys, 1);
    else if (more) copy_k(following.keys, slot_of_keys(turn_after(turn, 1)));
    walk_on(turn_after(turn, 2));
    cp_async_commit();
    // Rows past the tile's end come out as anything: they are not stored.
    const KeyTile keys = now.keys;
    const bool sees = first + 16 > keys.key && first < keys.token_end && first < tile.end;
    Weights<kTerms, kFragments> weights;
    if (sees) {
      good = good && now.power_k != kMarked && now.power_v != kMarked;
      const float unit_k = size_of_power(now.power_k);
      float score[kFragments][4];
      multiply_rows<kD, S::kUnroll>(score, shared.q, pair.rows, shared.ring[slot_of_keys(turn)]);
      if (shape.softcap > 0) {
#pragma unroll
        for (int i = 0; i < kFragments; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c)
            score[i][c] = tangent_of(score[i][c] * (unit[c / 2 * 8] * unit_k * fabsf(shape.scale)), shape);
      }
      if (keys.keys < kTileTokens || keys.key + kTileTokens - 1 > first || keys.token_end < tile.end ||
          forest.position != nullptr) {
#pragma unroll
        for (int which = 0; which < 2; ++which) {
          const int32_t t = token + which * 8;
          const int visible = visible_keys(keys, t) - quad_column(0);
          const int hidden = t < tile.end ? hidden_keys(forest, keys, t) - quad_column(0) : -kTileTokens;
#pragma unroll
          for (int i = 0; i < kFragments; ++i)
#pragma unroll
            for (int c = 0; c < 2; ++c)
              if (i * 8 + c >= visible || i * 8 + c < hidden) score[i][which * 2 + c] = -INFINITY;
        }
      }
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        float most = -INFINITY;
#pragma unroll
        for (int i = 0; i < kFragments; ++i)
          most = fmaxf(most, fmaxf(score[i][which * 2], score[i][which * 2 + 1]));
        most = quad_reduce(most, [](float a, float b) { return fmaxf(a, b); });
        const float own = shape.softcap > 0 ? 1 : unit[which * 8] * unit_k, before = highest[which];
        most = fmaxf(before, most * own);
        highest[which] = most;
        const float from = most == -INFINITY ? 0 : most * shape.per_score2;
        const float fade = most == before ? 1 : exp2_approx(before * shape.per_score2 - from);
        const float factor = own * shape.per_score2;
        float part = 0;
#pragma unroll
        for (int i = 0; i < kFragments; ++i)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& x = score[i][which * 2 + c];
            x = fmaf(x, factor, -from);  // -inf where hidden
            // Capped scores lie near each other, and what ex2.approx errs by does not cancel in logsumexp.
            x = shape.softcap > 0 ? exp2_accurate(fmaxf(x, kFar)) : exp2_approx(x);
            part += x;
          }
        total[which] = fmaf(total[which], fade, part);
        rescale[which] = fade;
      }
      constexpr float kUnits[] = {kUnit, kUnit};
      take_weights<kTerms>(weights, score, kUnits);
      if (now.power_v != power_v && now.power_v != kZeros) {
        const PowerOfTwo change(power_v == kZeros ? 0 : now.power_v - power_v);
        power_v = now.power_v;
#pragma unroll
        for (int which = 0; which < 2; ++which) rescale[which] = change.times(rescale[which]);
      }
    }
    cp_async_wait<kStages - 2>();
    __syncthreads();  // the values are there, and nobody reads the keys
    if (more) {
      if (kStages == 2) copy_k(following.keys, 0);
      else copy_v(following.keys, slot_of_values(turn_after(turn, 1)));
    }
    cp_async_commit();
    if (sees) add_rows<kE, kParts>(sum, weights, rescale, shared.ring[slot_of_values(turn)], pair.part);
    if (!more) break;
  }

  const PowerOfTwo back(power_v == kZeros ? 0 : -power_v);
  const auto address = reinterpret_cast<uintptr_t>(on.out) | reinterpret_cast<uintptr_t>(on.out_low);
  const bool paired = shape.E % 2 == 0 && address % 4 == 0;
  float most[2], logsumexp[2];
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    // The highest score was taken times a rounded logarithm: what that changed is taken back. It is rounded as in the
    // backward pass: where one key has all the weight, logsumexp is its score to the last bit.
    const float rounded = highest[which] * shape.per_score2;
    const double turned = rounded - static_cast<double>(highest[which]) * shape.per_score2;
    const double all = static_cast<double>(quad_reduce(total[which], Add{})) * exp2(turned);
    const RowSoftmax softmax =
        softmax_of_row(highest[which] * shape.per_score, all, on.sink == nullptr ? nullptr : on.sink + head());
    logsumexp[which] = softmax.logsumexp;
    const float inverse = static_cast<float>(softmax.factor * exp2(turned) / kUnit);
#pragma unroll
    for (int i = 0; i < kE / kParts / 8; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) sum[i][which * 2 + c] *= inverse;
  }
  find_most(sum, most);
  if constexpr (kParts == 2) share_most(most, shared.most, pair);
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const int32_t t = token + which * 8;
    if (t >= tile.end) continue;
    const int64_t row = t * shape.H + head();
    float trap = logsumexp[which] * 0.0f;  // NaN where one is not finite
#pragma unroll
    for (int i = 0; i < kE / kParts / 8; ++i)
      trap = fmaf(sum[i][which * 2 + 1], 0.0f, fmaf(sum[i][which * 2], 0.0f, trap));
    good = good && trap == 0 && (power_v == kZeros || most[which] > kFaint);
    if (on.logsumexp != nullptr && pair.part == 0 && lane_index() % 4 == 0) on.logsumexp[row] = logsumexp[which];
    if (on.out == nullptr) continue;
    const auto store = [&](void* to, auto&& number) {
      T* own = static_cast<T*>(to) + row * shape.E;
#pragma unroll
      for (int i = 0; i < kE / kParts / 8; ++i) {
        const int column = column_of<kParts>(i, pair.part);
        store_pair(own + column, number(back.times(sum[i][which * 2])), number(back.times(sum[i][which * 2 + 1])),
                   column, static_cast<int>(shape.E), paired);
      }
    };
    store(on.out, [](float x) { return x; });
    if (on.out_low != nullptr) store(on.out_low, [](float x) { return rest_of<T>(x); });
  }
  return good;
}

// Grid: tiles of queries x H / heads, at most 2 per multiprocessor. Block: 256 or 128. Shared: 42,144 to 99,232. Work:
// rows x 64 x (D + E) products per pair of tiles. Bound: matrix units.
template <class T, int kTerms, int kD, int kE>
__global__ void __launch_bounds__(Shapes<kD, kE>::kThreads, 1)
    prefix_attention_mma_kernel(Forward on, Inputs inputs, Forest forest, AttentionShape shape, WorkList work,
                                int heads,
                                uint8_t* again) {  // [bound, H / heads], receives whether an item is to be done again
  using Shared = MatrixShared<kD, kE>;
  DYN_SMEM(Shared, shared);
  const uint32_t groups = static_cast<uint32_t>(shape.H) / heads;
  for (;;) {
    const uint32_t item = draw(work, shared.item);
    if (item >= *work.count * int64_t{groups}) return;
    if (threadIdx.x == 0) {
      shared.tile = work.tiles[item / groups];
      shared.first_head = static_cast<int32_t>(item % groups) * heads;
      const int64_t row = shared.first_head / (shape.H / shape.K) * shape.P;
      shared.k = inputs.k.data + row * kD;
      shared.v = inputs.v.data + row * kE;
    }
    __syncthreads();
    const bool good = attend<T, kTerms, kD, kE>(on, inputs, forest, shape, heads, shared);
    const bool bad = __syncthreads_or(!good);
    if (threadIdx.x == 0) again[shared.item] = bad;
  }
}

}  // namespace

int32_t query_tile_tokens(const Forward& forward, const AttentionShape& shape, Launch& on) {
  if (!fit_matrices(forward.type, shape, on)) return 0;
  int32_t rows = 0;
  with_widths(shape, [&]<int kD, int kE>() { rows = Shapes<kD, kE>::kRows; });
  return rows / heads_of_tile(shape);
}

Again attend_by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                         const WorkList& work, Launch& on) {
  const int heads = heads_of_tile(shape);
  const int64_t items = work.bound * (shape.H / heads);
  uint8_t* again = on.scratch<uint8_t>(items);
  on.runs("prefix_attention_mma_kernel");
  with_widths(shape, [&]<int kD, int kE>() {
    const auto copy = [&](const Heads& x, int64_t heads, int64_t columns, int64_t width, bool by_row) {
      return copy_of(x, forward.type, shape.P, heads, columns, width, by_row, on);
    };
    Copied copies[] = {copy(forward.q, shape.H, shape.D, kD, true), copy(forward.k, shape.K, shape.D, kD, false),
                       copy(forward.v, shape.K, shape.E, kE, false)};
    copies[0].negative = shape.scale < 0;
    make_copies(copies, 3, shape.P, list_key_tiles(forest, on), on);
    const auto kernel = forward.type == Float::kF16      ? prefix_attention_mma_kernel<f16, 2, kD, kE>
                        : forward.out_low != nullptr ? prefix_attention_mma_kernel<bf16, 2, kD, kE>
                                                     : prefix_attention_mma_kernel<bf16, 1, kD, kE>;
    on(kernel, {blocks_for(items, 2, on), Shapes<kD, kE>::kThreads, sizeof(MatrixShared<kD, kE>)}, forward,
       Inputs{copies[0].to, copies[1].to, copies[2].to}, forest, shape, work, heads, again);
  });
  return {again, heads};
}

}  // namespace grpo::cuda
