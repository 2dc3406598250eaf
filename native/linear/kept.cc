#include "linear/kept.h"

#include <cstring>

#include "linear/blocks.h"

namespace grpo {
namespace {

float* own_hidden(const Linear& linear, int64_t r, const KeptLinearMemory& memory, int worker) {
  float* hidden = memory.hidden + worker * linear.D;
  vector_kernels().convert(hidden_row(linear, r), linear.hidden_type, hidden, Float::kF32, linear.D);
  return hidden;
}

float logit_of(const Linear& linear, const float* hidden, int64_t v) {
  const float product = vector_kernels().dot(hidden, head_row(linear, v), linear.head_type, linear.D);
  if (linear.bias == nullptr) return product;
  float bias;
  vector_kernels().convert(linear.bias + v * size_of(linear.bias_type), linear.bias_type, &bias, Float::kF32, 1);
  return product + bias;
}

// The logits of row r's set, as a row of their own whatever r is.
Logits logits_of_set(const Linear& linear, const Kept& here, const KeptLinearMemory& memory) {
  return {.data = reinterpret_cast<const char*>(memory.sets.logits + (here.ids - linear.kept.ids)),
          .type = Float::kF32,
          .stride = 0,
          .R = linear.R,
          .V = here.count,
          .width = here.count,
          .temperature = linear.temperature,
          .token = memory.sets.column,
          .part = linear.part};
}

bool is_single(const Linear& linear, int64_t r) { return set_of(linear.kept, r).count == 1; }

// gradHead and gradHeadBias of column v: the pairs of it, which lie at places[count] of the sets.
void add_column(const Linear& linear, int64_t v, const int32_t* places, int64_t count, const KeptLinearMemory& memory,
                const LinearGradients& gradients, int worker) {
  const int64_t D = linear.D;
  float* sum = memory.sum + worker * D;
  std::fill(sum, sum + D, 0.0f);
  double bias = 0;
  for (int64_t j = 0; j < count; ++j) {
    const float gradient = memory.sets.logits[places[j]];
    bias += gradient;
    if (gradients.head == nullptr) continue;
    const int32_t* start = linear.kept.start;
    const int64_t r = std::upper_bound(start, start + linear.R + 1, places[j]) - start - 1;
    vector_kernels().add_scaled(gradient, hidden_row(linear, r), linear.hidden_type, sum, D);
  }
  if (gradients.head != nullptr)
    put_sum(sum, gradients.head_row(v), gradients.head_type, D, true);
  if (gradients.bias == nullptr) return;
  char* out = gradients.bias + v * size_of(gradients.bias_type);
  float there;
  vector_kernels().convert(out, gradients.bias_type, &there, Float::kF32, 1);
  const float total = static_cast<float>(there + bias);
  vector_kernels().convert(&total, Float::kF32, out, gradients.bias_type, 1);
}

}  // namespace

KeptShape kept_shape(const Linear& linear, const LinearGradients* gradients, bool both) {
  // Rounded once, gradients of 16 bits need sums that all rows have in common.
  const bool narrow = both && gradients != nullptr &&
                      ((gradients->head != nullptr && gradients->head_type != Float::kF32) ||
                       (gradients->bias != nullptr && gradients->bias_type != Float::kF32));
  return {.T = linear.T,
          .D = linear.D,
          .M = linear.kept.start[linear.R],
          .gradient = gradients != nullptr,
          .head_sum = narrow && gradients->head != nullptr ? linear.width : 0,
          .bias_sum = narrow && gradients->bias != nullptr ? linear.width : 0,
          .threads = thread_count()};
}

void lay_out(const KeptShape& shape, Arena& arena, KeptLinearMemory& memory) {
  arena.take(memory.sets.column, shape.T);
  arena.take(memory.sets.logits, shape.M);
  arena.take(memory.hidden, shape.threads * shape.D);
  if (!shape.gradient) return;
  arena.take(memory.sets.coefficient, shape.T);
  arena.take(memory.sum, shape.threads * shape.D);
  arena.take(memory.targets, shape.T);
  arena.take(memory.live, shape.T);
  arena.take(memory.pairs, 4 * shape.M);
  if (shape.head_sum > 0) arena.take(memory.head_sum, shape.head_sum * shape.D);
  if (shape.bias_sum > 0) arena.take(memory.bias_sum, shape.bias_sum);
}

RowSplit split_rows(const RowTokens& tokens, const KeptSets& kept, int32_t* scratch) {
  int64_t sets = 0;
  for (int64_t i = 0; i < tokens.count; ++i) sets += has_set(kept, tokens.row[i]);
  int32_t *row = scratch, *start = row + tokens.count, *t = start + tokens.count + 2;
  int32_t listed = 0;
  const auto list = [&](bool set) {
    const RowTokens part{row, start, t, set ? sets : tokens.count - sets};
    for (int64_t i = 0; i < tokens.count; ++i) {
      if (has_set(kept, tokens.row[i]) != set) continue;
      *row++ = tokens.row[i], *start++ = listed;
      for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) t[listed++] = tokens.t[j];
    }
    *start++ = listed;
    return part;
  };
  const RowTokens whole = list(false);
  return {whole, list(true)};
}

