// Matrix products of bf16, see bf16.h. The instructions take pairs: a sum gets a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1] at a
// time. So the rows of A are packed as they are, and those of B two by two: pairs[i][column] is b[2 i] and b[2 i + 1].
// Included by the files that choose the instruction set, after simd.h and storage.h.

// What one call of the micro-kernel multiplies. depth is a multiple of kDepthStep: what lies beyond the end of A and B
// is packed as 0.
struct PairTile {
  const uint16_t* a;  // [rows,depth], rows kBf16RowStride apart
  const uint32_t* b;  // [depth / 2,kBf16Panel] pairs
  float* c;
  int64_t ldc;
  int64_t depth;
  int rows, columns;
  bool accumulate;
};
constexpr int64_t kDepthStep = 32;

#if GRPO_AMX
// 16 x 16 sums to a tile register, four of them at once; each instruction adds 32 products to every sum.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// A constant: the intrinsic tells the compiler of the first bytes alone, and those of a variable could be missing.
constexpr TileShapes kTileShapes;
GRPO_INLINE void begin_products() { _tile_loadconfig(&kTileShapes); }
// Or every switch to another thread would have 8 KiB more to save.
GRPO_INLINE void end_products() { _tile_release(); }
// The intrinsics do not tell the compiler what memory they read.
GRPO_INLINE void finish_stores() { __asm__ volatile("" ::: "memory"); }

template <bool kSecondRows, bool kSecondColumns>
static void multiply_tiles(const PairTile& tile, float* c, int64_t ldc, bool accumulate) {
  const int64_t row = kBf16RowStride * sizeof(uint16_t), pairs = kBf16Panel * sizeof(uint32_t);
  const int64_t ld = ldc * sizeof(float);
  if (accumulate) {
    _tile_loadd(0, c, ld);
    if (kSecondColumns) _tile_loadd(1, c + 16, ld);
    if (kSecondRows) _tile_loadd(2, c + 16 * ldc, ld);
    if (kSecondRows && kSecondColumns) _tile_loadd(3, c + 16 * ldc + 16, ld);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const uint16_t* a = tile.a;
  const uint32_t* b = tile.b;
  for (int64_t k = 0; k < tile.depth; k += kDepthStep) {
    _tile_loadd(4, a, row);
    _tile_loadd(6, b, pairs);
    _tile_dpbf16ps(0, 4, 6);
    if (kSecondColumns) {
      _tile_loadd(7, b + 16, pairs);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (kSecondRows) {
      _tile_loadd(5, a + 16 * kBf16RowStride, row);
      _tile_dpbf16ps(2, 5, 6);
      if (kSecondColumns) _tile_dpbf16ps(3, 5, 7);
    }
    a += kDepthStep;
    b += kDepthStep / 2 * kBf16Panel;
  }
  _tile_stored(0, c, ld);
  if (kSecondColumns) _tile_stored(1, c + 16, ld);
  if (kSecondRows) _tile_stored(2, c + 16 * ldc, ld);
  if (kSecondRows && kSecondColumns) _tile_stored(3, c + 16 * ldc + 16, ld);
}

static void multiply_pairs(const PairTile& tile, float* c, int64_t ldc, bool accumulate) {
  finish_stores();
  if (tile.rows > 16) {
    if (tile.columns > 16) return multiply_tiles<true, true>(tile, c, ldc, accumulate);
    return multiply_tiles<true, false>(tile, c, ldc, accumulate);
  }
  if (tile.columns > 16) return multiply_tiles<false, true>(tile, c, ldc, accumulate);
  multiply_tiles<false, false>(tile, c, ldc, accumulate);
}

static void multiply_pairs(const PairTile& tile) {
  if (tile.rows % 16 == 0 && tile.columns % 16 == 0)
    return multiply_pairs(tile, tile.c, tile.ldc, tile.accumulate);
  // Tiles are whole: what has none in c goes through a piece of memory that has.
  float piece[kBf16Rows * kBf16Panel] = {};
  const int64_t bytes = tile.columns * sizeof(float);
  for (int i = 0; tile.accumulate && i < tile.rows; ++i)
    __builtin_memcpy(piece + i * kBf16Panel, tile.c + i * tile.ldc, bytes);
  multiply_pairs(tile, piece, kBf16Panel, tile.accumulate);
  for (int i = 0; i < tile.rows; ++i) __builtin_memcpy(tile.c + i * tile.ldc, piece + i * kBf16Panel, bytes);
}

GRPO_INLINE int64_t rows_at_once(int64_t left) { return left < kBf16Rows ? left : kBf16Rows; }
constexpr int64_t kRowStep = 16;

#else
// 14 x 32 sums in registers, as of float32.
constexpr int kRows = 14;
constexpr int kVectors = 2;

GRPO_INLINE void begin_products() {}
GRPO_INLINE void end_products() {}

template <int kTileRows>
static void multiply_rows(const PairTile& tile) {
  if constexpr (kTileRows > 1) {
    if (tile.rows < kTileRows) return multiply_rows<kTileRows - 1>(tile);
  }
  F32 sum[kTileRows][kVectors] = {};
  const uint16_t* a = tile.a;
  const uint32_t* b = tile.b;
  for (int64_t k = tile.depth; k > 0; k -= 2) {
    const U32 x[kVectors] = {load_vector<U32>(b), load_vector<U32>(b + kLanes)};
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, a + i * kBf16RowStride, sizeof pair);
      const I32 value = broadcast(pair);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
        sum[i][v] = (F32)_mm512_dpbf16_ps((__m512)sum[i][v], (__m512bh)value, (__m512bh)x[v]);
    }
    a += 2;
    b += kBf16Panel;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* c = tile.c + i * tile.ldc + v * kLanes;
      const int left = tile.columns - v * kLanes;
      if (left <= 0) break;
      const int count = left < kLanes ? left : kLanes;
      store_first(c, tile.accumulate ? load_first(c, count) + sum[i][v] : sum[i][v], count);
    }
  }
}

