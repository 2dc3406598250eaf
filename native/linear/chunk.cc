#include "linear/chunk.h"

#include "linear/blocks.h"

namespace grpo {

ChunkShape chunk_shape(const Linear& linear, const LinearGradients* gradients, int64_t rows, int64_t chunk_rows) {
  const Float head_type = gradients == nullptr ? Float::kF32 : gradients->head_type;
  const Float bias_type = gradients == nullptr ? Float::kF32 : gradients->bias_type;
  int64_t chunk = chunk_rows;
  if (is_null(chunk_rows)) {
    // Each product packs the head once per chunk. Measured on AVX-512 at 512 x 1024 x 32000: 64 rows take 30% longer
    // than 256, 128 take 5%, and 512 save 3% for twice the memory, which is little beside logits that are kept. Bounded by
    // 128 MiB of logits.
    const int64_t most = linear.logits == nullptr ? 256 : 512;
    chunk = std::clamp<int64_t>((int64_t{32} << 20) / std::max<int64_t>(linear.V, 1), 64, most);
    // Up to here the logits of one chunk take less memory than the sums of several.
    if (head_type != Float::kF32 && rows <= linear.D / 2) chunk = std::max(chunk, rows);
  }
  return {.T = linear.T,
          .D = linear.D,
          .V = linear.V,
          .rows = std::min(rows, chunk),
          .several = rows > chunk,
          .gradient = gradients != nullptr,
          .bias = gradients != nullptr && gradients->bias != nullptr,
          .head_type = head_type,
          .bias_type = bias_type,
          .threads = thread_count()};
}

void lay_out(const ChunkShape& shape, Arena& arena, ChunkMemory& memory) {
  const int64_t rows = shape.rows, D = shape.D, V = shape.V, threads = shape.threads;
  memory.rows = rows;
  arena.take(memory.hidden, rows * D);
  arena.take(memory.logits, shape.gradient ? rows * V : threads * rows * std::min(kBlock, V));
  arena.take(memory.parts, rows * blocks(V));
  arena.take(memory.softmax, rows);
  arena.take(memory.temperature, rows);
  arena.take(memory.product, threads * vector_kernels().matmul_scratch);
  if (!shape.gradient) return;
  arena.take(memory.kept, rows);
  arena.take(memory.local, rows);
  arena.take(memory.start, rows + 1);
  arena.take(memory.t, shape.T);
  arena.take(memory.targets, shape.T);
  // All threads together take half of what the sums of several chunks would.
  memory.sum_columns = std::clamp<int64_t>(V / (2 * threads), 1, kBlock);
  const int64_t sum_rows = shape.several ? V : threads * memory.sum_columns;
  if (shape.head_type != Float::kF32) arena.take(memory.head_sum, sum_rows * D);
  if (shape.bias && (shape.head_type != Float::kF32 || shape.bias_type != Float::kF32)) arena.take(memory.bias_sum, V);
}

RowTokens chunk_of(const RowTokens& tokens, int64_t begin, int64_t end) {
  return {tokens.row + begin, tokens.start + begin, tokens.t, end - begin};
}

}  // namespace grpo
