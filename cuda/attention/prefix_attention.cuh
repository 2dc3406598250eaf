// Shared-prefix attention: who sees whom, the lists of work, and what the kernels without matrix instructions share.
//
// A token t sees the key j of segment b if j <= t < segment_start[segment_end[b]]: one rule for ancestors (always
// before t) and for the own segment. So a tile of keys needs one segment, while a tile of queries may hold several.
#pragma once

#include "linear/matmul.cuh"

namespace grpo::cuda {

constexpr int kTile = 64;  // queries of a tile, keys of a tile

// The forest that the tokens are packed by. Contents are the caller's until the work list has been made from them.
struct Forest {
  const int32_t* start;   // [B+1]
  const int32_t* parent;  // [B]    -1: a root
  const int32_t* end;     // [B]    first segment after the subtree
  int64_t B, P;
};

struct AttentionShape {
  int64_t P, H, K, D, E;  // H is a multiple of K
  float scale;
};

struct TokenTile {
  int32_t segment;  // of the first token
  int32_t begin, end;
  int32_t cost;  // pairs of tiles
};

// Tiles in device memory, the longest work first.
struct WorkList {
  const TokenTile* tiles;
  const int32_t* count;  // [1]    -1: the arrays describe no forest of P tokens, and the outputs become NaN
  int64_t bound;         // tiles at most
};

// Consecutive tokens of one tree; short segments are packed together.
WorkList list_query_tiles(const Forest& forest, Launch& on);
// Consecutive tokens of one segment.
WorkList list_key_tiles(const Forest& forest, Launch& on);

// The fewest blocks that fill the GPU, each of which takes items i, i + gridDim.x, ...
inline int64_t blocks_for(int64_t items, int per_multiprocessor, const Launch& on) {
  const int64_t room = int64_t{on.device.multiprocessors} * per_multiprocessor;
  return items < room ? items : room;
}

template <class Args>
AttentionShape shape_of(const Args& args, const Axes& axes) {
  const double scale = is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(axes['D'])) : args.scale;
  return {axes['P'], axes['H'], axes['K'], axes['D'], axes['E'], static_cast<float>(scale)};
}

template <class Args>
Forest forest_of(const Args& args, const Axes& axes) {
  return {data<int32_t>(args.segment_start), data<int32_t>(args.segment_parent), data<int32_t>(args.segment_end),
          axes['B'], axes['P']};
}

inline int check_heads(const AttentionShape& shape) {
  if (shape.K == 0 ? shape.H == 0 : shape.H % shape.K == 0) return GRPO_OK;
  return fail(GRPO_SHAPE, "q", "has " + std::to_string(shape.H) + " heads, expected a multiple of K = " +
                                   std::to_string(shape.K) + " from {k}");
}

// ---- the device's side ----------------------------------------------------------------------------------------------

// The tile of keys [key, key + keys); queries from token_end on do not see it, and query t sees keys up to t.
struct KeyTile {
  int32_t key, keys, token_end;
};

// All keys that queries of the tile see, from its last segment back to its first, then up to the root: each query meets
// its own path from leaf to root, whatever else is in the tile.
class KeyWalk {
 public:
  __device__ __forceinline__ KeyWalk(const Forest& forest, const TokenTile& tile) : forest_(forest), tile_(tile) {
    segment_ = tile.segment;
    while (segment_ + 1 < forest.B && forest.start[segment_ + 1] < tile.end) ++segment_;
    enter();
  }
  __device__ __forceinline__ bool next(KeyTile& keys) {
    while (key_ >= key_end_) {
      segment_ = segment_ > tile_.segment ? segment_ - 1 : forest_.parent[segment_];
      if (segment_ < 0) return false;
      enter();
    }
    keys = {key_, key_end_ - key_ < kTile ? key_end_ - key_ : kTile, token_end_};
    key_ += kTile;
    return true;
  }

 private:
  __device__ __forceinline__ void enter() {
    const int32_t subtree = forest_.start[forest_.end[segment_]], stop = forest_.start[segment_ + 1];
    key_ = forest_.start[segment_];
    token_end_ = tile_.end < subtree ? tile_.end : subtree;
    key_end_ = token_end_ < stop ? token_end_ : stop;
  }
  const Forest& forest_;
  const TokenTile& tile_;
  int32_t segment_, key_, key_end_, token_end_;
};

template <class F>
__device__ __forceinline__ void for_each_key_tile(const Forest& forest, const TokenTile& tile, F&& f) {
  KeyWalk walk(forest, tile);
  for (KeyTile keys{}; walk.next(keys);) f(keys);
}

// How many of the tile's keys query t sees: the first ones.
__device__ __forceinline__ int visible_keys(const KeyTile& keys, int32_t t) {
  if (t >= keys.token_end || t < keys.key) return 0;
  return t - keys.key + 1 < keys.keys ? t - keys.key + 1 : keys.keys;
}

__device__ __forceinline__ void fill_nan(void* data, Float type, int64_t count) {
  if (data == nullptr) return;
  for (int64_t i = thread_index(); i < count; i += int64_t{gridDim.x} * blockDim.x) store_float(data, type, i, NAN);
}

