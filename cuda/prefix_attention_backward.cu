// Gradients of attention over packed segments that share prefixes.
//
//   p = exp(scale q.k - logsumexp)   gradV[j] = sum_q p gradOut[q]      delta[q] = gradOut[q] . out[q]
//   s = scale p (gradOut.v - delta)  gradK[j] = sum_q s q               gradQ[q] = sum_j s k[j]
//
// Three passes, none of which shares a sum between blocks: delta by a thread per query; gradK and gradV by the block
// that owns 64 keys of one key head, over the queries of its heads in order (those from the first key to the end of the
// segment's subtree: one range); gradQ by the block that owns 64 queries of a head, over the keys of their paths.
// Scores are formed twice, and nothing but delta (4 bytes per query and head) goes through memory. bf16 and f16 go
// through matrix instructions where they can, see prefix_attention_backward_mma.cu.
//
// Which kernel runs: the same as forward, also by the alignment of gradOut, and only if the GPU lets a block have the
// shared memory that a head size takes. All other inputs take float32 sums without matrix instructions.
#include "attention/prefix_attention_backward.cuh"

namespace grpo::cuda {
namespace {

struct PlainShared {
  PlainTiles tiles;
  alignas(16) float weights[kTile][kPitch];
};

// gradOut . out by the very chain of products that multiply() forms gradOut . v with: where out is v (a token that sees
// only itself) the two cancel to exactly 0.
template <class T>
__global__ void __launch_bounds__(kPlainThreads) delta_kernel(Backward on, int64_t rows, int64_t E) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  const T *grad_out = static_cast<const T*>(on.grad_out) + i * E, *out = static_cast<const T*>(on.out) + i * E;
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum = fmaf(to_float(grad_out[e]), to_float(out[e]), sum);
  on.delta[i] = sum;
}

// Columns [first, first + kColumns) of gradQ of a tile of queries of one head.
template <class T>
__device__ void grad_queries(const Backward& on, const Forest& forest, const AttentionShape& shape,
                             const TokenTile& tile, int64_t head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const int32_t count = tile.end - tile.begin;
  const Rows<T> q = rows_of<T>(on.q, tile.begin, H, head, D, count);
  const Rows<T> grad_out = rows_of<T>(on.grad_out, tile.begin, H, head, E, count);
  float logsumexp[4], delta[4];
  Sum sum;
  clear(sum);
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    logsumexp[i] = t < tile.end ? on.logsumexp[t * H + head] : 0;
    delta[i] = t < tile.end ? on.delta[t * H + head] : 0;
  }
  for_each_key_tile(forest, tile, [&](const KeyTile& keys) {
    const Rows<T> k = rows_of<T>(on.k, keys.key, K, key_head, D, keys.keys);
    const Rows<T> v = rows_of<T>(on.v, keys.key, K, key_head, E, keys.keys);
    float score[4][4], slope[4][4];
    multiply(score, shared.tiles, q, shape.scale, k, 1, D);
    multiply(slope, shared.tiles, grad_out, 1, v, 1, E);
    int low[4], visible[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = 0;
      visible[i] = visible_keys(keys, tile.begin + own_row() + i);
      for (int j = 0; j < 4; ++j) {
        const bool sees = own_column() + j < visible[i];
        const float p = sees ? expf(score[i][j] - logsumexp[i]) : 0;
        slope[i][j] = sees ? shape.scale * (p * (slope[i][j] - delta[i])) : 0;
      }
    }
    __syncthreads();  // the weights before may still be read
    put_transposed(shared.weights, slope);
    add_rows(sum, shared.tiles, shared.weights, k, first, D, low, visible);
  });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    if (t < tile.end) store_sum(sum[i], 1, on.grad_q.data, on.grad_q.type, (t * H + head) * D, first, D);
  }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    grad_queries_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                        const uint8_t* again) {  // [bound, H], may be null: the items to do
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) return fill_nan(on.grad_q.data, on.grad_q.type, shape.P * shape.H * shape.D);
  for (int64_t item = blockIdx.x; item < count * shape.H; item += gridDim.x) {
    if (again != nullptr && again[item] == 0) continue;
    for (int64_t first = 0; first < shape.D; first += kColumns)
      grad_queries<T>(on, forest, shape, work.tiles[item / shape.H], item % shape.H, first, shared);
  }
}

