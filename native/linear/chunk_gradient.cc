// Two products: the logits become their gradient in place, then gradHidden and gradHead.
#include <cstring>

#include "linear/blocks.h"

namespace grpo {
namespace {

// The rows of a chunk that have a gradient, in the order of the chunk, as rows 0, 1, ... of what is left of it.
RowTokens keep_rows(const RowTokens& chunk, const ChunkMemory& memory, const float* grad_logp,
                    const float* grad_entropy) {
  int64_t count = 0;
  int32_t tokens = 0;
  for (int64_t i = 0; i < chunk.count; ++i) {
    if (row_gradient(chunk, i, grad_logp, grad_entropy).zero) continue;
    memory.kept[count] = static_cast<int32_t>(i);
    memory.local[count] = static_cast<int32_t>(count);
    memory.start[count++] = tokens;
    for (int32_t j = chunk.start[i]; j < chunk.start[i + 1]; ++j) memory.t[tokens++] = chunk.t[j];
  }
  memory.start[count] = tokens;
  return {memory.local, memory.start, memory.t, count};
}

void move_rows(float* x,             // [*,width]
               const int32_t* kept,  // [count], rising
               int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i)
    if (kept[i] != i) std::memmove(x + i * width, x + kept[i] * width, width * sizeof(float));
}

void move_kept_rows(const Linear& linear, const ChunkMemory& memory, int64_t count) {
  for (int64_t i = 0; i < count; ++i) memory.softmax[i] = memory.softmax[memory.kept[i]];
  if (linear.temperature.of_row != nullptr) move_rows(memory.temperature, memory.kept, count, 1);
  move_rows(memory.hidden, memory.kept, count, linear.D);
  parallel_for(blocks(linear.V), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const Block block = block_of(linear, memory, b);
      move_rows(block.logits, memory.kept, count, block.width);
    }
  });
}

void logits_to_gradient(const Linear& linear, const RowTokens& kept, const ChunkMemory& memory, const float* grad_logp,
                        const float* grad_entropy, double scale) {
  parallel_for(kept.count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < blocks(linear.V); ++b) {
      const Block block = block_of(linear, memory, b);
      const Float type = linear.factor_type();
      const GradLogits grad_logits{block.gradient(), type, block.gradient_stride(type), scale};
      const Logits logits = logits_of(linear, memory, block, kept.count);
      for (int64_t i = begin; i < end; ++i)
        gradient_of_row(logits, logits.row(i), memory.softmax[i], kept, i, grad_logp, grad_entropy, grad_logits,
                        memory.targets);
    }
  });
}

// A sum over rows grows in the output where that is float32, elsewhere in scratch, and is rounded after the last chunk.
float* sum_in(char* out, Float type, float* scratch, int64_t place) {
  return type == Float::kF32 ? reinterpret_cast<float*>(out) : scratch + place;
}

// Whether the first chunk adds to what is in the sum.
bool begins_with_output(const LinearGradients& gradients, Float type) {
  return gradients.accumulate && type == Float::kF32;
}

// gradHeadBias of a block's columns.
void add_bias_gradient(const Block& block, Float type, int64_t rows, const ChunkMemory& memory,
                       const LinearGradients& gradients, bool first_chunk, bool last_chunk) {
  double added[kBlock] = {};
  float row[kBlock];
  const int64_t bytes = block.width * size_of(Float::kF32);
  for (int64_t r = 0; r < rows; ++r) {
    vector_kernels().convert(block.gradient() + r * bytes, type, row, Float::kF32, block.width);
    for (int64_t v = 0; v < block.width; ++v) added[v] += row[v];
  }
  char* out = gradients.bias + block.first * size_of(gradients.bias_type);
  float* sum = sum_in(out, gradients.bias_type, memory.bias_sum, block.first);
  const bool anew = first_chunk && !begins_with_output(gradients, gradients.bias_type);
  for (int64_t v = 0; v < block.width; ++v) sum[v] = static_cast<float>(anew ? added[v] : sum[v] + added[v]);
  if (last_chunk && gradients.bias_type != Float::kF32)
    put_sum(sum, out, gradients.bias_type, block.width, gradients.accumulate);
}

// The padding of the vocabulary has no gradient, and is left alone where gradients are added.
void write_padding(const Linear& linear, const LinearGradients& gradients) {
  if (gradients.accumulate) return;
  const int64_t count = linear.width - linear.V;
  if (gradients.head != nullptr)
    zero_rows(gradients.head_row(linear.V), gradients.head_type, count, linear.D, gradients.head_stride);
  if (gradients.bias != nullptr)
    zero_rows(gradients.bias + linear.V * size_of(gradients.bias_type), gradients.bias_type, count, 1, 1);
}

