// gradQ without matrix instructions: a block owns 64 queries of a head and runs over the keys of their paths.
#include "attention/backward.cuh"
#include "blocks/plain_tiles.cuh"

namespace grpo::cuda {
namespace {

// Columns [first, first + kPlainColumns) of gradQ of a tile of queries of one head.
template <class T>
__device__ void grad_queries(const Backward& on, const Forest& forest, const AttentionShape& shape,
                             const TokenTile& tile, int64_t head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const int32_t count = tile.end - tile.begin;
  const Rows<T> q = rows_of<T>(on.q, tile.begin, head, D, count);
  const Rows<T> grad_out = rows_of<T>(on.grad_out, tile.begin, head, E, count);
  float origin[4];
  PlainSum sum;
  clear(sum);
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    origin[i] = t < tile.end ? origin_of(on.logsumexp[t * H + head]) : 0;
  }
  for_each_key_tile(forest, tile, [&](const KeyTile& keys) {
    const Rows<T> k = rows_of<T>(on.k, keys.key, key_head, D, keys.keys);
    const Rows<T> v = rows_of<T>(on.v, keys.key, key_head, E, keys.keys);
    float score[4][4], slope[4][4];
    multiply(score, shared.tiles, q, shape.scale, k, 1, D);
    multiply(slope, shared.tiles, grad_out, 1, v, 1, E);
    int low[4], visible[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int32_t t = tile.begin + own_row() + i;
      low[i] = hidden_keys(forest, keys, t);
      visible[i] = visible_keys(keys, t);
      const float delta = visible[i] > 0 ? on.delta[t * H + head] : 0;  // here: no register before
      for (int j = 0; j < 4; ++j) {
        const bool sees = own_column() + j >= low[i] && own_column() + j < visible[i];
        float steepness = 1;
        if (shape.softcap > 0) score[i][j] = capped(score[i][j], shape, steepness);
        const float p = sees ? expf(score[i][j] - origin[i]) : 0;
        slope[i][j] = sees ? shape.scale * (p * (slope[i][j] - delta)) * steepness : 0;
      }
    }
    __syncthreads();  // the weights before may still be read
    put_transposed(shared.weights, slope);
    const auto sees = [&](int i, int j) { return j >= low[i] && j < visible[i]; };
    add_rows(sum, shared.tiles, shared.weights, k, first, D, sees);
  });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    if (t < tile.end) store_sum(sum[i], on.grad_q.scale, on.grad_q.data, on.grad_q.type,
                  t * on.grad_q.stride + head * D, first, D);
  }
}

// Grid: tiles of queries x H, at most 3 per multiprocessor. Block: 256. Shared: 67,584. Work: 64 x 64 x (2 D + E)
// products per pair of tiles. Bound: issue.
template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    grad_queries_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                        Again again) {
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) return fill_nan(on.grad_q.data, on.grad_q.type, shape.P, shape.H * shape.D, on.grad_q.stride);
  const int parts = parts_of(work);
  for (int64_t item = blockIdx.x; item < count * parts * shape.H; item += gridDim.x) {
    const int64_t i = item / shape.H / parts, head = item % shape.H;
    if (!again.wants(i, head, shape.H)) continue;
    const TokenTile tile = part_of(forest, work.tiles[i], static_cast<int>(item / shape.H % parts));
    if (tile.begin == tile.end) continue;
    for (int64_t first = 0; first < shape.D; first += kPlainColumns)
      grad_queries<T>(on, forest, shape, tile, head, first, shared);
  }
}

}  // namespace

void grad_queries_plainly(const Backward& backward, const Forest& forest, const AttentionShape& shape,
                          const WorkList& work, const Again& again, Launch& on) {
  if (again.marks == nullptr) on.runs("grad_queries_kernel");
  const auto kernel = backward.type == Float::kF32    ? grad_queries_kernel<float>
                      : backward.type == Float::kBf16 ? grad_queries_kernel<bf16>
                                                      : grad_queries_kernel<f16>;
  const int64_t items = work.bound > 0 ? work.bound * parts_of(work) * shape.H : 1;
  on(kernel, {blocks_for(items, 3, on), kPlainThreads, sizeof(PlainShared)}, backward, forest, shape, work, again);
}

}  // namespace grpo::cuda
