// gradK and gradV by matrix instructions: the same owners and the same order of sums as in backward_keys.cu.
#include "attention/backward_mma.cuh"

namespace grpo::cuda {
namespace {

// Whether all results are finite.
template <class T, int kWidth>
__device__ bool grad_keys(const Backward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                          int64_t key_head, BackwardShared<T, kWidth>& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, group = H / K;
  const bool wants_k = on.grad_k.data != nullptr, wants_v = on.grad_v.data != nullptr;
  const int32_t count = tile.end - tile.begin, token_end = forest.start[forest.end[tile.segment]];
  const int64_t chunks = (token_end - tile.begin + kTileTokens - 1) / kTileTokens;
  const auto token_of = [&](int64_t round) { return tile.begin + static_cast<int32_t>(round % chunks) * kTileTokens; };
  const auto begin_copy = [&](int64_t round) {
    const int stage = round % 2;
    const int64_t head = key_head * group + round / chunks;
    const int32_t token = token_of(round), queries = token_end - token < kTileTokens ? token_end - token : kTileTokens;
    fetch<T, kWidth>(shared.others_d[stage], rows_of<T>(on.q, token, head, D, queries), D);
    fetch<T, kWidth>(shared.others_e[stage], rows_of<T>(on.grad_out, token, head, E, queries), E);
    if (threadIdx.x < kTileTokens) {
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
  fetch<T, kWidth>(shared.d, rows_of<T>(on.k, tile.begin, key_head, D, count), D);
  fetch<T, kWidth>(shared.e, rows_of<T>(on.v, tile.begin, key_head, E, count), E);
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
    for (int half = 0; half < kTileTokens && token + half < token_end; half += kHalf) {
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

// Grid: tiles of keys x K, at most 2 per multiprocessor. Block: 128. Shared: 56,320, 80,896 or 105,472. Work: 64 x 64 x
// 4 (D + E) products per pair of tiles, 3 (D + E) in f16. Bound: issue.
template <class T, int kWidth>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    grad_keys_mma_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                         uint8_t* again) {  // [bound, K], receives whether an item is to be done again
  using Shared = BackwardShared<T, kWidth>;
  DYN_SMEM(Shared, shared);
  const int64_t count = *work.count;
  for (int64_t item = blockIdx.x; item < count * shape.K; item += gridDim.x) {
    const bool finite =
        grad_keys<T, kWidth>(on, forest, shape, work.tiles[item / shape.K], item % shape.K, shared);
    const bool bad = __syncthreads_or(!finite);
    if (threadIdx.x == 0) again[item] = bad;
  }
}

template <class T>
const uint8_t* by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                           const WorkList& work, Launch& on) {
  return enqueue<T>({grad_keys_mma_kernel<T, 64>, grad_keys_mma_kernel<T, 96>, grad_keys_mma_kernel<T, 128>},
                    work.bound * shape.K, backward, forest, shape, work, on);
}

}  // namespace

Again grad_keys_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                                     const WorkList& work, Launch& on) {
  if (!fit_matrices(backward.type, shape.D, shape.E, on, backward.q.data, backward.k.data, backward.v.data, backward.grad_out.data))
    return {nullptr, 1};
  const uint8_t* again = backward.type == Float::kBf16 ? by_matrices<bf16>(backward, forest, shape, work, on)
                                                       : by_matrices<f16>(backward, forest, shape, work, on);
  if (again != nullptr) on.runs("grad_keys_mma_kernel");
  return {again, 1};
}

}  // namespace grpo::cuda
