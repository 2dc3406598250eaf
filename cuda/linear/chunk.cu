#include "linear/chunk.cuh"

#include <algorithm>

#include "linear/halves.cuh"

namespace grpo::cuda {
namespace {

// Of few chunks gradHead is read and written few times, and products have tiles for all multiprocessors: a thirtieth of
// the device's memory, 1 to 4 GiB, in whole tiles.
int64_t good_rows(const Linear& linear, const Device& device) {
  const int64_t bytes = std::clamp<int64_t>(device.memory / 30, int64_t{1} << 30, int64_t{1} << 32);
  const int64_t rows = bytes / 4 / std::max<int64_t>(linear.V, 1);
  return rows < kMatrixSide ? std::max<int64_t>(rows, 64) : rows / kMatrixSide * kMatrixSide;
}

void halved_factors(const Linear& linear, LinearChunk& chunk, Launch& on) {
  chunk.power = on.scratch<int32_t>(chunk.rows);
  chunk.hidden = on.scratch<f16>(chunk.rows * linear.D);
  chunk.hidden_exponent = on.scratch<int32_t>(1);
  chunk.hidden_power = on.scratch<int32_t>(1);
  chunk.head = {linear.head, Float::kF16, linear.head_stride, nullptr, true};
  if (linear.head_type == Float::kF16) return;
  chunk.halved_head = on.scratch<f16>(linear.V * linear.D);
  chunk.head = {chunk.halved_head, Float::kF16, linear.D, nullptr, true};
  chunk.head_words = on.scratch<uint32_t>(3);
  chunk.head_power = reinterpret_cast<const int32_t*>(chunk.head_words + 1);
  chunk.choice = {chunk.head_words + 2, linear.V * linear.D, false};
}

}  // namespace

LinearChunk linear_chunk(const Linear& linear, const LinearGradients* gradients, int64_t chunk_rows, Launch& on) {
  const int64_t rows = std::min(most_named(linear), is_null(chunk_rows) ? good_rows(linear, on.device) : chunk_rows);
  LinearChunk chunk{};
  chunk.rows = rows;
  chunk.stride = ceil_div(linear.V, 8) * 8;
  chunk.logits = on.scratch<float>(rows * chunk.stride);
  chunk.softmax = on.scratch<SoftmaxOfRow>(rows);
  chunk.live = on.scratch<int32_t>(1);
  if (gradients == nullptr) return chunk;
  chunk.own_gradient = on.scratch<float>(linear.T);
  chunk.has_gradient = on.scratch<int32_t>(rows);
  chunk.halves = by_halves(linear, *gradients, rows);
  if (chunk.halves) halved_factors(linear, chunk, on);
  if (!chunk.halves || chunk.choice.lossy != nullptr) {
    if (gradients->hidden != nullptr && linear.head_type == Float::kF16) chunk.row_largest = on.scratch<float>(rows);
    if (gradients->head != nullptr && linear.hidden_type == Float::kF16)
      chunk.column_largest = on.scratch<float>(linear.V);
  }
  chunk.kept = on.scratch<int32_t>(rows);
  chunk.kept_row = on.scratch<int32_t>(rows);
  chunk.kept_count = on.scratch<int32_t>(1);
  if (gradients->head != nullptr && gradients->head_type != Float::kF32)
    chunk.head_sum = on.scratch<float>(linear.V * linear.D);
  if (gradients->bias != nullptr && gradients->bias_type != Float::kF32) chunk.bias_sum = on.scratch<float>(linear.V);
  return chunk;
}

}  // namespace grpo::cuda