// gradHead[v] = or += sum_r gradLogits[r,v] hidden[r], for the columns v of a block.
void add_head_gradient(const Linear& linear, const Block& block, int64_t rows, const ChunkMemory& memory,
                       const LinearGradients& gradients, bool first_chunk, bool last_chunk, int worker) {
  const int64_t D = linear.D;
  const Float type = gradients.head_type, factor = linear.factor_type();
  const int64_t stride = type == Float::kF32 ? gradients.head_stride : D;  // of the sums
  const bool only_chunk = first_chunk && last_chunk;  // then what a thread has summed is rounded at once
  const int64_t step = only_chunk && type != Float::kF32 ? memory.sum_columns : block.width;
  for (int64_t v = 0; v < block.width; v += step) {
    const int64_t columns = std::min(step, block.width - v);
    char* out = gradients.head_row(block.first + v);
    float* sum = sum_in(out, type, memory.head_sum, (only_chunk ? worker * memory.sum_columns : block.first + v) * D);
    multiply(factor == Float::kBf16, {block.gradient() + v * size_of(factor), factor, 1, block.gradient_stride(factor)},
             {memory.hidden, Float::kF32, D, 1}, sum, stride, columns, D, rows,
             !first_chunk || begins_with_output(gradients, type), product_scratch(memory, worker));
    if (!last_chunk || type == Float::kF32) continue;
    for (int64_t i = 0; i < columns; ++i)
      put_sum(sum + i * D, gradients.head_row(block.first + v + i), type, D, gradients.accumulate);
  }
}

// gradHidden[r] = sum_v gradLogits[r,v] head[v], in memory.hidden. The threads share the columns of D, or where these
// are few the rows as well; an element's sum is the same wherever the cuts are.
void multiply_head(const Linear& linear, int64_t rows, const ChunkMemory& memory) {
  const int64_t D = linear.D, threads = thread_count();
  const Float factor = linear.factor_type();
  const int64_t column_pieces = std::clamp<int64_t>(D / 256, 1, threads);
  const int64_t columns = ((D + column_pieces - 1) / column_pieces + 63) / 64 * 64;
  const int64_t row_pieces = std::clamp<int64_t>(rows / 16, 1, (threads + column_pieces - 1) / column_pieces);
  const int64_t height = (rows + row_pieces - 1) / row_pieces;
  parallel_for(column_pieces * row_pieces, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t d = piece % column_pieces * columns, r = piece / column_pieces * height;
      const int64_t m = std::min(height, rows - r), n = std::min(columns, D - d);
      if (m <= 0 || n <= 0) continue;
      for (int64_t b = 0; b < blocks(linear.V); ++b) {
        const Block block = block_of(linear, memory, b);
        const char* head = head_row(linear, block.first) + d * size_of(linear.head_type);
        multiply(factor == Float::kBf16, {block.logits + r * block.width, factor, block.gradient_stride(factor), 1},
                 {head, linear.head_type, linear.head_stride, 1}, memory.hidden + r * D + d, D, m, n, block.width,
                 b > 0, product_scratch(memory, worker));
      }
    }
  });
}

}  // namespace

void chunk_gradient(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, const float* grad_logp,
                    const float* grad_entropy, const LinearGradients& gradients, bool first_chunk, bool last_chunk) {
  const int64_t D = linear.D;
  // Of hidden states without columns there may be very many in no memory.
  const bool hidden = gradients.hidden != nullptr && D > 0, head = gradients.head != nullptr && D > 0;
  if (first_chunk) zero_rows(gradients.hidden, gradients.hidden_type, linear.R, D, gradients.hidden_stride);
  if (first_chunk) write_padding(linear, gradients);
  if (cancelled()) return;
  const RowTokens kept = keep_rows(chunk, memory, grad_logp, grad_entropy);
  if (kept.count != chunk.count) move_kept_rows(linear, memory, kept.count);
  logits_to_gradient(linear, kept, memory, grad_logp, grad_entropy, gradients.scale);

  const bool any = gradients.bias != nullptr || head;
  parallel_for(any ? blocks(linear.V) : 0, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t b = begin; b < end; ++b) {
      const Block block = block_of(linear, memory, b);
      if (gradients.bias != nullptr)
        add_bias_gradient(block, linear.factor_type(), kept.count, memory, gradients, first_chunk, last_chunk);
      if (head)
        add_head_gradient(linear, block, kept.count, memory, gradients, first_chunk, last_chunk, worker);
    }
  });

  // Without columns there is nothing that a product would put in the place of the hidden states.
  if (!hidden || linear.V == 0) return;
  multiply_head(linear, kept.count, memory);
  parallel_for(kept.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      vector_kernels().convert(memory.hidden + i * D, Float::kF32, gradients.hidden_row(chunk.row[memory.kept[i]]),
                               gradients.hidden_type, D);
  });
}

}  // namespace grpo
