// Products of float32 tiles without matrix instructions, of any head sizes, addresses and dtypes, by a block of 256
// threads: thread (y, x) has rows 4 y .. 4 y + 3 and columns 4 x .. 4 x + 3 of 64 x 64 results.
#pragma once

#include "blocks/floats.cuh"
#include "blocks/lanes.cuh"
#include "blocks/rows.cuh"

namespace grpo::cuda {

constexpr int kPlainThreads = 256;
constexpr int kPlainRows = 64;      // of a tile
constexpr int kPlainDepth = 32;     // terms of a product that are in shared memory at a time
constexpr int kPlainColumns = 128;  // columns of a sum: 4 x .. 4 x + 3, and those 64 on
constexpr int kPlainPitch = kPlainRows + 4;

struct alignas(16) Quad {
  float at[4];
};

struct PlainTiles {
  alignas(16) float a[kPlainDepth][kPlainPitch];
  alignas(16) float b[kPlainDepth][kPlainPitch];
  alignas(16) float rows[kPlainRows][kPlainColumns];
};

// Of a block whose sums are weighted by what it multiplied before.
struct PlainShared {
  PlainTiles tiles;
  alignas(16) float weights[kPlainRows][kPlainPitch];
};

__device__ __forceinline__ int own_row() { return threadIdx.x / 16 * 4; }
__device__ __forceinline__ int own_column() { return threadIdx.x % 16 * 4; }
__device__ __forceinline__ Quad quad(const float* x) { return *reinterpret_cast<const Quad*>(x); }

template <class T>
__device__ __forceinline__ void load_transposed(float (&to)[kPlainDepth][kPlainPitch], const Rows<T>& x, float factor,
                                                int64_t first, int64_t n) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kPlainRows * kPlainDepth; i += kPlainThreads) {
    const int row = i / kPlainDepth, column = i % kPlainDepth;
    const bool inside = row < x.count && first + column < n;
    to[column][row] = inside ? factor * to_float(x.data[row * x.stride + first + column]) : 0;
  }
}

// product[i][j] = a[own row + i] . b[own column + j], times both factors, one term after the other: an order
// that delta_kernel of attention repeats.
template <class T>
__device__ __forceinline__ void multiply(float (&product)[4][4], PlainTiles& tiles, const Rows<T>& a, float a_factor,
                                         const Rows<T>& b, float b_factor, int64_t n) {
  for (auto& row : product)
    for (float& x : row) x = 0;
  for (int64_t first = 0; first < n; first += kPlainDepth) {
    __syncthreads();
    load_transposed(tiles.a, a, a_factor, first, n);
    load_transposed(tiles.b, b, b_factor, first, n);
    __syncthreads();
    const int depth = static_cast<int>(n - first < kPlainDepth ? n - first : kPlainDepth);
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
__device__ __forceinline__ void put_transposed(float (&to)[kPlainRows][kPlainPitch], const float (&product)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *reinterpret_cast<Quad*>(&to[own_column() + j][own_row()]) =
        Quad{{product[0][j], product[1][j], product[2][j], product[3][j]}};
}

using PlainSum = float[4][8];

__device__ __forceinline__ void clear(PlainSum& sum) {
  for (auto& row : sum)
    for (float& x : row) x = 0;
}

// sum[i] += weights[j][own row + i] * x[j], columns first .. first + kPlainColumns of n, where sees(i, j) alone:
// zero times a hidden infinity would not be zero.
template <class T, class Sees>
__device__ __forceinline__ void add_rows(PlainSum& sum, PlainTiles& tiles,
                                         const float (&weights)[kPlainRows][kPlainPitch], const Rows<T>& x,
                                         int64_t first, int64_t n, Sees sees) {
  __syncthreads();
  const int64_t columns = n - first < kPlainColumns ? n - first : kPlainColumns;
#pragma unroll 4
  for (int i = threadIdx.x; i < kPlainRows * kPlainColumns; i += kPlainThreads) {
    const int row = i / kPlainColumns, column = i % kPlainColumns;
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
      if (!sees(i, j)) continue;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[i][c] = fmaf(weight.at[i], near.at[c], sum[i][c]);
        sum[i][4 + c] = fmaf(weight.at[i], far.at[c], sum[i][4 + c]);
      }
    }
  }
}

// Row i of a sum times `factor`, to columns first .. of a row of n numbers.
template <class Factor>
__device__ __forceinline__ void store_sum(const float (&row)[8], Factor factor, void* data, Float type, int64_t at,
                                          int64_t first, int64_t n) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const int64_t column = first + own_column() + c % 4 + c / 4 * 64;
    if (column < n) store_float(data, type, at + column, static_cast<float>(row[c] * factor));
  }
}

// What rounding lost of it.
__device__ __forceinline__ void store_rest(const float (&row)[8], double factor, void* data, Float type, int64_t at,
                                           int64_t first, int64_t n) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const int64_t column = first + own_column() + c % 4 + c / 4 * 64;
    if (column < n) store_float(data, type, at + column, rest_of(static_cast<float>(row[c] * factor), type));
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
