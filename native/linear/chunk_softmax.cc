// One product: the logits of a block, and from them the softmax of each row, block by block.
#include <cmath>
#include <cstring>
#include <limits>

#include "linear/blocks.h"

namespace grpo {
namespace {

void add_bias(const Linear& linear, const Block& block, int64_t rows) {
  float bias[kBlock];
  const char* from = linear.bias + block.first * size_of(linear.bias_type);
  vector_kernels().convert(from, linear.bias_type, bias, Float::kF32, block.width);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < block.width; ++v) block.logits[r * block.width + v] += bias[v];
}

// The logits of a block as the model makes them, formed or given.
void form_logits(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, const Block& block,
                 int worker) {
  const int64_t D = linear.D, bytes = block.width * sizeof(float);
  const auto place = [&](int64_t i) { return chunk.row[i] * linear.width + block.first; };
  if (linear.logits != nullptr) {
    for (int64_t i = 0; i < chunk.count; ++i)
      std::memcpy(block.logits + i * block.width, linear.logits + place(i), bytes);
    return;
  }
  multiply(linear.hidden_type == Float::kBf16 && linear.head_type == Float::kBf16, {memory.hidden, Float::kF32, D, 1},
           {head_row(linear, block.first), linear.head_type, 1, linear.head_stride}, block.logits, block.width,
           chunk.count, block.width, D, false, product_scratch(memory, worker));
  if (linear.bias != nullptr) add_bias(linear, block, chunk.count);
  for (int64_t i = 0; i < chunk.count && linear.kept_logits != nullptr; ++i)
    std::memcpy(linear.kept_logits + place(i), block.logits + i * block.width, bytes);
}

// The softmax of a row from those of its blocks, in which -inf alone is no fault; in the whole row it is, unless that
// is a part of a vocabulary. A block that has all there is gives its own to the bit.
RowSoftmax merged(const RowSoftmax* parts,  // [count]
                  int64_t count, float scale, bool part) {
  const auto empty = [](const RowSoftmax& part) { return part.log_sum == -INFINITY; };
  float max = -INFINITY;
  int64_t full = 0, last = 0;
  for (int64_t b = 0; b < count; ++b) {
    if (empty(parts[b])) continue;
    max = std::max(max, parts[b].max);
    ++full, last = b;
  }
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  if (full == 0) return part ? RowSoftmax{0, -INFINITY, 0} : RowSoftmax{max, kNaN, kNaN};
  if (full == 1) return parts[last];
  double sum = 0, mean = 0;  // the mean is that of scale * (x - max)
  for (int64_t b = 0; b < count; ++b) {
    const RowSoftmax& own = parts[b];
    if (empty(own)) continue;
    const double shifted = static_cast<double>(scale) * (static_cast<double>(own.max) - max) + own.log_sum;
    const double share = std::exp(shifted);
    sum += share;
    // A block far below the others may have share 0 and shifted -inf.
    if (share != 0) mean += share * (shifted - own.entropy);
  }
  const double log_sum = std::log(sum);
  return {max, log_sum, std::max(log_sum - mean / sum, 0.0)};
}

}  // namespace

void chunk_softmax(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, bool keep_logits,
                   float* logit) {
  const int64_t D = linear.D, count = blocks(linear.V);
  parallel_for(chunk.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (linear.temperature.of_row != nullptr) memory.temperature[i] = linear.temperature.of_row[chunk.row[i]];
      vector_kernels().convert(hidden_row(linear, chunk.row[i]), linear.hidden_type, memory.hidden + i * D, Float::kF32,
                               D);
      for (int32_t j = chunk.start[i]; j < chunk.start[i + 1] && logit != nullptr; ++j)
        logit[chunk.t[j]] = -INFINITY;  // a token of another part of the vocabulary
    }
  });
  parallel_for(chunk.count == 0 ? 0 : count, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t b = begin; b < end; ++b) {
      Block block = block_of(linear, memory, b);
      if (!keep_logits) block.logits = memory.logits + worker * memory.rows * std::min(kBlock, linear.V);
      form_logits(linear, chunk, memory, block, worker);
      if (linear.temperature.softcap != 0)
        vector_kernels().softcap(block.logits, Float::kF32, chunk.count * block.width, linear.temperature.softcap,
                                 block.logits);
      const Logits logits = logits_of(linear, memory, block, chunk.count);
      for (int64_t i = 0; i < chunk.count; ++i) {
        memory.parts[i * count + b] = softmax_of_row(logits, i, logits.row(i));
        if (logit == nullptr) continue;
        for (int32_t j = chunk.start[i]; j < chunk.start[i + 1]; ++j) {
          const int64_t column = logits.column(chunk.t[j]);
          if (column >= 0 && column < block.width) logit[chunk.t[j]] = block.logits[i * block.width + column];
        }
      }
    }
  });
  parallel_for(chunk.count, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      memory.softmax[i] = merged(memory.parts + i * count, count, scale_of_row(linear.temperature, chunk.row[i]),
                                 linear.part);
  });
}

}  // namespace grpo
