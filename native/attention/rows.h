// Rows of floats on their way into a tile and back.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention/tiles.h"
#include "vector/vector.h"

namespace grpo {

inline void convert(const void* x, Float x_type, void* y, Float y_type, int64_t n) {
  if (n == 0) return;  // and x may be null
  if (x_type == y_type) std::memcpy(y, x, n * size_of(x_type));
  else vector_kernels().convert(x, x_type, y, y_type, n);
}

// `blocks` blocks of n elements each, `stride` elements apart in x, one after the other in y.
inline void gather(const void* x, Float type, int64_t first, int64_t stride, int64_t blocks, int64_t n, float* y) {
  const char* from = static_cast<const char*>(x) + first * size_of(type);
  if (stride == n) return convert(from, type, y, Float::kF32, blocks * n);
  for (int64_t i = 0; i < blocks; ++i) convert(from + i * stride * size_of(type), type, y + i * n, Float::kF32, n);
}

inline void scatter(const float* x, void* y, Float type, int64_t first, int64_t stride, int64_t blocks, int64_t n) {
  char* to = static_cast<char*>(y) + first * size_of(type);
  for (int64_t i = 0; i < blocks; ++i) convert(x + i * n, Float::kF32, to + i * stride * size_of(type), type, n);
}

// What rounding to 16 bits loses of x, itself rounded to them; nothing where it is not finite. `rounded`: room for n.
inline void convert_rest(const float* x, void* y, Float type, int64_t n, float* rounded) {
  convert(x, Float::kF32, y, type, n);
  convert(y, type, rounded, Float::kF32, n);
  for (int64_t i = 0; i < n; ++i) rounded[i] = std::isfinite(rounded[i]) ? x[i] - rounded[i] : 0;
  convert(rounded, Float::kF32, y, type, n);
}

// y[j, i] = x[i, j]; the rows of y are kTileRows apart.
inline void transpose(const float* x, int64_t rows, int64_t columns, float* y) {
  constexpr int64_t kBlock = 16;
  for (int64_t i = 0; i < rows; i += kBlock)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t r = i; r < std::min(i + kBlock, rows); ++r) y[j * kTileRows + r] = x[r * columns + j];
}

inline bool all_finite(const float* x, int64_t n) {
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return most < 0x7f800000;
}

}  // namespace grpo
