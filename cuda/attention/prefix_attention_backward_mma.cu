// Gradients of shared-prefix attention by matrix instructions: bf16 and f16, head sizes up to 128.
//
// The same owners and the same order of sums as in prefix_attention_backward.cu. A block of four warps has 64 keys (or
// 64 queries) in shared memory for as long as it owns them, and two stages of what it runs over: while one is at work
// the next is copied. Scores and their slopes are formed in halves of 32 columns, which leaves registers for both sums.
// An item with a result that is not finite is marked, and done again without matrix instructions: there hidden rows
// have no weight at all, here they have the weight 0, and 0 times infinity is NaN.
#include "attention/prefix_attention_backward.cuh"
#include "attention/prefix_attention_mma.cuh"

namespace grpo::cuda {
namespace {

constexpr int kHalf = kTile / 2, kHalfFragments = kHalf / 8;

template <class T, int kWidth>
struct MatrixShared {
  alignas(16) Stage<T, kWidth> d, e;                      // of the owner: k and v, or q and gradOut
  alignas(16) Stage<T, kWidth> others_d[2], others_e[2];  // what it runs over
  alignas(16) float logsumexp[2][kTile];
  alignas(16) float delta[2][kTile];
};

// A sum of weighted rows. f16 has no room for slopes of any size: there weights and sum are in units of a power of two
// that grows with the weights; they agree on it within a warp.
template <class T, int kWidth>
struct WeightedSum {
  float sum[kWidth / 8][4];
  float unit;

