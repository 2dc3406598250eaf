// Matrix products and the softmax of attention tiles. Included by the files that choose the instruction set, see simd.h.

// The micro-kernel holds kRows x kColumns sums in registers: AVX-512 and NEON have 32 of them, the others 16.
#if GRPO_AVX512
constexpr int kRows = 14;
#elif GRPO_AVX2
constexpr int kRows = 6;
#elif defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kLanes;

// c[rows, columns] = or += A[rows, k] B[k, columns], columns = (vectors - 1) * kLanes + last, 0 < last <= kLanes.
// Every element is one chain of multiply_add over k, so it does not depend on the shape of the tile it lies in.
struct Tile {
  const float* a;
  int64_t a_row_stride;
  int64_t a_column_stride;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int64_t k;
  int last;
  bool accumulate;
};

template <int kTileRows, int kVectors, bool kPartial>
static void multiply_tile(const Tile& tile) {
  const int64_t row = tile.a_row_stride;
  const float* a = tile.a;
  const float* b = tile.b;
  F32 sum[kTileRows][kVectors] = {};
  for (int64_t k = tile.k; k > 0; --k) {
    F32 x[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      x[v] = kPartial && v == kVectors - 1 ? load_first(b + v * kLanes, tile.last) : load_vector<F32>(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const F32 value = broadcast(a[i * row]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(value, x[v], sum[i][v]);
    }
    a += tile.a_column_stride;
    b += tile.ldb;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* c = tile.c + i * tile.ldc + v * kLanes;
      if (kPartial && v == kVectors - 1) {
        store_first(c, tile.accumulate ? load_first(c, tile.last) + sum[i][v] : sum[i][v], tile.last);
      } else {
        store_vector(c, tile.accumulate ? load_vector<F32>(c) + sum[i][v] : sum[i][v]);
      }
    }
  }
}

// The table of all row counts: multiply_rows<kRows> tries its own count and passes smaller ones down.
template <int kTileRows>
static void multiply_rows(const Tile& tile, int rows, int vectors) {
  if constexpr (kTileRows > 1) {
    if (rows < kTileRows) return multiply_rows<kTileRows - 1>(tile, rows, vectors);
  }
  if (tile.last == kLanes) {
    if (vectors == 2) return multiply_tile<kTileRows, 2, false>(tile);
    multiply_tile<kTileRows, 1, false>(tile);
  } else {
    if (vectors == 2) return multiply_tile<kTileRows, 2, true>(tile);
    multiply_tile<kTileRows, 1, true>(tile);
  }
}

// All rows against at most kColumns columns; the rows in pieces of nearly equal height.
static void multiply_panel(Tile tile, int64_t m, int64_t columns) {
  const int vectors = columns > kLanes ? 2 : 1;
  tile.last = static_cast<int>(columns - (vectors - 1) * kLanes);
  for (int64_t pieces = (m + kRows - 1) / kRows; pieces > 0; --pieces) {
    const int64_t rows = (m + pieces - 1) / pieces;
    multiply_rows<kRows>(tile, static_cast<int>(rows), vectors);
    tile.a += rows * tile.a_row_stride;
    tile.c += rows * tile.ldc;
    m -= rows;
  }
}

static void matmul_tile(const float* a, int64_t a_row_stride, int64_t a_column_stride, const float* b, int64_t ldb,
                        float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, bool accumulate) {
  for (int64_t j = 0; j < n; j += kColumns) {
    const int64_t columns = n - j < kColumns ? n - j : kColumns;
    multiply_panel({a, a_row_stride, a_column_stride, b + j, ldb, c + j, ldc, k, 0, accumulate}, m, columns);
  }
}

// ---- matmul: blocks of A and B are converted to float and packed, then go through the same micro-kernel.

constexpr int64_t kDepth = 256;
constexpr int64_t kBlockRows = 12 * kRows;
constexpr int64_t kBlockColumns = 16 * kColumns;
constexpr int64_t kMatmulScratch = kDepth * (kBlockRows + kBlockColumns);

GRPO_INLINE float element(const Matrix& x, int64_t row, int64_t column) {
  const int64_t i = row * x.row_stride + column * x.column_stride;
  if (x.type == Float::kF32) return static_cast<const float*>(x.data)[i];
  if (x.type == Float::kBf16) return load<Float::kBf16>(x.data, i, 1)[0];
  return load<Float::kF16>(x.data, i, 1)[0];
}

static void matmul(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                   bool accumulate, float* scratch) {
  float* const packed_a = scratch;                        // [kBlockRows, kDepth]
  float* const packed_b = scratch + kBlockRows * kDepth;  // [kDepth, kBlockColumns]
  if (k == 0 && !accumulate)
    for (int64_t i = 0; i < m; ++i) __builtin_memset(c + i * ldc, 0, n * sizeof(float));
  for (int64_t l = 0; l < k; l += kDepth) {
    const int64_t depth = k - l < kDepth ? k - l : kDepth;
    for (int64_t j = 0; j < n; j += kBlockColumns) {
      const int64_t columns = n - j < kBlockColumns ? n - j : kBlockColumns;
      for (int64_t r = 0; r < depth; ++r)
        for (int64_t s = 0; s < columns; ++s) packed_b[r * kBlockColumns + s] = element(b, l + r, j + s);
      for (int64_t i = 0; i < m; i += kBlockRows) {
        const int64_t rows = m - i < kBlockRows ? m - i : kBlockRows;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t s = 0; s < depth; ++s) packed_a[r * kDepth + s] = element(a, i + r, l + s);
        matmul_tile(packed_a, kDepth, 1, packed_b, kBlockColumns, c + i * ldc + j, ldc, rows, columns, depth,
                    accumulate || l > 0);
      }
    }
  }
}

