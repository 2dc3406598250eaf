// A chunk of rows in blocks of columns of the vocabulary.
#pragma once

#include <algorithm>
#include <cstring>

#include "linear/chunk.h"

namespace grpo {

// Columns of a block. Its logits for a chunk of 512 rows fill a second-level cache of 1 MiB; larger ones are no faster,
// smaller ones leave the matrix product too little to do between packing.
constexpr int64_t kBlock = 512;

inline int64_t blocks(int64_t V) { return (V + kBlock - 1) / kBlock; }

struct Block {
  float* logits;  // [rows,width]
  int64_t first, width;

  // What becomes of them: of 16 bits each row has the first half of the logits' place.
  char* gradient() const { return reinterpret_cast<char*>(logits); }
  int64_t gradient_stride(Float type) const { return width * size_of(Float::kF32) / size_of(type); }
};

inline Block block_of(const Linear& linear, const ChunkMemory& memory, int64_t b) {
  const int64_t first = b * kBlock;
  return {memory.logits + memory.rows * first, first, std::min(kBlock, linear.V - first)};
}

inline const char* hidden_row(const Linear& linear, int64_t r) {
  return linear.hidden + r * linear.hidden_stride * size_of(linear.hidden_type);
}

inline const char* head_row(const Linear& linear, int64_t v) {
  return linear.head + v * linear.head_stride * size_of(linear.head_type);
}

inline float* product_scratch(const ChunkMemory& memory, int worker) {
  return memory.product + worker * vector_kernels().matmul_scratch;
}

// Of `count` rows of `width` numbers, `stride` apart; none where they are not wanted.
inline void zero_rows(char* rows, Float type, int64_t count, int64_t width, int64_t stride) {
  if (rows == nullptr || width == 0 || count <= 0) return;
  if (stride == width) width *= count, count = 1;
  for (int64_t i = 0; i < count; ++i) std::memset(rows + i * stride * size_of(type), 0, width * size_of(type));
}

// a b, of bf16 where the processor multiplies that: exact products, if the operands are of that type or hold nothing else.
inline void multiply(bool bf16, const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                     bool accumulate, float* scratch) {
  const VectorKernels& kernels = vector_kernels();
  const auto matmul = bf16 && kernels.matmul_bf16 != nullptr ? kernels.matmul_bf16 : kernels.matmul;
  matmul(a, b, c, ldc, m, n, k, accumulate, scratch);
}

// out[n] = or += sum[n], rounded once; sum is then what out was before it was rounded.
inline void put_sum(float* sum, char* out, Float type, int64_t n, bool add) {
  constexpr int64_t kPiece = 1024;
  float there[kPiece];
  for (int64_t begin = 0; add && begin < n; begin += kPiece) {
    const int64_t count = std::min(kPiece, n - begin);
    vector_kernels().convert(out + begin * size_of(type), type, there, Float::kF32, count);
    for (int64_t i = 0; i < count; ++i) sum[begin + i] += there[i];
  }
  vector_kernels().convert(sum, Float::kF32, out, type, n);
}

// Row i is the i-th of the chunk; with a soft-cap they are capped where they lie, see chunk_softmax.
inline Logits logits_of(const Linear& linear, const ChunkMemory& memory, const Block& block, int64_t rows) {
  return {.data = reinterpret_cast<const char*>(block.logits),
          .type = Float::kF32,
          .stride = block.width,
          .R = rows,
          .V = block.width,
          .width = block.width,
          .temperature = {linear.temperature.whole,
                          linear.temperature.of_row == nullptr ? nullptr : memory.temperature,
                          linear.temperature.softcap},
          .token = linear.token,
          .part = true,
          .vocab_start = linear.vocab_start + block.first};
}

}  // namespace grpo
