// gradK and gradV without matrix instructions: a block owns 64 keys of one key head and runs over the queries of its
// heads in order, those from the first key to the end of the segment's subtree.
#include "attention/backward.cuh"
#include "blocks/plain_tiles.cuh"

namespace grpo::cuda {
namespace {

// Columns [first, first + kPlainColumns) of gradK and gradV of a tile of keys of one key head.
template <class T>
__device__ void grad_keys(const Backward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                          int64_t key_head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, group = H / K;
  const bool wants_k = on.grad_k.data != nullptr && first < D, wants_v = on.grad_v.data != nullptr && first < E;
  const int32_t count = tile.end - tile.begin;
  const Rows<T> k = rows_of<T>(on.k, tile.begin, key_head, D, count);
  const Rows<T> v = rows_of<T>(on.v, tile.begin, key_head, E, count);
  PlainSum sum_k, sum_v;
  clear(sum_k);
  clear(sum_v);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    QueryWalk walk;
    walk.begin(forest, tile);
    for (int32_t token = walk.token; token < walk.end || (walk.next(forest) && (token = walk.token, true));
         token += kTileTokens) {
      const int32_t queries = walk.end - token < kTileTokens ? walk.end - token : kTileTokens;
      const Rows<T> q = rows_of<T>(on.q, token, head, D, queries);
      const Rows<T> grad_out = rows_of<T>(on.grad_out, token, head, E, queries);
      float score[4][4], slope[4][4];
      multiply(score, shared.tiles, k, 1, q, shape.scale, D);
      if (wants_k) multiply(slope, shared.tiles, v, 1, grad_out, 1, E);
      int low[4], high[4];  // the queries of the tile that see the key
      for (int i = 0; i < 4; ++i) {
        const int32_t key = tile.begin + own_row() + i;
        low[i] = key > token ? key - token : 0;
        high[i] = key < tile.end ? queries : 0;
      }
      const auto sees = [&](int i, int query) {
        if (query < low[i] || query >= high[i]) return false;
        if (forest.position == nullptr) return true;
        return forest.position[token + query] - forest.window < forest.position[tile.begin + own_row() + i];
      };
      for (int j = 0; j < 4; ++j) {
        const int query = own_column() + j;
        const int64_t row = (token + query) * H + head;
        const float origin = query < queries ? origin_of(on.logsumexp[row]) : 0;
        const float delta = wants_k && query < queries ? on.delta[row] : 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool seen = sees(i, query);
          float steepness = 1;
          if (shape.softcap > 0) score[i][j] = capped(score[i][j], shape, steepness);
          score[i][j] = seen ? expf(score[i][j] - origin) : 0;
          if (wants_k) slope[i][j] = seen ? shape.scale * (score[i][j] * (slope[i][j] - delta)) * steepness : 0;
        }
      }
      if (wants_v) {
        __syncthreads();  // the weights before may still be read
        put_transposed(shared.weights, score);
        add_rows(sum_v, shared.tiles, shared.weights, grad_out, first, E, sees);
      }
      if (wants_k) {
        __syncthreads();
        put_transposed(shared.weights, slope);
        add_rows(sum_k, shared.tiles, shared.weights, q, first, D, sees);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (own_row() + i >= count) continue;
    const int64_t token = tile.begin + own_row() + i;
    const Gradient &to_k = on.grad_k, &to_v = on.grad_v;
    if (wants_k) store_sum(sum_k[i], to_k.scale, to_k.data, to_k.type, token * to_k.stride + key_head * D, first, D);
    if (wants_v) store_sum(sum_v[i], to_v.scale, to_v.data, to_v.type, token * to_v.stride + key_head * E, first, E);
  }
}

// Grid: tiles of keys x K, at most 3 per multiprocessor. Block: 256. Shared: 67,584. Work: 64 x 64 x 2 (D + E) products
// per pair of tiles. Bound: issue.
template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    grad_keys_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                     Again again) {
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) {
    fill_nan(on.grad_k.data, on.grad_k.type, shape.P, shape.K * shape.D, on.grad_k.stride);
    fill_nan(on.grad_v.data, on.grad_v.type, shape.P, shape.K * shape.E, on.grad_v.stride);
    return;
  }
  const int64_t columns = shape.D > shape.E ? shape.D : shape.E;
  for (int64_t item = blockIdx.x; item < count * shape.K; item += gridDim.x) {
    if (!again.wants(item / shape.K, item % shape.K, shape.K)) continue;
    for (int64_t first = 0; first < columns; first += kPlainColumns)
      grad_keys<T>(on, forest, shape, work.tiles[item / shape.K], item % shape.K, first, shared);
  }
}

}  // namespace

void grad_keys_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                       const WorkList& work, const Again& again, Launch& on) {
  if (again.marks == nullptr) on.runs("grad_keys_kernel");
  const auto kernel = backward.type == Float::kF32    ? grad_keys_kernel<float>
                      : backward.type == Float::kBf16 ? grad_keys_kernel<bf16>
                                                      : grad_keys_kernel<f16>;
  const int64_t items = work.bound > 0 ? work.bound * shape.K : 1;
  on(kernel, {blocks_for(items, 3, on), kPlainThreads, sizeof(PlainShared)}, backward, forest, shape, work, again);
}

}  // namespace grpo::cuda