static void multiply_pairs(const PairTile& tile) { multiply_rows<kRows>(tile); }

// All of nearly equal height.
GRPO_INLINE int64_t rows_at_once(int64_t left) {
  const int64_t tiles = (left + kRows - 1) / kRows;
  return (left + tiles - 1) / tiles;
}
constexpr int64_t kRowStep = 1;
#endif

// ---- packing

// Of kLanes columns, or the first `count`: element i and element j of each as a pair, i first. Where there is no j
// (below 0), 0.
template <Float kType>
GRPO_INLINE U32 load_pairs(const void* data, int64_t i, int64_t j, int count) {
  if constexpr (kType == Float::kBf16) {
    const uint16_t* x = static_cast<const uint16_t*>(data);
    const U32 low = widen(load_first(x + i, count));
    return j < 0 ? low : low | widen(load_first(x + j, count)) << 16;
  } else {
    const float* x = static_cast<const float*>(data);
    const __m512 high = j < 0 ? __m512{} : (__m512)load_first(x + j, count);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, (__m512)load_first(x + i, count));
    // 0 16 1 17 ..
    const __m512i order = (__m512i)(broadcast(0x00100000) + I32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x00010001);
    return (U32)_mm512_permutexvar_epi16(order, both);
  }
}

// kDepthStep consecutive elements, or the first `count`, then zeros.
template <Float kType>
GRPO_INLINE U32 load_run(const void* data, int64_t i, int count) {
  if constexpr (kType == Float::kBf16) {
    const uint32_t lanes = count == 32 ? ~0u : (1u << count) - 1;
    return (U32)_mm512_maskz_loadu_epi16(lanes, static_cast<const uint16_t*>(data) + i);
  } else {
    const float* x = static_cast<const float*>(data) + i;
    const __m512 low = (__m512)load_first(x, count < kLanes ? count : kLanes);
    const __m512 high = count > kLanes ? (__m512)load_first(x + kLanes, count - kLanes) : __m512{};
    return (U32)_mm512_cvtne2ps_pbh(high, low);
  }
}

GRPO_INLINE void transpose_pairs(U32 (&pairs)[kLanes]) {
  F32 rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = float_of(pairs[i]);
  transpose(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) pairs[i] = bits_of(rows[i]);
}

GRPO_INLINE int at_most(int64_t count, int limit) { return count < limit ? static_cast<int>(count) : limit; }

