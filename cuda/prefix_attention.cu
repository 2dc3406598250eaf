// Attention over packed segments that share prefixes.
//
// A block owns a tile of 64 queries of one head and runs over the keys of their paths with a running softmax: nothing
// is shared between blocks, and no scores leave the chip. Queries and outputs move once, keys and values once per tile
// of queries, mostly from the L2 cache: the heads that share keys stand next to each other in the order of work. The
// work list is made on the device, see prefix_attention_schedule.cu.
//
// bf16 and f16 of head sizes up to 128 (multiples of 8, aligned to 16 bytes) go through matrix instructions, a warp per
// 16 queries, keys and values copied while the tile before is at work. There a hidden value has the weight 0, and 0
// times infinity is NaN: a tile with a result that is not finite is done again by the other kernel, which leaves hidden
// values out. That is the kernel of all other inputs: float32 sums by 256 threads, any head sizes.
#include "attention/prefix_attention_mma.cuh"

namespace grpo::cuda {
namespace {

struct Forward {
  const void *q, *k, *v;
  void* out;         // may be null
  float* logsumexp;  // may be null
  Float type;
};

struct PlainShared {
  PlainTiles tiles;
  alignas(16) float weights[kTile][kPitch];
};

// A tile of queries of one head, columns [first, first + kColumns) of the output.
template <class T>
__device__ void attend(const Forward& on, const Forest& forest, const AttentionShape& shape, const TokenTile& tile,
                       int64_t head, int64_t first, PlainShared& shared) {
  const int64_t H = shape.H, K = shape.K, D = shape.D, E = shape.E, key_head = head / (H / K);
  const Rows<T> queries = rows_of<T>(on.q, tile.begin, H, head, D, tile.end - tile.begin);
  float highest[4], total[4];
  Sum sum;
  clear(sum);
  for (int i = 0; i < 4; ++i) {
    highest[i] = -INFINITY;
    total[i] = 0;
  }
  for_each_key_tile(forest, tile, [&](const KeyTile& keys) {
    float score[4][4];
    const Rows<T> k = rows_of<T>(on.k, keys.key, K, key_head, D, keys.keys);
    multiply(score, shared.tiles, queries, shape.scale, k, 1, D);
    int low[4], visible[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = 0;
      visible[i] = visible_keys(keys, tile.begin + own_row() + i);
      float most = -INFINITY;
      for (int j = 0; j < 4; ++j)
        if (own_column() + j < visible[i]) most = fmaxf(most, score[i][j]);
      most = fmaxf(highest[i], row_reduce(most, [](float a, float b) { return fmaxf(a, b); }));
      const float rescale = most == highest[i] ? 1 : expf(highest[i] - most), from = most == -INFINITY ? 0 : most;
      highest[i] = most;
      float part = 0;
      for (int j = 0; j < 4; ++j) {
        score[i][j] = own_column() + j < visible[i] ? expf(score[i][j] - from) : 0;
        part += score[i][j];
      }
      total[i] = total[i] * rescale + row_reduce(part, Add{});
      if (rescale != 1)
        for (float& x : sum[i]) x *= rescale;
    }
    if (on.out == nullptr) return;
    __syncthreads();  // the weights before may still be read
    put_transposed(shared.weights, score);
    const Rows<T> v = rows_of<T>(on.v, keys.key, K, key_head, E, keys.keys);
    add_rows(sum, shared.tiles, shared.weights, v, first, E, low, visible);
  });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = tile.begin + own_row() + i;
    if (t >= tile.end) continue;
    if (on.out != nullptr) store_sum(sum[i], 1 / total[i], on.out, on.type, (t * H + head) * E, first, E);
    if (on.logsumexp != nullptr && first == 0 && own_column() == 0)
      on.logsumexp[t * H + head] = static_cast<float>(highest[i] + log(static_cast<double>(total[i])));
  }
}

// The tile and head of an item: heads that share keys and values are neighbours.
template <class T>
__global__ void __launch_bounds__(kPlainThreads, 1)
    prefix_attention_kernel(Forward on, Forest forest, AttentionShape shape, WorkList work,
                            const uint8_t* again) {  // [bound, H], may be null: the items to do
  DYN_SMEM(PlainShared, shared);
  const int64_t count = *work.count;
  if (count < 0) {
    fill_nan(on.out, on.type, shape.P * shape.H * shape.E);
    fill_nan(on.logsumexp, Float::kF32, shape.P * shape.H);
    return;
  }
  for (int64_t item = blockIdx.x; item < count * shape.H; item += gridDim.x) {
    if (again != nullptr && again[item] == 0) continue;
    int64_t first = 0;
    do {
      attend<T>(on, forest, shape, work.tiles[item / shape.H], item % shape.H, first, shared);
      first += kColumns;
    } while (on.out != nullptr && first < shape.E);
  }
}

// ---- with matrix instructions ---------------------------------------------------------------------------------------

template <class T, int kWidth>
struct MatrixShared {
  alignas(16) Stage<T, kWidth> q;
  alignas(16) Stage<T, kWidth> k[2];
  alignas(16) Stage<T, kWidth> v[2];
};

// Whether all results are finite.
template <class T, int kWidth>
__device__ bool attend_by_matrices(const Forward& on, const Forest& forest, const AttentionShape& shape,
                                   const TokenTile& tile, int64_t head, MatrixShared<T, kWidth>& shared) {
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
    const bool all = keys.keys == kTile && keys.key + kTile - 1 <= tile.begin && keys.token_end == tile.end;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int visible = all ? kTile : visible_keys(keys, tile.begin + matrix_row(which));
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

template <class T, int kWidth>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    prefix_attention_mma_kernel(Forward on, Forest forest, AttentionShape shape, WorkList work,
                                uint8_t* again) {  // [bound, H], receives whether an item is to be done again
  using Shared = MatrixShared<T, kWidth>;
  DYN_SMEM(Shared, shared);
  const int64_t count = *work.count;
  for (int64_t item = blockIdx.x; item < count * shape.H; item += gridDim.x) {
    const bool finite =
        attend_by_matrices<T, kWidth>(on, forest, shape, work.tiles[item / shape.H], item % shape.H, shared);
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

using Args = grpo_prefix_attention_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const AttentionShape shape = shape_of(args, axes);
  if (const int status = check_heads(shape)) return status;
  const Forward forward{data<void>(args.q), data<void>(args.k), data<void>(args.v), data<void>(args.out),
                        data<float>(args.logsumexp), float_type(args.q)};
  if (shape.H == 0 || shape.P == 0 || (forward.out == nullptr && forward.logsumexp == nullptr)) return GRPO_OK;
  const Forest forest = forest_of(args, axes);
  const WorkList work = list_query_tiles(forest, on);
  const int64_t items = work.bound * shape.H > 0 ? work.bound * shape.H : 1;
  const uint8_t* again = nullptr;
  if (forward.type != Float::kF32 && fit_matrices(shape.D, shape.E, forward.q, forward.k, forward.v))
    again = forward.type == Float::kBf16 ? by_matrices<bf16>(forward, forest, shape, work, on)
                                         : by_matrices<f16>(forward, forest, shape, work, on);
  const auto kernel = forward.type == Float::kF32    ? prefix_attention_kernel<float>
                      : forward.type == Float::kBf16 ? prefix_attention_kernel<bf16>
                                                     : prefix_attention_kernel<f16>;
  on(kernel, {blocks_for(items, 3, on), kPlainThreads, sizeof(PlainShared)}, forward, forest, shape, work,
     again);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kPrefixAttention, prefix_attention);

}  // namespace grpo::cuda
