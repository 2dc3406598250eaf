#include "linear/linear_chunk.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace grpo {
namespace {

// Columns of a block. Its logits for a chunk of 512 rows fill a second-level cache of 1 MiB; larger ones are no faster,
// smaller ones leave the matrix product too little to do between packing.
constexpr int64_t kBlock = 512;

int64_t blocks(int64_t V) { return (V + kBlock - 1) / kBlock; }

struct Block {
  float* logits;  // [rows,width]
  int64_t first, width;
};

Block block_of(const Linear& linear, const ChunkMemory& memory, int64_t b) {
  const int64_t first = b * kBlock;
  return {memory.logits + memory.rows * first, first, std::min(kBlock, linear.V - first)};
}

const char* head_row(const Linear& linear, int64_t v) { return linear.head + v * linear.D * size_of(linear.head_type); }

float* product_scratch(const ChunkMemory& memory, int worker) {
  return memory.product + worker * vector_kernels().matmul_scratch;
}

Logits logits_of(const Linear& linear, const Block& block, int64_t rows) {
  return {.data = reinterpret_cast<const char*>(block.logits),
          .type = Float::kF32,
          .stride = block.width,
          .R = rows,
          .V = block.width,
          .scale = linear.scale,
          .token = linear.token,
          .part = true,
          .vocab_start = block.first};
}

void add_bias(const Linear& linear, const Block& block, int64_t rows) {
  float bias[kBlock];
  const char* from = linear.bias + block.first * size_of(linear.bias_type);
  vector_kernels().convert(from, linear.bias_type, bias, Float::kF32, block.width);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < block.width; ++v) block.logits[r * block.width + v] += bias[v];
}

// The softmax of a row from those of its blocks, in which -inf alone is no fault; in the whole row it is. A block that has
// all there is gives its own to the bit.
RowSoftmax merged(const RowSoftmax* parts,  // [count]
                  int64_t count, float scale) {
  const auto empty = [](const RowSoftmax& part) { return part.log_sum == -INFINITY; };
  float max = -INFINITY;
  int64_t full = 0, last = 0;
  for (int64_t b = 0; b < count; ++b) {
    if (empty(parts[b])) continue;
    max = std::max(max, parts[b].max);
    ++full, last = b;
  }
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  if (full == 0) return {max, kNaN, kNaN};
  if (full == 1) return parts[last];
  double sum = 0, mean = 0;  // the mean is that of scale * (x - max)
  for (int64_t b = 0; b < count; ++b) {
    const RowSoftmax& part = parts[b];
    if (empty(part)) continue;
    const double shifted = static_cast<double>(scale) * (static_cast<double>(part.max) - max) + part.log_sum;
    const double share = std::exp(shifted);
    sum += share;
    // A block far below the others may have share 0 and shifted -inf.
    if (share != 0) mean += share * (shifted - part.entropy);
  }
  const double log_sum = std::log(sum);
  return {max, log_sum, std::max(log_sum - mean / sum, 0.0)};
}

// ---- the gradient ---------------------------------------------------------------------------------------------------

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
  move_rows(memory.hidden, memory.kept, count, linear.D);
  parallel_for(blocks(linear.V), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const Block block = block_of(linear, memory, b);
      move_rows(block.logits, memory.kept, count, block.width);
    }
  });
}

void logits_to_gradient(const Linear& linear, const RowTokens& kept, const ChunkMemory& memory, const float* grad_logp,
                        const float* grad_entropy) {
  parallel_for(kept.count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < blocks(linear.V); ++b) {
      const Block block = block_of(linear, memory, b);
      const GradLogits grad_logits{reinterpret_cast<char*>(block.logits), Float::kF32, block.width};
      for (int64_t i = begin; i < end; ++i)
        gradient_of_row(logits_of(linear, block, kept.count), memory.softmax[i], kept, i, grad_logp, grad_entropy,
                        grad_logits, memory.targets);
    }
  });
}