// kLanes runs of kDepthStep elements, consecutive or not, as pairs: pairs[i] has elements 2 i and 2 i + 1 of all of them.
template <Float kType>
GRPO_INLINE void load_block(const Matrix& x, int64_t first, int64_t run_stride, int64_t stride, int runs, int depth,
                            U32 (&pairs)[kLanes]) {
  if (stride == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) pairs[i] = i < runs ? load_run<kType>(x.data, first + i * run_stride, depth) : U32{};
    return transpose_pairs(pairs);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const int64_t even = first + 2 * i * stride;
    pairs[i] = 2 * i >= depth ? U32{} : load_pairs<kType>(x.data, even, 2 * i + 1 < depth ? even + stride : -1, runs);
  }
}

// Rows [row, row + rows) of A from column k on, rounded up to whole steps in both directions.
template <Float kType>
static void pack_a(const Matrix& a, int64_t row, int64_t rows, int64_t k, int64_t depth, uint16_t* packed) {
  for (int64_t d = 0; d < depth; d += kDepthStep) {
    const int count = at_most(depth - d, kDepthStep);
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int64_t first = (row + i) * a.row_stride + (k + d) * a.column_stride;
      const int runs = at_most(rows - i, kLanes);
      uint16_t* to = packed + i * kBf16RowStride + d;
      if (a.column_stride == 1) {
        for (int j = 0; j < runs; ++j)
          store_vector(to + j * kBf16RowStride, load_run<kType>(a.data, first + j * a.row_stride, count));
      } else {
        U32 pairs[kLanes];
        load_block<kType>(a, first, a.row_stride, a.column_stride, runs, count, pairs);
        transpose_pairs(pairs);
        for (int j = 0; j < runs; ++j) store_vector(to + j * kBf16RowStride, pairs[j]);
      }
      // Of a whole tile no row may be rubbish: products of it take long where it looks like NaN.
      for (int64_t j = runs; j < kLanes && kRowStep > 1; ++j) store_vector(to + j * kBf16RowStride, U32{});
    }
  }
}

// Rows [k, k + depth) of B, rounded up to whole steps, and so many columns, rounded up to a panel.
template <Float kType>
static void pack_b(const Matrix& b, int64_t k, int64_t depth, int64_t column, int64_t columns, uint32_t* packed) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    uint32_t* const panel = packed + j / kBf16Panel * kBf16PanelPairs + j % kBf16Panel;
    const int runs = at_most(columns - j, kLanes);
    for (int64_t d = 0; d < depth; d += kDepthStep) {
      U32 pairs[kLanes];
      load_block<kType>(b, (k + d) * b.row_stride + (column + j) * b.column_stride, b.column_stride, b.row_stride, runs,
                        at_most(depth - d, kDepthStep), pairs);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_vector(panel + (d / 2 + i) * kBf16Panel, pairs[i]);
    }
  }
}

static void multiply_bf16(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                          bool accumulate, float* scratch) {
  if (k == 0 && !accumulate)
    for (int64_t i = 0; i < m; ++i) __builtin_memset(c + i * ldc, 0, n * sizeof(float));
  uint32_t* const packed_b = reinterpret_cast<uint32_t*>(scratch);
  uint16_t* const packed_a = reinterpret_cast<uint16_t*>(scratch + kBf16Columns / kBf16Panel * kBf16PanelPairs);
  begin_products();
  for (int64_t l = 0; l < k; l += kBf16Depth) {
    const int64_t depth = k - l < kBf16Depth ? k - l : kBf16Depth;
    for (int64_t j = 0; j < n; j += kBf16Columns) {
      const int64_t columns = n - j < kBf16Columns ? n - j : kBf16Columns;
      if (b.type == Float::kBf16) pack_b<Float::kBf16>(b, l, depth, j, columns, packed_b);
      else pack_b<Float::kF32>(b, l, depth, j, columns, packed_b);
      for (int64_t row = 0, rows; row < m; row += rows) {
        rows = rows_at_once(m - row);
        if (a.type == Float::kBf16) pack_a<Float::kBf16>(a, row, rows, l, depth, packed_a);
        else pack_a<Float::kF32>(a, row, rows, l, depth, packed_a);
        for (int64_t s = 0; s < columns; s += kBf16Panel)
          multiply_pairs({packed_a, packed_b + s / kBf16Panel * kBf16PanelPairs, c + row * ldc + j + s, ldc,
                          (depth + kDepthStep - 1) / kDepthStep * kDepthStep, static_cast<int>(rows),
                          at_most(columns - s, kBf16Panel), accumulate || l > 0});
      }
    }
  }
  end_products();
}