// ---- Softmax of attention tiles: a lane per query, so that nothing is ever summed across lanes.

// kLanes queries or, with kPartial, the first `count` of them.
template <bool kPartial>
GRPO_INLINE F32 load_queries(const float* p, int count) {
  return kPartial ? load_first(p, count) : load_vector<F32>(p);
}

template <bool kPartial>
GRPO_INLINE void store_queries(float* p, F32 v, int count) {
  if (kPartial) return store_first(p, v, count);
  store_vector(p, v);
}

// The same queries at kWide keys, `ld` apart.
template <bool kPartial>
GRPO_INLINE Wide load_keys(const float* p, int64_t ld, int count) {
  Wide result;
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) result.v[v] = load_queries<kPartial>(p + v * ld, count);
  return result;
}

template <bool kPartial>
GRPO_INLINE void store_keys(float* p, int64_t ld, const Wide& x, int count) {
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) store_queries<kPartial>(p + v * ld, x.v[v], count);
}

// How many keys each of some queries sees: all of them see the first `every`, and none sees those from `any` on.
struct Visible {
  I32 keys;
  int64_t every;
  int64_t any;
};

GRPO_INLINE Visible visible_keys(const int32_t* visible, int64_t first, int count, int64_t keys) {
  if (visible == nullptr) return {I32{}, keys, keys};
  Visible result = {I32{}, keys, 0};
  __builtin_memcpy(&result.keys, visible + first, count * sizeof(int32_t));
  for (int q = 0; q < count; ++q) {
    const int64_t seen = visible[first + q] < 0 ? 0 : visible[first + q] < keys ? visible[first + q] : keys;
    if (seen < result.every) result.every = seen;
    if (seen > result.any) result.any = seen;
  }
  return result;
}

GRPO_INLINE Mask sees(const Visible& visible, int64_t key) { return above(visible.keys, static_cast<int32_t>(key)); }