// A sum over rows grows in the output where that is float32, elsewhere in scratch, and is rounded after the last chunk.
float* sum_in(char* out, Float type, float* scratch, int64_t place) {
  return type == Float::kF32 ? reinterpret_cast<float*>(out) : scratch + place;
}

void round_sum(const float* sum,  // [n]
               char* out,         // [n]
               Float type, int64_t n) {
  if (type != Float::kF32) vector_kernels().convert(sum, Float::kF32, out, type, n);
}

// gradHeadBias of a block's columns.
void add_bias_gradient(const Block& block, int64_t rows, const ChunkMemory& memory, const LinearGradients& gradients,
                       bool first_chunk, bool last_chunk) {
  double added[kBlock] = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < block.width; ++v) added[v] += block.logits[r * block.width + v];
  char* out = gradients.bias + block.first * size_of(gradients.bias_type);
  float* sum = sum_in(out, gradients.bias_type, memory.bias_sum, block.first);
  for (int64_t v = 0; v < block.width; ++v) sum[v] = static_cast<float>(first_chunk ? added[v] : sum[v] + added[v]);
  if (last_chunk) round_sum(sum, out, gradients.bias_type, block.width);
}

// gradHead[v] = or += sum_r gradLogits[r,v] hidden[r], for the columns v of a block.
void add_head_gradient(const Linear& linear, const Block& block, int64_t rows, const ChunkMemory& memory,
                       const LinearGradients& gradients, bool first_chunk, bool last_chunk, int worker) {
  const int64_t D = linear.D;
  const Float type = gradients.head_type;
  const bool only_chunk = first_chunk && last_chunk;  // then what a thread has summed is rounded at once
  const int64_t step = only_chunk && type != Float::kF32 ? memory.sum_columns : block.width;
  for (int64_t v = 0; v < block.width; v += step) {
    const int64_t columns = std::min(step, block.width - v);
    char* out = gradients.head + (block.first + v) * D * size_of(type);
    float* sum = sum_in(out, type, memory.head_sum, (only_chunk ? worker * memory.sum_columns : block.first + v) * D);
    vector_kernels().matmul({block.logits + v, Float::kF32, 1, block.width}, {memory.hidden, Float::kF32, D, 1}, sum, D,
                            columns, D, rows, !first_chunk, product_scratch(memory, worker));
    if (last_chunk) round_sum(sum, out, type, columns * D);
  }
}

// gradHidden[r] = sum_v gradLogits[r,v] head[v], in memory.hidden. The threads share the columns of D, or where these are
// few the rows as well; an element's sum is the same wherever the cuts are.
void multiply_head(const Linear& linear, int64_t rows, const ChunkMemory& memory) {
  const int64_t D = linear.D, threads = thread_count();
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
        vector_kernels().matmul({block.logits + r * block.width, Float::kF32, block.width, 1},
                                {head, linear.head_type, D, 1}, memory.hidden + r * D + d, D, m, n, block.width, b > 0,
                                product_scratch(memory, worker));
      }
    }
  });
}

}  // namespace

