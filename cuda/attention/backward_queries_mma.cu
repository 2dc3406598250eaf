// gradQ by matrix instructions: the same owners and the same order of sums as in backward_queries.cu.
#include "attention/backward_mma.cuh"

namespace grpo::cuda {
namespace {

// Whether all results are finite.
template <class T, int kWidth>
__device__ bool grad_queries(const Backward& on, const Forest& forest, const AttentionShape& shape,
                             const TokenTile& tile, int64_t head, BackwardShared<T, kWidth>& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const int32_t count = tile.end - tile.begin;
  const auto begin_copy = [&](const KeyTile& keys, int stage) {
    fetch<T, kWidth>(shared.others_d[stage], rows_of<T>(on.k, keys.key, key_head, D, keys.keys), D);
    fetch<T, kWidth>(shared.others_e[stage], rows_of<T>(on.v, keys.key, key_head, E, keys.keys), E);
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
  KeyWalk walk;
  walk.begin(forest, tile);
  KeyTile keys{}, following{};
  bool more = walk.next(forest, keys);  // a query sees itself at least
  fetch<T, kWidth>(shared.d, rows_of<T>(on.q, tile.begin, head, D, count), D);
  fetch<T, kWidth>(shared.e, rows_of<T>(on.grad_out, tile.begin, head, E, count), E);
  begin_copy(keys, 0);
  for (int stage = 0; more; stage ^= 1) {
    more = walk.next(forest, following);
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

// Grid: tiles of queries x H, at most 2 per multiprocessor. Block: 128. Shared: 56,320, 80,896 or 105,472. Work: 64 x
// 64 x (4 D + E) products per pair of tiles, 3 D + E in f16. Bound: issue.
template <class T, int kWidth>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    grad_queries_mma_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                            uint8_t* again) {  // [bound, H], receives whether an item is to be done again
  using Shared = BackwardShared<T, kWidth>;
  DYN_SMEM(Shared, shared);
  const int64_t count = *work.count;
  for (int64_t item = blockIdx.x; item < count * shape.H; item += gridDim.x) {
    const bool finite =
        grad_queries<T, kWidth>(on, forest, shape, work.tiles[item / shape.H], item % shape.H, shared);
    const bool bad = __syncthreads_or(!finite);
    if (threadIdx.x == 0) again[item] = bad;
  }
}

template <class T>
const uint8_t* by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                           const WorkList& work, Launch& on) {
  return enqueue<T>({grad_queries_mma_kernel<T, 64>, grad_queries_mma_kernel<T, 96>, grad_queries_mma_kernel<T, 128>},
                    work.bound * shape.H, backward, forest, shape, work, on);
}

}  // namespace

Again grad_queries_by_matrices(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                                        const WorkList& work, Launch& on) {
  if (!fit_matrices(backward.type, shape.D, shape.E, on, backward.q.data, backward.k.data, backward.v.data, backward.grad_out.data))
    return {nullptr, 1};
  const uint8_t* again = backward.type == Float::kBf16 ? by_matrices<bf16>(backward, forest, shape, work, on)
                                                       : by_matrices<f16>(backward, forest, shape, work, on);
  if (again != nullptr) on.runs("grad_queries_mma_kernel");
  return {again, 1};
}

}  // namespace grpo::cuda