// ---- float32 products of a block of 256 threads: thread (y, x) has rows 4 y .. 4 y + 3 ------------------------------

constexpr int kPlainThreads = 256;
constexpr int kDepth = 32;     // terms of a product that are in shared memory at a time
constexpr int kColumns = 128;  // columns of a sum: 4 x .. 4 x + 3, and those 64 on
constexpr int kPitch = kTile + 4;

struct alignas(16) Quad {
  float at[4];
};

struct PlainTiles {
  alignas(16) float a[kDepth][kPitch];
  alignas(16) float b[kDepth][kPitch];
  alignas(16) float rows[kTile][kColumns];
};

__device__ __forceinline__ int own_row() { return threadIdx.x / 16 * 4; }
__device__ __forceinline__ int own_column() { return threadIdx.x % 16 * 4; }
__device__ __forceinline__ Quad quad(const float* x) { return *reinterpret_cast<const Quad*>(x); }

// Rows of an array: `data` points at the first element of the first row.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int32_t count;
};

// Those of one head, from a token on, of [tokens, heads, n].
template <class T>
__device__ __forceinline__ Rows<T> rows_of(const void* x, int64_t token, int64_t heads, int64_t head, int64_t n,
                                           int32_t count) {
  return {static_cast<const T*>(x) + (token * heads + head) * n, heads * n, count};
}

template <class T>
__device__ __forceinline__ void load_transposed(float (&to)[kDepth][kPitch], const Rows<T>& x, float factor,
                                                int64_t first, int64_t n) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kTile * kDepth; i += kPlainThreads) {
    const int row = i / kDepth, column = i % kDepth;
    const bool inside = row < x.count && first + column < n;
    to[column][row] = inside ? factor * to_float(x.data[row * x.stride + first + column]) : 0;
  }
}

// product[i][j] = a[own row + i] . b[own column + j], times both factors, one term after the other: the order that
// delta_kernel repeats.
template <class T>
__device__ __forceinline__ void multiply(float (&product)[4][4], PlainTiles& tiles, const Rows<T>& a, float a_factor,
                                         const Rows<T>& b, float b_factor, int64_t n) {
  for (auto& row : product)
    for (float& x : row) x = 0;
  for (int64_t first = 0; first < n; first += kDepth) {
    __syncthreads();
    load_transposed(tiles.a, a, a_factor, first, n);
    load_transposed(tiles.b, b, b_factor, first, n);
    __syncthreads();
    const int depth = static_cast<int>(n - first < kDepth ? n - first : kDepth);
#pragma unroll 2
    for (int d = 0; d < depth; ++d) {
      const Quad left = quad(&tiles.a[d][own_row()]), right = quad(&tiles.b[d][own_column()]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) product[i][j] = fmaf(left.at[i], right.at[j], product[i][j]);
    }
  }
}

// What a sum needs of a product, transposed: weights[own column + j][own row + i].
__device__ __forceinline__ void put_transposed(float (&to)[kTile][kPitch], const float (&product)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *reinterpret_cast<Quad*>(&to[own_column() + j][own_row()]) =
        Quad{{product[0][j], product[1][j], product[2][j], product[3][j]}};
}

using Sum = float[4][8];

__device__ __forceinline__ void clear(Sum& sum) {
  for (auto& row : sum)
    for (float& x : row) x = 0;
}

// sum[i] += weights[j][own row + i] * x[j], columns first .. first + kColumns of n, for j in [low[i], high[i]) alone:
// zero times a hidden infinity would not be zero.
template <class T>
__device__ __forceinline__ void add_rows(Sum& sum, PlainTiles& tiles, const float (&weights)[kTile][kPitch],
                                         const Rows<T>& x, int64_t first, int64_t n, const int (&low)[4],
                                         const int (&high)[4]) {
  __syncthreads();
  const int64_t columns = n - first < kColumns ? n - first : kColumns;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTile * kColumns; i += kPlainThreads) {
    const int row = i / kColumns, column = i % kColumns;
    if (row < x.count)
      tiles.rows[row][column] = column < columns ? to_float(x.data[row * x.stride + first + column]) : 0;
  }
  __syncthreads();
#pragma unroll 2
  for (int j = 0; j < x.count; ++j) {
    const Quad weight = quad(&weights[j][own_row()]);
    const Quad near = quad(&tiles.rows[j][own_column()]), far = quad(&tiles.rows[j][own_column() + 64]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j < low[i] || j >= high[i]) continue;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[i][c] = fmaf(weight.at[i], near.at[c], sum[i][c]);
        sum[i][4 + c] = fmaf(weight.at[i], far.at[c], sum[i][4 + c]);
      }
    }
  }
}

// Row i of a sum times `factor`, to columns first .. of a row of n numbers.
__device__ __forceinline__ void store_sum(const float (&row)[8], float factor, void* data, Float type, int64_t at,
                                          int64_t first, int64_t n) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const int64_t column = first + own_column() + c % 4 + c / 4 * 64;
    if (column < n) store_float(data, type, at + column, row[c] * factor);
  }
}

// Over the 16 threads that share rows.
template <class F>
__device__ __forceinline__ float row_reduce(float value, F combine) {
  for (int distance = 8; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

}  // namespace grpo::cuda