ChunkShape chunk_shape(const Linear& linear, const LinearGradients* gradients, int64_t rows, int64_t chunk_rows) {
  const Float head_type = gradients == nullptr ? Float::kF32 : gradients->head_type;
  const Float bias_type = gradients == nullptr ? Float::kF32 : gradients->bias_type;
  int64_t chunk = chunk_rows;
  if (is_null(chunk_rows)) {
    // Each product packs the head once per chunk. Measured on AVX-512 at 512 x 1024 x 32000: 64 rows take 30% longer than
    // 256, 128 take 5%, and 512 save 3% for twice the memory. Bounded by 128 MiB of logits.
    chunk = std::clamp<int64_t>((int64_t{32} << 20) / std::max<int64_t>(linear.V, 1), 64, 256);
    // Up to here the logits of one chunk take less memory than the sums of several.
    if (head_type != Float::kF32 && rows <= linear.D / 2) chunk = std::max(chunk, rows);
  }
  return {.T = linear.T,
          .D = linear.D,
          .V = linear.V,
          .rows = std::min(rows, chunk),
          .several = rows > chunk,
          .gradient = gradients != nullptr,
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
  arena.take(memory.product, threads * vector_kernels().matmul_scratch);
  if (!shape.gradient) return;
  arena.take(memory.kept, rows);
  arena.take(memory.local, rows);
  arena.take(memory.start, rows + 1);
  arena.take(memory.t, shape.T);
  arena.take(memory.targets, shape.T);
  // All threads together take half of what the sums of several chunks would.
  memory.sum_columns = std::clamp<int64_t>(V / (2 * threads), 1, kBlock);
  if (shape.head_type != Float::kF32) arena.take(memory.head_sum, (shape.several ? V : threads * memory.sum_columns) * D);
  // Also where there is no bias: a plan need not ask.
  if (shape.head_type != Float::kF32 || shape.bias_type != Float::kF32) arena.take(memory.bias_sum, V);
}

RowTokens chunk_of(const RowTokens& tokens, int64_t begin, int64_t end) {
  return {tokens.row + begin, tokens.start + begin, tokens.t, end - begin};
}

void chunk_softmax(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, bool keep_logits,
                   float* logit) {
  const int64_t D = linear.D, count = blocks(linear.V);
  parallel_for(chunk.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      vector_kernels().convert(linear.hidden + chunk.row[i] * D * size_of(linear.hidden_type), linear.hidden_type,
                               memory.hidden + i * D, Float::kF32, D);
  });
  parallel_for(chunk.count == 0 ? 0 : count, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t b = begin; b < end; ++b) {
      Block block = block_of(linear, memory, b);
      if (!keep_logits) block.logits = memory.logits + worker * memory.rows * std::min(kBlock, linear.V);
      vector_kernels().matmul({memory.hidden, Float::kF32, D, 1}, {head_row(linear, block.first), linear.head_type, 1, D},
                              block.logits, block.width, chunk.count, block.width, D, false,
                              product_scratch(memory, worker));
      if (linear.bias != nullptr) add_bias(linear, block, chunk.count);
      const Logits logits = logits_of(linear, block, chunk.count);
      for (int64_t i = 0; i < chunk.count; ++i) {
        memory.parts[i * count + b] = softmax_of_row(logits, i);
        if (logit == nullptr) continue;
        for (int32_t j = chunk.start[i]; j < chunk.start[i + 1]; ++j) {
          const int64_t column = logits.column(chunk.t[j]);
          if (column >= 0 && column < block.width) logit[chunk.t[j]] = block.logits[i * block.width + column];
        }
      }
    }
  });
  parallel_for(chunk.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) memory.softmax[i] = merged(memory.parts + i * count, count, linear.scale);
  });
}

void chunk_gradient(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, const float* grad_logp,
                    const float* grad_entropy, const LinearGradients& gradients, bool first_chunk, bool last_chunk) {
  const int64_t D = linear.D, bytes = D * size_of(gradients.hidden_type);
  if (first_chunk && gradients.hidden != nullptr) std::memset(gradients.hidden, 0, linear.R * bytes);
  if (cancelled()) return;
  const RowTokens kept = keep_rows(chunk, memory, grad_logp, grad_entropy);
  if (kept.count != chunk.count) move_kept_rows(linear, memory, kept.count);
  logits_to_gradient(linear, kept, memory, grad_logp, grad_entropy);

  parallel_for(blocks(linear.V), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t b = begin; b < end; ++b) {
      const Block block = block_of(linear, memory, b);
      if (gradients.bias != nullptr)
        add_bias_gradient(block, kept.count, memory, gradients, first_chunk, last_chunk);
      if (gradients.head != nullptr)
        add_head_gradient(linear, block, kept.count, memory, gradients, first_chunk, last_chunk, worker);
    }
  });

  if (gradients.hidden == nullptr) return;
  multiply_head(linear, kept.count, memory);
  parallel_for(kept.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      vector_kernels().convert(memory.hidden + i * D, Float::kF32, gradients.hidden + chunk.row[memory.kept[i]] * bytes,
                               gradients.hidden_type, D);
  });
}

}  // namespace grpo
