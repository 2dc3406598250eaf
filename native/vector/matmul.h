// Matrix products. Included by the files that choose the instruction set, see simd.h.

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
  int last;  // set by multiply_panel
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

// Rows of the next tile when `left` are to go: at most kRows, and all tiles of nearly equal height.
GRPO_INLINE int64_t tile_rows(int64_t left) {
  const int64_t tiles = (left + kRows - 1) / kRows;
  return (left + tiles - 1) / tiles;
}

// m rows against at most kColumns columns.
static void multiply_panel(Tile tile, int64_t m, int64_t columns) {
  const int vectors = columns > kLanes ? 2 : 1;
  tile.last = static_cast<int>(columns - (vectors - 1) * kLanes);
  while (m > 0) {
    const int64_t rows = tile_rows(m);
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

// ---- matmul: panels of A and B are converted to float and packed, then go through the same micro-kernel. A block of B
// stays in the second-level cache while all rows of A pass by; the packed rows of A stay in the first.

constexpr int64_t kDepth = 256;
constexpr int64_t kBlockColumns = 16 * kColumns;
// How far apart the packed rows of A and the packed panels of B lie: powers of two would put all of them in the same
// few sets of the cache.
constexpr int64_t kPackedRow = kDepth + 16;
GRPO_INLINE int64_t panel_of(int64_t column, int64_t depth) { return column / kColumns * (depth + 1) * kColumns; }
constexpr int64_t kPackedA = kRows * kPackedRow;
constexpr int64_t kMatmulScratch = kPackedA + (kDepth + 1) * kBlockColumns;

template <Float kType>
GRPO_INLINE float element(const void* data, int64_t i) {
  return load<kType>(data, i, 1)[0];
}

// B comes from memory in runs that are too short for the processor to foresee the next.
template <Float kType>
GRPO_INLINE void prefetch(const void* data, int64_t i, int64_t count) {
  constexpr int64_t kLine = 64 / size_of(kType);
  const char* const bytes = static_cast<const char*>(data);
  for (int64_t j = 0; j < count; j += kLine) __builtin_prefetch(bytes + (i + j) * size_of(kType));
}

// Copies `count` consecutive elements.
template <Float kType>
GRPO_INLINE void pack_run(const void* data, int64_t i, int64_t count, float* packed) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store_vector(packed + j, load<kType>(data, i + j));
  const int left = static_cast<int>(count - j);
  if (left > 0) store_first(packed + j, load<kType>(data, i + j, left), left);
}

// Rows [row, row + rows) and columns [column, column + depth) of A, in float. What comes back says how they lie.
struct Packed {
  int64_t row_stride;
  int64_t column_stride;
};

template <Float kType>
static Packed pack_a(Matrix a, int64_t row, int64_t rows, int64_t column, int64_t depth, float* packed) {
  const int64_t first = row * a.row_stride + column * a.column_stride;
  if (a.row_stride == 1 && a.column_stride != 1) {
    for (int64_t k = 0; k < depth; ++k) pack_run<kType>(a.data, first + k * a.column_stride, rows, packed + k * kRows);
    return {1, kRows};
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t start = first + i * a.row_stride;
    if (a.column_stride == 1) {
      pack_run<kType>(a.data, start, depth, packed + i * kPackedRow);
    } else {
      for (int64_t k = 0; k < depth; ++k)
        packed[i * kPackedRow + k] = element<kType>(a.data, start + k * a.column_stride);
    }
  }
  return {kPackedRow, 1};
}

// At most kLanes columns of B whose elements are consecutive along k; `next` more follow.
template <Float kType>
static void pack_columns(const void* data, int64_t first, int64_t column_stride, int64_t columns, int64_t next,
                         int64_t depth, float* packed) {
  for (int64_t k = 0; k < depth; k += kLanes) {
    const int count = static_cast<int>(depth - k < kLanes ? depth - k : kLanes);
    F32 rows[kLanes];
    if (columns == kLanes && count == kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) rows[j] = load<kType>(data, first + j * column_stride + k);
    } else {
      for (int j = 0; j < kLanes; ++j) {
        const int64_t i = first + j * column_stride + k;
        rows[j] = j >= columns ? F32{} : count == kLanes ? load<kType>(data, i) : load<kType>(data, i, count);
      }
    }
    for (int64_t j = 0; j < next; ++j) prefetch<kType>(data, first + (kLanes + j) * column_stride + k, 1);
    transpose(rows);
    if (count == kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_vector(packed + (k + i) * kColumns, rows[i]);
    } else {
      for (int i = 0; i < count; ++i) store_vector(packed + (k + i) * kColumns, rows[i]);
    }
  }
}