  __device__ __forceinline__ WeightedSum() : unit(std::is_same_v<T, f16> ? 0x1p-126f : 1.0f) {
#pragma unroll
    for (int i = 0; i < kWidth / 8; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[i][c] = 0;
  }
  __device__ __forceinline__ void add(float (&weights)[kHalfFragments][4], const Stage<T, kWidth>& x, int row,
                                      int64_t n) {
    if constexpr (std::is_same_v<T, f16>) {
      float most = 0;
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) most = fmaxf(most, fabsf(weights[i][c]));
      most = warp_reduce(most, [](float a, float b) { return fmaxf(a, b); });
      if (most > unit) {
        const uint32_t exponent = __builtin_bit_cast(uint32_t, most) & 0x7f800000u;
        const float larger = __builtin_bit_cast(float, exponent < 0x7e800000u ? exponent + 0x800000u : 0x7e800000u);
        const float factor = unit / larger;
#pragma unroll
        for (int i = 0; i < kWidth / 8; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[i][c] *= factor;
        unit = larger;
      }
      const float inverse = 1 / unit;
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) weights[i][c] *= inverse;
    }
    add_weighted<kHalfFragments, T, kWidth>(sum, weights, x, row, n);
  }
  __device__ __forceinline__ bool store(int which, const Gradient& to, int64_t at, int64_t n) const {
    return store_fragments(sum, which, unit, to.data, to.type, at, n);
  }
};

// Whether all results are finite.
template <class T, int kWidth>
__device__ bool grad_keys(const Backward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                          int64_t key_head, MatrixShared<T, kWidth>& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, group = H / K;
  const bool wants_k = on.grad_k.data != nullptr, wants_v = on.grad_v.data != nullptr;
  const int32_t count = tile.end - tile.begin, token_end = forest.start[forest.end[tile.segment]];
  const int64_t chunks = (token_end - tile.begin + kTile - 1) / kTile;
  const auto token_of = [&](int64_t round) { return tile.begin + static_cast<int32_t>(round % chunks) * kTile; };
  const auto begin_copy = [&](int64_t round) {
    const int stage = round % 2;
    const int64_t head = key_head * group + round / chunks;
    const int32_t token = token_of(round), queries = token_end - token < kTile ? token_end - token : kTile;
    fetch<T, kWidth>(shared.others_d[stage], rows_of<T>(on.q, token, H, head, D, queries), D);
    fetch<T, kWidth>(shared.others_e[stage], rows_of<T>(on.grad_out, token, H, head, E, queries), E);
    if (threadIdx.x < kTile) {
      const bool inside = static_cast<int>(threadIdx.x) < queries;
      const int64_t at = (token + (inside ? static_cast<int>(threadIdx.x) : 0)) * H + head;
      cp_async4(&shared.logsumexp[stage][threadIdx.x], on.logsumexp + at, inside);
      cp_async4(&shared.delta[stage][threadIdx.x], on.delta + at, inside);
    }
    cp_async_commit();
  };
  // The first query that sees the key of a row. None sees a row past the end, which would spoil the unit of the sums.
  int32_t seen_from[2];
#pragma unroll
  for (int which = 0; which < 2; ++which)
    seen_from[which] = matrix_row(which) < count ? tile.begin + matrix_row(which) : token_end;
  WeightedSum<T, kWidth> sum_k, sum_v;
  fetch<T, kWidth>(shared.d, rows_of<T>(on.k, tile.begin, K, key_head, D, count), D);
  fetch<T, kWidth>(shared.e, rows_of<T>(on.v, tile.begin, K, key_head, E, count), E);
  begin_copy(0);
  for (int64_t round = 0; round < group * chunks; ++round) {
    const int stage = round % 2;
    if (round + 1 < group * chunks) {
      begin_copy(round + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const int32_t token = token_of(round);
#pragma unroll 1
    for (int half = 0; half < kTile && token + half < token_end; half += kHalf) {
      float score[kHalfFragments][4], slope[kHalfFragments][4];
      row_products<kHalfFragments, T, kWidth>(score, shared.d, shared.others_d[stage], half, D);
      row_products<kHalfFragments, T, kWidth>(slope, shared.e, shared.others_e[stage], half, E);
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int column = half + matrix_column(i) + c % 2;
          const int32_t query = token + column;
          const bool sees = query < token_end && query >= seen_from[c / 2];
          const float p = exp_approx(scaled(score[i][c], shape.scale) - shared.logsumexp[stage][column]);
          score[i][c] = sees ? p : 0;
          slope[i][c] = sees ? shape.scale * (p * (slope[i][c] - shared.delta[stage][column])) : 0;
        }
      if (wants_v) sum_v.add(score, shared.others_e[stage], half, E);
      if (wants_k) sum_k.add(slope, shared.others_d[stage], half, D);
    }
    __syncthreads();  // the copies of the round after next go where this round's were
  }
  bool finite = true;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    if (matrix_row(which) >= count) continue;
    const int64_t row = (tile.begin + matrix_row(which)) * K + key_head;
    if (wants_k) finite &= sum_k.store(which, on.grad_k, row * D, D);
    if (wants_v) finite &= sum_v.store(which, on.grad_v, row * E, E);
  }
  return finite;
}

template <class T, int kWidth>
__device__ bool grad_queries(const Backward& on, const Forest& forest, const AttentionShape& shape,
                             const TokenTile& tile, int64_t head, MatrixShared<T, kWidth>& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const int32_t count = tile.end - tile.begin;
  const auto begin_copy = [&](const KeyTile& keys, int stage) {
    fetch<T, kWidth>(shared.others_d[stage], rows_of<T>(on.k, keys.key, K, key_head, D, keys.keys), D);
    fetch<T, kWidth>(shared.others_e[stage], rows_of<T>(on.v, keys.key, K, key_head, E, keys.keys), E);
    cp_async_commit();
  };
  float logsumexp[2], delta[2];
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const bool inside = matrix_row(which) < count;
    const int64_t at = (tile.begin + matrix_row(which)) * H + head;
    logsumexp[which] = inside ? on.logsumexp[at] : 0;
    delta[which] = inside ? on.delta[at] : 0;
  }
  WeightedSum<T, kWidth> sum;
  KeyWalk walk(forest, tile);
  KeyTile keys{}, following{};
  bool more = walk.next(keys);  // a query sees itself at least
  fetch<T, kWidth>(shared.d, rows_of<T>(on.q, tile.begin, H, head, D, count), D);
  fetch<T, kWidth>(shared.e, rows_of<T>(on.grad_out, tile.begin, H, head, E, count), E);
  begin_copy(keys, 0);
  for (int stage = 0; more; stage ^= 1) {
    more = walk.next(following);
    if (more) {
      begin_copy(following, stage ^ 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const int visible[2] = {visible_keys(keys, tile.begin + matrix_row(0)),
                            visible_keys(keys, tile.begin + matrix_row(1))};
#pragma unroll 1
    for (int half = 0; half < keys.keys; half += kHalf) {
      float score[kHalfFragments][4], slope[kHalfFragments][4];
      row_products<kHalfFragments, T, kWidth>(score, shared.d, shared.others_d[stage], half, D);
      row_products<kHalfFragments, T, kWidth>(slope, shared.e, shared.others_e[stage], half, E);
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const bool sees = half + matrix_column(i) + c % 2 < visible[c / 2];
          const float p = exp_approx(scaled(score[i][c], shape.scale) - logsumexp[c / 2]);
          slope[i][c] = sees ? shape.scale * (p * (slope[i][c] - delta[c / 2])) : 0;
        }
      sum.add(slope, shared.others_d[stage], half, D);
    }
    __syncthreads();  // the copies of the round after next go where this round's were
    keys = following;
  }
  bool finite = true;
#pragma unroll
  for (int which = 0; which < 2; ++which)
    if (matrix_row(which) < count)
      finite &= sum.store(which, on.grad_q, ((tile.begin + matrix_row(which)) * H + head) * D, D);
  return finite;
}

template <class T, int kWidth, bool kKeys>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    gradients_mma_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                         uint8_t* again) {  // [bound, K or H], receives whether an item is to be done again
  using Shared = MatrixShared<T, kWidth>;
  DYN_SMEM(Shared, shared);
  const int64_t count = *work.count, heads = kKeys ? shape.K : shape.H;
  for (int64_t item = blockIdx.x; item < count * heads; item += gridDim.x) {
    const TokenTile tile = work.tiles[item / heads];
    bool finite;
    if constexpr (kKeys) finite = grad_keys<T, kWidth>(on, forest, shape, tile, item % heads, shared);
    else finite = grad_queries<T, kWidth>(on, forest, shape, tile, item % heads, shared);
    const bool bad = __syncthreads_or(!finite);
    if (threadIdx.x == 0) again[item] = bad;
  }
}

template <class T, bool kKeys>
const uint8_t* by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                           const WorkList& work, Launch& on) {
  const int64_t items = work.bound * (kKeys ? shape.K : shape.H), widest = shape.D > shape.E ? shape.D : shape.E;
  const size_t shared = widest <= 64   ? sizeof(MatrixShared<T, 64>)
                        : widest <= 96 ? sizeof(MatrixShared<T, 96>)
                                       : sizeof(MatrixShared<T, 128>);
  if (static_cast<int64_t>(shared) > on.device.shared_limit) return nullptr;
  const auto kernel = widest <= 64   ? gradients_mma_kernel<T, 64, kKeys>
                      : widest <= 96 ? gradients_mma_kernel<T, 96, kKeys>
                                     : gradients_mma_kernel<T, 128, kKeys>;
  uint8_t* again = on.scratch<uint8_t>(items);
  on(kernel, {blocks_for(items, 2, on), kMatrixThreads, shared}, backward, forest, shape, work, again);
  return again;
}

template <bool kKeys>
const uint8_t* by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                           const WorkList& work, Launch& on) {
  if (!fit_matrices(shape.D, shape.E, backward.q, backward.k, backward.v, backward.grad_out)) return nullptr;
  if (backward.type == Float::kBf16) return by_matrices<bf16, kKeys>(backward, forest, shape, work, on);
  if (backward.type == Float::kF16) return by_matrices<f16, kKeys>(backward, forest, shape, work, on);
  return nullptr;
}

}  // namespace

const uint8_t* grad_keys_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                                     const WorkList& work, Launch& on) {
  return by_matrices<true>(backward, forest, shape, work, on);
}
const uint8_t* grad_queries_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                                        const WorkList& work, Launch& on) {
  return by_matrices<false>(backward, forest, shape, work, on);
}

}  // namespace grpo::cuda
