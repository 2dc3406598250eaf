#include "linear/chunk.cuh"

#include <algorithm>

namespace grpo::cuda {

LinearChunk linear_chunk(const Linear& linear, const LinearGradients* gradients, int64_t chunk_rows, Launch& on) {
  // At most a gigabyte of logits: few enough chunks that reading and writing gradHead for each costs little.
  const int64_t good = std::max<int64_t>(64, (int64_t{1} << 28) / std::max<int64_t>(linear.V, 1));
  const int64_t rows = std::min(most_named(linear), is_null(chunk_rows) ? good : chunk_rows);
  LinearChunk chunk{};
  chunk.rows = rows;
  chunk.stride = ceil_div(linear.V, 4) * 4;
  chunk.logits = on.scratch<float>(rows * chunk.stride);
  chunk.softmax = on.scratch<Softmax>(rows);
  chunk.live = on.scratch<int32_t>(1);
  if (gradients == nullptr) return chunk;
  chunk.has_gradient = on.scratch<int32_t>(rows);
  if (gradients->hidden != nullptr && linear.head_type == Float::kF16) chunk.row_largest = on.scratch<float>(rows);
  if (gradients->head != nullptr && linear.hidden_type == Float::kF16)
    chunk.column_largest = on.scratch<float>(linear.V);
  chunk.kept = on.scratch<int32_t>(rows);
  chunk.kept_row = on.scratch<int32_t>(rows);
  chunk.kept_count = on.scratch<int32_t>(1);
  if (gradients->head != nullptr && gradients->head_type != Float::kF32)
    chunk.head_sum = on.scratch<float>(linear.V * linear.D);
  if (gradients->bias != nullptr && gradients->bias_type != Float::kF32) chunk.bias_sum = on.scratch<float>(linear.V);
  return chunk;
}

}  // namespace grpo::cuda
