// Shared-prefix attention without matrix instructions: float32 sums by 256 threads, any head sizes and dtypes.
#include "attention/forward.cuh"
#include "blocks/plain_tiles.cuh"

namespace grpo::cuda {
namespace {

// A tile of queries of one head, columns [first, first + kPlainColumns) of the output.
template <class T>
__device__ void attend(const Forward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                       int64_t head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, D = shape.D, E = shape.E, key_head = head / (H / shape.K);
  const Rows<T> queries = rows_of<T>(on.q, tile.begin, head, D, tile.end - tile.begin);
  float highest[4], total[4];
  PlainSum sum;
  clear(sum);
  for (int i = 0; i < 4; ++i) {
    highest[i] = -INFINITY;
    total[i] = 0;
  }
  for_each_key_tile(forest, tile, [&](const KeyTile& keys) {
    float score[4][4];
    const Rows<T> k = rows_of<T>(on.k, keys.key, key_head, D, keys.keys);
    multiply(score, shared.tiles, queries, shape.scale, k, 1, D);
    if (shape.softcap > 0) {
      float slope;
#pragma unroll
      for (int i = 0; i < 16; ++i) score[i / 4][i % 4] = capped(score[i / 4][i % 4], shape, slope);
    }
    int low[4], visible[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int32_t t = tile.begin + own_row() + i;
      low[i] = hidden_keys(forest, keys, t);
      visible[i] = visible_keys(keys, t);
      float most = -INFINITY;
      for (int j = 0; j < 4; ++j)
        if (own_column() + j >= low[i] && own_column() + j < visible[i]) most = fmaxf(most, score[i][j]);
      most = fmaxf(highest[i], row_reduce(most, [](float a, float b) { return fmaxf(a, b); }));
      const float rescale = most == highest[i] ? 1 : expf(highest[i] - most), from = most == -INFINITY ? 0 : most;
      highest[i] = most;
      float part = 0;
      for (int j = 0; j < 4; ++j) {
        score[i][j] = own_column() + j >= low[i] && own_column() + j < visible[i] ? expf(score[i][j] - from) : 0;
        part += score[i][j];
      }
      total[i] = total[i] * rescale + row_reduce(part, Add{});
      if (rescale != 1)
        for (float& x : sum[i]) x *= rescale;
    }
    if (on.out == nullptr) return;
    __syncthreads();  // the weights before may still be read
    put_transposed(shared.weights, score);
    const Rows<T> v = rows_of<T>(on.v, keys.key, key_head, E, keys.keys);
    const auto sees = [&](int i, int j) { return j >= low[i] && j < visible[i]; };
    add_rows(sum, shared.tiles, shared.weights, v, first, E, sees);
  });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    if (t >= tile.end) continue;
    const RowSoftmax row = softmax_of_row(highest[i], total[i], on.sink == nullptr ? nullptr : on.sink + head);
    const int64_t at = t * H + head;
    if (on.out != nullptr) {
      store_sum(sum[i], row.factor, on.out, on.type, at * E, first, E);
      if (on.out_low != nullptr) store_rest(sum[i], row.factor, on.out_low, on.type, at * E, first, E);
    }
    if (on.logsumexp != nullptr && first == 0 && own_column() == 0) on.logsumexp[at] = row.logsumexp;
  }
}

// The tile and head of an item: heads that share keys and values are neighbours.
// Grid: tiles of queries x H, at most 3 per multiprocessor. Block: 256. Shared: 67,584. Work: 64 x 64 x (D + E)
// products per pair of tiles. Bound: issue.
template <class T>
__global__ void __launch_bounds__(kPlainThreads, 1)
    prefix_attention_kernel(Forward on, Forest forest, AttentionShape shape, WorkList work,
                            Again again) {
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) {
    const int64_t rows = shape.P * shape.H;
    fill_nan(on.out, on.type, rows, shape.E, shape.E);
    fill_nan(on.out_low, on.type, rows, shape.E, shape.E);
    fill_nan(on.logsumexp, Float::kF32, rows, 1, 1);
    return;
  }
  const int parts = parts_of(work);
  for (int64_t item = blockIdx.x; item < count * parts * shape.H; item += gridDim.x) {
    const int64_t i = item / shape.H / parts, head = item % shape.H;
    if (!again.wants(i, head, shape.H)) continue;
    const TokenTile tile = part_of(forest, work.tiles[i], static_cast<int>(item / shape.H % parts));
    if (tile.begin == tile.end) continue;
    int64_t first = 0;
    do {
      attend<T>(on, forest, shape, tile, head, first, shared);
      first += kPlainColumns;
    } while (on.out != nullptr && first < shape.E);
  }
}

}  // namespace

void attend_plainly(const Forward& forward, const Forest& forest, const AttentionShape& shape, const WorkList& work,
                    const Again& again, Launch& on) {
  if (again.marks == nullptr) on.runs("prefix_attention_kernel");
  const auto kernel = forward.type == Float::kF32    ? prefix_attention_kernel<float>
                      : forward.type == Float::kBf16 ? prefix_attention_kernel<bf16>
                                                     : prefix_attention_kernel<f16>;
  const int64_t items = work.bound > 0 ? work.bound * parts_of(work) * shape.H : 1;
  on(kernel, {blocks_for(items, 3, on), kPlainThreads, sizeof(PlainShared)}, forward, forest, shape, work, again);
}

}  // namespace grpo::cuda