RowSoftmax kept_softmax(const Linear& linear, const RowTokens& kept, int64_t i, const KeptLinearMemory& memory,
                        int worker, float* logit) {
  const int64_t r = kept.row[i];
  const Kept here = kept_here(linear.kept, r);
  float* logits = memory.sets.logits + (here.ids - linear.kept.ids);
  const bool single = is_single(linear, r);
  if (!single) {
    const float* hidden = own_hidden(linear, r, memory, worker);
    for (int64_t j = 0; j < here.count; ++j) logits[j] = logit_of(linear, hidden, here.ids[j] - linear.kept.first);
    if (linear.temperature.softcap != 0)
      vector_kernels().softcap(logits, Float::kF32, here.count, linear.temperature.softcap, logits);
  }
  for (int32_t j = kept.start[i]; j < kept.start[i + 1] && logit != nullptr; ++j) {
    const int32_t t = kept.t[j], column = memory.sets.column[t];
    logit[t] = column < 0 ? -INFINITY : single ? 0 : logits[column];
  }
  if (single) return {0, 0, 0};
  const Logits set = logits_of_set(linear, here, memory);
  return softmax_of_row(set, r, set.row(r));
}

void write_single_logsumexp(const Linear& linear, const RowTokens& kept, int64_t i, const KeptLinearMemory& memory,
                            int worker, float* logsumexp) {
  const int64_t r = kept.row[i];
  if (!is_single(linear, r)) return;
  const Kept here = kept_here(linear.kept, r);
  double own = -INFINITY;
  if (here.count == 1) {
    float logit = logit_of(linear, own_hidden(linear, r, memory, worker), here.ids[0] - linear.kept.first);
    const double softcap = linear.temperature.softcap;
    if (softcap != 0) vector_kernels().softcap(&logit, Float::kF32, 1, softcap, &logit);
    own = static_cast<double>(scale_of_row(linear.temperature, r)) * logit;
  }
  for (int32_t j = kept.start[i]; j < kept.start[i + 1]; ++j) logsumexp[kept.t[j]] = static_cast<float>(own);
}

void kept_gradient(const Linear& linear, const RowTokens& kept, int64_t i, const RowSoftmax& softmax,
                   const KeptLinearMemory& memory, int worker, const float* grad_logp, const float* grad_entropy,
                   const LinearGradients& gradients) {
  const int64_t r = kept.row[i], D = linear.D;
  const float* coefficients = coefficients_of_row(linear.kept, kept, i, grad_logp, memory.sets);
  memory.live[i] = !is_single(linear, r) && !row_gradient(kept, i, coefficients, grad_entropy).zero;
  if (!memory.live[i]) return;
  const Kept here = kept_here(linear.kept, r);
  float* gradient = memory.sets.logits + (here.ids - linear.kept.ids);
  const Logits set = logits_of_set(linear, here, memory);
  gradient_of_row(set, set.row(r), softmax, kept, i, coefficients, grad_entropy,
                  {reinterpret_cast<char*>(gradient), Float::kF32, 0, gradients.scale}, memory.targets);
  if (gradients.hidden == nullptr) return;
  float* sum = memory.sum + worker * D;
  std::fill(sum, sum + D, 0.0f);
  for (int64_t j = 0; j < here.count; ++j)
    vector_kernels().add_scaled(gradient[j], head_row(linear, here.ids[j] - linear.kept.first), linear.head_type, sum,
                                D);
  vector_kernels().convert(sum, Float::kF32, gradients.hidden_row(r), gradients.hidden_type, D);
}