template <bool kPartial>
static void softmax_queries(float* scores, int64_t lds, int64_t keys, int64_t first, int count, const int32_t* visible,
                            float* max, float* sum, float* rescale) {
  const Visible seen = visible_keys(visible, first, count, keys);
  float* const column = scores + first;
  const F32 old_max = load_queries<kPartial>(max + first, count);
  F32 most = old_max;
  int64_t j = 0;
  for (; j < seen.every; ++j) most = larger(load_queries<kPartial>(column + j * lds, count), most);
  for (; j < seen.any; ++j) {
    const F32 score = load_queries<kPartial>(column + j * lds, count);
    most = larger(select(sees(seen, j), score, most), most);
  }
  // While a query has seen no key its maximum is -inf; measured from 0 its exponentials are 0 instead of NaN.
  const F32 origin = select(equal(most, broadcast(-kInfinity)), broadcast(0.0f), most);
  F32 added = {};
  for (j = 0; j + kWide <= seen.every; j += kWide) {
    const Wide p = exponential_below_zero(load_keys<kPartial>(column + j * lds, lds, count) - origin);
    store_keys<kPartial>(column + j * lds, lds, p, count);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) added += p.v[v];
  }
  for (; j < seen.any; ++j) {
    F32 p = exponential_below_zero(load_queries<kPartial>(column + j * lds, count) - origin);
    if (j >= seen.every) p = zero_unless(sees(seen, j), p);
    store_queries<kPartial>(column + j * lds, p, count);
    added += p;
  }
  for (; j < keys; ++j) store_queries<kPartial>(column + j * lds, F32{}, count);
  const F32 factor = select(equal(old_max, most), broadcast(1.0f), exponential_below_zero(old_max - origin));
  store_queries<kPartial>(max + first, most, count);
  store_queries<kPartial>(sum + first, multiply_add(load_queries<kPartial>(sum + first, count), factor, added), count);
  store_queries<kPartial>(rescale + first, factor, count);
}

static void softmax_tile(float* scores, int64_t lds, int64_t keys, int64_t queries, const int32_t* visible, float* max,
                         float* sum, float* rescale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries<false>(scores, lds, keys, first, kLanes, visible, max, sum, rescale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries<true>(scores, lds, keys, first, count, visible, max, sum, rescale);
  }
}

template <bool kPartial>
static void softmax_queries_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t first,
                                     int count, const int32_t* visible, const float* logsumexp, const float* delta,
                                     float scale) {
  const Visible seen = visible_keys(visible, first, count, keys);
  const F32 row_logsumexp = load_queries<kPartial>(logsumexp + first, count);
  // A query that saw only -inf has logsumexp = -inf: its p are 0 instead of NaN.
  const F32 origin = select(equal(row_logsumexp, broadcast(-kInfinity)), broadcast(kInfinity), row_logsumexp);
  const F32 row_delta = load_queries<kPartial>(delta + first, count);
  const F32 row_scale = broadcast(scale);
  int64_t j = 0;
  for (; j + kWide <= seen.every; j += kWide) {
    const int64_t i = j * ld + first;
    const Wide p = exponential(load_keys<kPartial>(scores + i, ld, count) - origin);
    const Wide grad = p * ((load_keys<kPartial>(grad_scores + i, ld, count) - row_delta) * row_scale);
    store_keys<kPartial>(scores + i, ld, p, count);
    store_keys<kPartial>(grad_scores + i, ld, grad, count);
  }
  for (; j < seen.any; ++j) {
    const int64_t i = j * ld + first;
    F32 p = exponential(load_queries<kPartial>(scores + i, count) - origin);
    F32 grad = p * ((load_queries<kPartial>(grad_scores + i, count) - row_delta) * row_scale);
    if (j >= seen.every) {
      p = zero_unless(sees(seen, j), p);
      grad = zero_unless(sees(seen, j), grad);
    }
    store_queries<kPartial>(scores + i, p, count);
    store_queries<kPartial>(grad_scores + i, grad, count);
  }
  for (; j < keys; ++j) {
    store_queries<kPartial>(scores + j * ld + first, F32{}, count);
    store_queries<kPartial>(grad_scores + j * ld + first, F32{}, count);
  }
}

static void softmax_tile_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t queries,
                                  const int32_t* visible, const float* logsumexp, const float* delta, float scale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries_backward<false>(scores, grad_scores, ld, keys, first, kLanes, visible, logsumexp, delta, scale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries_backward<true>(scores, grad_scores, ld, keys, first, count, visible, logsumexp, delta, scale);
  }
}