// Rows [row, row + depth) and columns [column, column + columns) of B, in float: panels of kColumns columns, each
// [depth, kColumns]. What lies beyond the last column is never used.
template <Float kType>
static void pack_b(Matrix b, int64_t row, int64_t depth, int64_t column, int64_t columns, float* packed) {
  constexpr int64_t kAhead = 4;
  const int64_t first = row * b.row_stride + column * b.column_stride;
  if (b.column_stride == 1) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < columns; j += kColumns) {
        const int64_t i = first + k * b.row_stride + j;
        const int64_t count = columns - j < kColumns ? columns - j : kColumns;
        if (k + kAhead < depth) prefetch<kType>(b.data, i + kAhead * b.row_stride, count);
        pack_run<kType>(b.data, i, count, packed + panel_of(j, depth) + k * kColumns);
      }
    }
  } else if (b.row_stride == 1) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int64_t count = columns - j < kLanes ? columns - j : kLanes;
      const int64_t left = columns - j - count;
      float* const panel = packed + panel_of(j, depth) + j % kColumns;
      pack_columns<kType>(b.data, first + j * b.column_stride, b.column_stride, count, left < kLanes ? left : kLanes,
                          depth, panel);
    }
  } else {
    for (int64_t j = 0; j < columns; ++j) {
      float* const panel = packed + panel_of(j, depth) + j % kColumns;
      for (int64_t k = 0; k < depth; ++k)
        panel[k * kColumns] = element<kType>(b.data, first + k * b.row_stride + j * b.column_stride);
    }
  }
}

static Packed pack_rows(const Matrix& a, int64_t row, int64_t rows, int64_t column, int64_t depth, float* packed) {
  if (a.type == Float::kF32) return pack_a<Float::kF32>(a, row, rows, column, depth, packed);
  if (a.type == Float::kBf16) return pack_a<Float::kBf16>(a, row, rows, column, depth, packed);
  return pack_a<Float::kF16>(a, row, rows, column, depth, packed);
}

static void pack_block(const Matrix& b, int64_t row, int64_t depth, int64_t column, int64_t columns, float* packed) {
  if (b.type == Float::kF32) return pack_b<Float::kF32>(b, row, depth, column, columns, packed);
  if (b.type == Float::kBf16) return pack_b<Float::kBf16>(b, row, depth, column, columns, packed);
  pack_b<Float::kF16>(b, row, depth, column, columns, packed);
}

static void matmul(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                   bool accumulate, float* scratch) {
  float* const packed_b = scratch;
  float* const packed_a = scratch + (kDepth + 1) * kBlockColumns;
  if (k == 0 && !accumulate)
    for (int64_t i = 0; i < m; ++i) __builtin_memset(c + i * ldc, 0, n * sizeof(float));
  for (int64_t l = 0; l < k; l += kDepth) {
    const int64_t depth = k - l < kDepth ? k - l : kDepth;
    for (int64_t j = 0; j < n; j += kBlockColumns) {
      const int64_t columns = n - j < kBlockColumns ? n - j : kBlockColumns;
      pack_block(b, l, depth, j, columns, packed_b);
      for (int64_t row = 0, rows; row < m; row += rows) {
        rows = tile_rows(m - row);
        const Packed stride = pack_rows(a, row, rows, l, depth, packed_a);
        Tile tile = {packed_a, stride.row_stride, stride.column_stride, nullptr, kColumns, nullptr,
                     ldc,      depth,             0,                    accumulate || l > 0};
        for (int64_t s = 0; s < columns; s += kColumns) {
          tile.b = packed_b + panel_of(s, depth);
          tile.c = c + row * ldc + j + s;
          multiply_panel(tile, rows, columns - s < kColumns ? columns - s : kColumns);
        }
      }
    }
  }
}