void add_kept_head_gradient(const Linear& linear, const RowTokens& kept, const KeptLinearMemory& memory,
                            const LinearGradients& gradients) {
  if (gradients.head == nullptr && gradients.bias == nullptr) return;
  const int64_t M = linear.kept.start[linear.R];
  // Of each id that is in a set with a gradient its column and its place among all ids: first by columns, and those of
  // one column by their places, which are in the order of the rows.
  KeyedPlaces pairs{memory.pairs, memory.pairs + M}, other{memory.pairs + 2 * M, memory.pairs + 3 * M};
  int64_t count = 0;
  for (int64_t i = 0; i < kept.count; ++i) {
    if (!memory.live[i]) continue;
    const Kept here = kept_here(linear.kept, kept.row[i]);
    for (int64_t j = 0; j < here.count; ++j) {
      pairs.key[count] = static_cast<int32_t>(here.ids[j] - linear.kept.first);
      pairs.place[count++] = static_cast<int32_t>(here.ids + j - linear.kept.ids);
    }
  }
  sort_by_key(pairs, other, count);
  parallel_for(count, 16, [&](int64_t begin, int64_t end, int worker) {
    while (begin > 0 && begin < end && pairs.key[begin] == pairs.key[begin - 1]) ++begin;  // of the piece before
    while (begin < end) {
      int64_t next = begin + 1;
      while (next < count && pairs.key[next] == pairs.key[begin]) ++next;
      add_column(linear, pairs.key[begin], pairs.place + begin, next - begin, memory, gradients, worker);
      begin = next;
    }
  });
}

void begin_gradients(const Linear& linear, const LinearGradients& gradients) {
  const int64_t D = linear.D, rows = linear.width;
  zero_rows(gradients.hidden, gradients.hidden_type, linear.R, D, gradients.hidden_stride);
  if (gradients.accumulate) return;
  zero_rows(gradients.head, gradients.head_type, rows, D, gradients.head_stride);
  zero_rows(gradients.bias, gradients.bias_type, rows, 1, 1);
}

LinearGradients common_sums(const Linear& linear, const LinearGradients& gradients, const KeptLinearMemory& memory) {
  if (memory.head_sum == nullptr && memory.bias_sum == nullptr) return gradients;
  LinearGradients sums = gradients;
  sums.head = reinterpret_cast<char*>(memory.head_sum), sums.head_type = Float::kF32;
  sums.head_stride = linear.D;
  sums.bias = reinterpret_cast<char*>(memory.bias_sum), sums.bias_type = Float::kF32;
  sums.accumulate = false;
  return sums;
}

void round_common_sums(const Linear& linear, const KeptLinearMemory& memory, const LinearGradients& gradients) {
  const auto round = [&](float* sum, char* out, Float type, int64_t size, int64_t stride) {
    if (sum == nullptr) return;
    const auto row = [&](int64_t v) { return out + v * stride * size_of(type); };
    const bool dense = stride == size;
    parallel_for(linear.V, 64, [&](int64_t begin, int64_t end, int) {
      const int64_t rows = dense ? end - begin : 1;
      for (int64_t v = begin; v < end; v += rows)
        put_sum(sum + v * size, row(v), type, rows * size, gradients.accumulate);
    });
    if (!gradients.accumulate) zero_rows(row(linear.V), type, linear.width - linear.V, size, stride);
  };
  round(memory.head_sum, gradients.head, gradients.head_type, linear.D, gradients.head_stride);
  round(memory.bias_sum, gradients.bias, gradients.bias_type, 1, 1);
}

}  // namespace grpo
