// Shared-prefix attention by matrix instructions: bf16 and f16, head sizes up to 128, a warp per 16 queries, keys and
// values copied while the tile before is at work.
#include "attention/forward.cuh"
#include "attention/mma_tiles.cuh"

namespace grpo::cuda {
namespace {

template <class T, int kWidth>
struct MatrixShared {
  alignas(16) Stage<T, kWidth> q;
  alignas(16) Stage<T, kWidth> k[2];
  alignas(16) Stage<T, kWidth> v[2];
};

// Whether all results are finite.
template <class T, int kWidth>
__device__ bool attend(const Forward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                       int64_t head, MatrixShared<T, kWidth>& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const auto begin_copy = [&](const KeyTile& keys, int stage) {
    fetch<T, kWidth>(shared.k[stage], rows_of<T>(on.k, keys.key, K, key_head, D, keys.keys), D);
    fetch<T, kWidth>(shared.v[stage], rows_of<T>(on.v, keys.key, K, key_head, E, keys.keys), E);
    cp_async_commit();
  };
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, sum[kWidth / 8][4];
#pragma unroll
  for (int i = 0; i < kWidth / 8; ++i)
#pragma unroll
    for (int c = 0; c < 4; ++c) sum[i][c] = 0;

  KeyWalk walk(forest, tile);
  KeyTile keys{}, following{};
  bool more = walk.next(keys);  // a query sees itself at least
  fetch<T, kWidth>(shared.q, rows_of<T>(on.q, tile.begin, H, head, D, tile.end - tile.begin), D);
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
    float score[kFragments][4];
    row_products<kFragments, T, kWidth>(score, shared.q, shared.k[stage], 0, D);
    // Rows past the tile's end come out as anything: they are not stored.
    const bool all = keys.keys == kTileTokens && keys.key + kTileTokens - 1 <= tile.begin && keys.token_end == tile.end;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int visible = all ? kTileTokens : visible_keys(keys, tile.begin + matrix_row(which));
      float most = -INFINITY;
#pragma unroll
      for (int i = 0; i < kFragments; ++i)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = score[i][which * 2 + c];
          x = matrix_column(i) + c < visible ? scaled(x, shape.scale) : -INFINITY;
          most = fmaxf(most, x);
        }
      most = fmaxf(highest[which], quad_reduce(most, [](float a, float b) { return fmaxf(a, b); }));
      const float rescale = most == highest[which] ? 1 : exp_approx(highest[which] - most);
      const float from = most == -INFINITY ? 0 : most;
      highest[which] = most;
      float part = 0;
#pragma unroll
      for (int i = 0; i < kFragments; ++i)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = score[i][which * 2 + c];
          x = exp_approx(x - from);  // 0 where hidden
          part += x;
        }
      total[which] = total[which] * rescale + quad_reduce(part, Add{});
#pragma unroll
      for (int i = 0; i < kWidth / 8; ++i) {
        sum[i][which * 2] *= rescale;
        sum[i][which * 2 + 1] *= rescale;
      }
    }
    add_weighted<kFragments, T, kWidth>(sum, score, shared.v[stage], 0, E);
    __syncthreads();  // the copies of the round after next go where this round's were
    keys = following;
  }
  bool finite = true;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const int64_t t = tile.begin + matrix_row(which);
    if (t >= tile.end) continue;
    if (on.out != nullptr)
      finite &= store_fragments(sum, which, 1 / total[which], on.out, on.type, (t * H + head) * E, E);
    if (on.logsumexp != nullptr && lane_index() % 4 == 0)
      on.logsumexp[t * H + head] = static_cast<float>(highest[which] + log(static_cast<double>(total[which])));
  }
  return finite;
}

// Grid: tiles of queries x H, at most 2 per multiprocessor. Block: 128. Shared: 46,080, 66,560 or 87,040. Work: 64 x 64
// x (D + 3 E) products per pair of tiles, 2 E in f16. Bound: issue.
template <class T, int kWidth>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    prefix_attention_mma_kernel(Forward on, Forest forest, AttentionShape shape, WorkList work,
                                uint8_t* again) {  // [bound, H], receives whether an item is to be done again
  using Shared = MatrixShared<T, kWidth>;
  DYN_SMEM(Shared, shared);
  const int64_t count = *work.count;
  for (int64_t item = blockIdx.x; item < count * shape.H; item += gridDim.x) {
    const bool finite =
        attend<T, kWidth>(on, forest, shape, work.tiles[item / shape.H], item % shape.H, shared);
    const bool bad = __syncthreads_or(!finite);
    if (threadIdx.x == 0) again[item] = bad;
  }
}

template <class T>
const uint8_t* by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                           const WorkList& work, Launch& on) {
  const int64_t items = work.bound * shape.H, widest = shape.D > shape.E ? shape.D : shape.E;
  uint8_t* again = on.scratch<uint8_t>(items);
  const auto launch = [&](auto kernel, size_t shared) {
    on(kernel, {blocks_for(items, 2, on), kMatrixThreads, shared}, forward, forest, shape, work, again);
  };
  if (widest <= 64) launch(prefix_attention_mma_kernel<T, 64>, sizeof(MatrixShared<T, 64>));
  else if (widest <= 96) launch(prefix_attention_mma_kernel<T, 96>, sizeof(MatrixShared<T, 96>));
  else launch(prefix_attention_mma_kernel<T, 128>, sizeof(MatrixShared<T, 128>));
  return again;
}

}  // namespace

const uint8_t* attend_by_matrices(const Forward& forward, const Forest& forest, const AttentionShape& shape,
                                  const WorkList& work, Launch& on) {
  if (!fit_matrices(forward.type, shape.D, shape.E, on, forward.q, forward.k, forward.v)) return nullptr;
  on.runs("prefix_attention_mma_kernel");
  return forward.type == Float::kBf16 ? by_matrices<bf16>(forward, forest, shape, work, on)
                                      : by_matrices<f16>(forward, forest, shape, work, on);
}

}  // namespace grpo::cuda