// Columns [first, first + kColumns) of gradK and gradV of a tile of keys of one key head.
template <class T>
__device__ void grad_keys(const Backward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                          int64_t key_head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, group = H / K;
  const bool wants_k = on.grad_k.data != nullptr && first < D, wants_v = on.grad_v.data != nullptr && first < E;
  const int32_t count = tile.end - tile.begin, token_end = forest.start[forest.end[tile.segment]];
  const Rows<T> k = rows_of<T>(on.k, tile.begin, K, key_head, D, count);
  const Rows<T> v = rows_of<T>(on.v, tile.begin, K, key_head, E, count);
  Sum sum_k, sum_v;
  clear(sum_k);
  clear(sum_v);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    for (int32_t token = tile.begin; token < token_end; token += kTile) {
      const int32_t queries = token_end - token < kTile ? token_end - token : kTile;
      const Rows<T> q = rows_of<T>(on.q, token, H, head, D, queries);
      const Rows<T> grad_out = rows_of<T>(on.grad_out, token, H, head, E, queries);
      float score[4][4], slope[4][4];
      multiply(score, shared.tiles, k, 1, q, shape.scale, D);
      if (wants_k) multiply(slope, shared.tiles, v, 1, grad_out, 1, E);
      int low[4], high[4];  // the queries of the tile that see the key
      for (int i = 0; i < 4; ++i) {
        const int32_t key = tile.begin + own_row() + i;
        low[i] = key > token ? key - token : 0;
        high[i] = key < tile.end ? queries : 0;
      }
      for (int j = 0; j < 4; ++j) {
        const int query = own_column() + j;
        const int64_t row = (token + query) * H + head;
        const float logsumexp = query < queries ? on.logsumexp[row] : 0;
        const float delta = wants_k && query < queries ? on.delta[row] : 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool sees = query >= low[i] && query < high[i];
          score[i][j] = sees ? expf(score[i][j] - logsumexp) : 0;
          if (wants_k) slope[i][j] = sees ? shape.scale * (score[i][j] * (slope[i][j] - delta)) : 0;
        }
      }
      if (wants_v) {
        __syncthreads();  // the weights before may still be read
        put_transposed(shared.weights, score);
        add_rows(sum_v, shared.tiles, shared.weights, grad_out, first, E, low, high);
      }
      if (wants_k) {
        __syncthreads();
        put_transposed(shared.weights, slope);
        add_rows(sum_k, shared.tiles, shared.weights, q, first, D, low, high);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = (tile.begin + own_row() + i) * K + key_head;
    if (own_row() + i >= count) continue;
    if (wants_k) store_sum(sum_k[i], 1, on.grad_k.data, on.grad_k.type, row * D, first, D);
    if (wants_v) store_sum(sum_v[i], 1, on.grad_v.data, on.grad_v.type, row * E, first, E);
  }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    grad_keys_kernel(Backward on, Forest forest, AttentionShape shape, WorkList work,
                     const uint8_t* again) {  // [bound, K], may be null: the items to do
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) {
    fill_nan(on.grad_k.data, on.grad_k.type, shape.P * shape.K * shape.D);
    fill_nan(on.grad_v.data, on.grad_v.type, shape.P * shape.K * shape.E);
    return;
  }
  const int64_t columns = shape.D > shape.E ? shape.D : shape.E;
  for (int64_t item = blockIdx.x; item < count * shape.K; item += gridDim.x) {
    if (again != nullptr && again[item] == 0) continue;
    for (int64_t first = 0; first < columns; first += kColumns)
      grad_keys<T>(on, forest, shape, work.tiles[item / shape.K], item % shape.K, first, shared);
  }
}

template <class T>
void enqueue(const Backward& backward, const Forest& forest, const AttentionShape& shape, Launch& on) {
  const int64_t rows = shape.P * shape.H;
  on(delta_kernel<T>, {ceil_div(rows, kPlainThreads), kPlainThreads}, backward, rows, shape.E);
  const auto blocks = [&](const WorkList& work, int64_t heads) {
    return blocks_for(work.bound > 0 ? work.bound * heads : 1, 3, on);
  };
  if (backward.grad_k.data != nullptr || backward.grad_v.data != nullptr) {
    const WorkList work = list_key_tiles(forest, on);
    const uint8_t* again = grad_keys_by_matrices(backward, forest, shape, work, on);
    on(grad_keys_kernel<T>, {blocks(work, shape.K), kPlainThreads, sizeof(PlainShared)}, backward, forest, shape, work,
       again);
  }
  if (backward.grad_q.data != nullptr) {
    const WorkList work = list_query_tiles(forest, on);
    const uint8_t* again = grad_queries_by_matrices(backward, forest, shape, work, on);
    on(grad_queries_kernel<T>, {blocks(work, shape.H), kPlainThreads, sizeof(PlainShared)}, backward, forest, shape,
       work, again);
  }
}

using Args = grpo_prefix_attention_backward_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const AttentionShape shape = shape_of(args, axes);
  if (const int status = check_heads(shape)) return status;
  if (shape.H == 0 || shape.P == 0) return GRPO_OK;
  const auto gradient = [](DLTensor* x) { return Gradient{data<void>(x), x == nullptr ? Float::kF32 : float_type(x)}; };
  const Backward backward{data<void>(args.q),
                          data<void>(args.k),
                          data<void>(args.v),
                          data<void>(args.grad_out),
                          data<void>(args.out),
                          data<float>(args.logsumexp),
                          on.scratch<float>(shape.P * shape.H),
                          gradient(args.grad_q),
                          gradient(args.grad_k),
                          gradient(args.grad_v),
                          float_type(args.q)};
  const Forest forest = forest_of(args, axes);
  switch (backward.type) {
    case Float::kF32: enqueue<float>(backward, forest, shape, on); break;
    case Float::kBf16: enqueue<bf16>(backward, forest, shape, on); break;
    default: enqueue<f16>(backward, forest, shape, on);
  }
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kPrefixAttentionBackward, prefix_attention_backward);

}  // namespace grpo::cuda
