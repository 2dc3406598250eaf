// The gradients of a chunk, see chunk.cuh: one block owns one row of logits and writes its gradient in its place; rows
// with a gradient are listed, and go through the products. float32, sums in a fixed order.
#include "blocks/flags.cuh"
#include "blocks/floats.cuh"
#include "blocks/reduce.cuh"
#include "blocks/softcap.cuh"
#include "linear/chunk.cuh"
#include "linear/matmul.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Shared {
  float partial[kWarps];
};
struct CompactShared {
  int32_t partial[kWarps];
};

// z becomes (sum of grad_logp[t] over the tokens t of v - p coefficient - p (log p + entropy) entropy_coefficient)
// scale, with a soft-cap times its slope; zeros past the end of the row.
// Grid: rows of the chunk. Block: 256. Shared: 32. Work: 8 bytes per logit. Bound: issue.
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(LinearChunk chunk, Linear linear, const float* logsumexp, const float* entropy,
                    const float* grad_logp, const float* grad_entropy, float grad_scale) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x, V = linear.V;
  if (i >= *chunk.live) return;
  float* z = chunk.logits + i * chunk.stride;
  const float scale = scale_of_row(linear.temperature, chunk.named.row[chunk.begin + i]);
  const int32_t begin = chunk.named.begin(chunk.begin + i), end = chunk.named.end(chunk.begin + i);
  float coefficient = 0, entropy_coefficient = 0;
  bool any = false;
  for (int32_t j = begin; j < end; ++j) {
    const int32_t t = chunk.named.tokens[j];
    coefficient += grad_logp[t];
    any |= grad_logp[t] != 0;
    if (grad_entropy == nullptr) continue;
    entropy_coefficient += grad_entropy[t];
    any |= grad_entropy[t] != 0;
  }
  if (threadIdx.x == 0) chunk.has_gradient[i] = any;
  if (!any) return;  // the same in all threads
  const int32_t first = chunk.named.tokens[begin];
  const Softmax own = chunk.softmax[i];
  const float lse = logsumexp != nullptr ? logsumexp[first] : own.logsumexp;
  // A given logsumexp that is the row's own but for its rounding counts as that: its rounding would be in every p.
  const bool as_own = isfinite(own.logsumexp) && fabsf(lse - own.logsumexp) <= 2.4e-7f * fmaxf(1, fabsf(own.logsumexp));
  // Relative to the largest logit: scale * z would be rounded at its own size.
  const float log_sum = as_own ? own.log_sum : static_cast<float>(lse - static_cast<double>(scale) * own.most);
  const float h = entropy != nullptr ? entropy[first] : own.entropy;
  const double softcap = linear.temperature.softcap;
  const bool capped = softcap != 0;
  const float slope = (capped ? static_cast<float>(scale / softcap) : scale) * grad_scale;
  float largest = 0;
  for (int64_t v = threadIdx.x; v < V; v += kThreads) {
    const float x = (z[v] - own.most) * scale;
    const float log_p = x - log_sum, p = as_own ? expf(x) / own.sum : expf(log_p);
    float own_tokens = 0;  // summed as coefficient is: with all tokens of one id and p = 1, the gradient is exactly 0
    for (int32_t j = begin; j < end; ++j)
      if (linear.token[chunk.named.tokens[j]] - linear.vocab_start == v) own_tokens += grad_logp[chunk.named.tokens[j]];
    // p = 0 where log p is -infinity.
    const bool bonus = entropy_coefficient != 0 && p > 0;
    float gradient = own_tokens - p * (bonus ? fmaf(entropy_coefficient, log_p + h, coefficient) : coefficient);
    gradient *= slope;
    if (capped) gradient *= softcap_slope(z[v]);
    z[v] = gradient;
    largest = fmaxf(largest, fabsf(gradient));
  }
  if (threadIdx.x < chunk.stride - V) z[V + threadIdx.x] = 0;
  if (chunk.row_largest == nullptr) return;
  largest = block_reduce(largest, shared.partial, LargerOrNan{});
  if (threadIdx.x == 0) chunk.row_largest[i] = largest;
}

// One block: the rows with a gradient, in order.
// Grid: 1. Block: 256. Shared: 32. Work: 12 bytes per row. Bound: latency.
__global__ void __launch_bounds__(kThreads) compact_kernel(LinearChunk chunk) {
  DYN_SMEM(CompactShared, shared);
  const int32_t kept = block_list(
      *chunk.live, shared.partial, [&](int32_t i) { return chunk.has_gradient[i] != 0; },
      [&](int32_t place, int32_t i) {
        chunk.kept[place] = i;
        chunk.kept_row[place] = chunk.named.row[chunk.begin + i];
      });
  if (threadIdx.x == 0) *chunk.kept_count = kept;
}

// Grid: ceil(V / 256). Block: 256. Shared: 0. Work: 4 bytes per logit of the chunk. Bound: memory.
__global__ void column_largest_kernel(LinearChunk chunk, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V) return;
  float largest = 0;
  for (int32_t j = 0; j < *chunk.kept_count; ++j)
    largest = fmaxf(largest, fabsf(chunk.logits[int64_t{chunk.kept[j]} * chunk.stride + v]));
  chunk.column_largest[v] = largest;
}

// Grid: ceil(V / 256). Block: 256. Shared: 0. Work: 4 bytes per logit of the chunk. Bound: memory.
__global__ void bias_kernel(LinearChunk chunk, float* sum, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V || *chunk.kept_count == 0) return;
  double total = sum[v];
  for (int32_t j = 0; j < *chunk.kept_count; ++j) total += chunk.logits[int64_t{chunk.kept[j]} * chunk.stride + v];
  sum[v] = static_cast<float>(total);
}

// Grid: ceil(V D / 256). Block: 256. Shared: 0. Work: 4 bytes per element. Bound: memory.
__global__ void zero_kernel(float* sum, int64_t n, const uint32_t* rows) {
  const int64_t i = thread_index();
  if (*rows > 0 && i < n) sum[i] = 0;
}

// Grid: ceil(V D / 256). Block: 256. Shared: 0. Work: 6 bytes per element. Bound: memory.
__global__ void convert_kernel(const float* from, void* to, Float type, int64_t n, bool add, const uint32_t* rows) {
  const int64_t i = thread_index();
  if (rows != nullptr && *rows == 0) return;
  if (i < n) store_float(to, type, i, from[i] + (add ? load_float(to, type, i) : 0));
}

}  // namespace

void chunk_gradient(const Linear& linear, const LinearChunk& chunk, const float* logsumexp, const float* entropy,
                    const float* grad_logp, const float* grad_entropy, const LinearGradients& gradients, Launch& on) {
  on(gradient_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear, logsumexp, entropy, grad_logp,
     grad_entropy, static_cast<float>(gradients.scale));
  on(compact_kernel, {1, kThreads, sizeof(CompactShared)}, chunk);
  const auto gradient = [&](bool transposed) {
    return Matrix{chunk.logits, Float::kF32, chunk.stride, chunk.kept, transposed};
  };
  if (gradients.hidden != nullptr)
    matmul(Use::kGradHidden, gradient(false), {linear.head, linear.head_type, linear.D, nullptr, true},
           {gradients.hidden, gradients.hidden_type, linear.D, chunk.kept_row, nullptr, Float::kF32, false,
            gradients.hidden_type},
           chunk.rows, linear.D, linear.V, {chunk.kept_count, false}, {}, chunk.row_largest, on);
  if (gradients.head != nullptr) {
    if (chunk.column_largest != nullptr)
      on(column_largest_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk, linear.V);
    void* sum = chunk.head_sum != nullptr ? static_cast<void*>(chunk.head_sum) : gradients.head;
    matmul(Use::kGradHead, gradient(true), {linear.hidden, linear.hidden_type, linear.D, chunk.kept_row, true},
           {sum, Float::kF32, linear.D, nullptr, nullptr, Float::kF32, true, gradients.head_type}, linear.V, linear.D,
           chunk.rows, {chunk.kept_count, true}, {}, chunk.column_largest, on);
  }
  if (gradients.bias != nullptr) {
    float* sum = chunk.bias_sum != nullptr ? chunk.bias_sum : reinterpret_cast<float*>(gradients.bias);
    on(bias_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk, sum, linear.V);
  }
}

void begin_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  if (gradients.hidden != nullptr) on.zero(gradients.hidden, linear.R * linear.D * size_of(gradients.hidden_type));
  const auto begin = [&](char* out, Float type, float* sum, int64_t n) {
    if (out == nullptr) return;
    // Where gradients are added, a sum of float32 begins with what is there.
    if (sum == nullptr && !gradients.accumulate) on.zero(out, n * size_of(type));
    if (sum == nullptr) return;
    if (chunk.whole_rows == nullptr) return on.zero(sum, n * int64_t{sizeof *sum});
    on(zero_kernel, {ceil_div(n, kThreads), kThreads}, sum, n, chunk.whole_rows);
    if (!gradients.accumulate) on.zero(out, n * size_of(type));
  };
  begin(gradients.head, gradients.head_type, chunk.head_sum, linear.V * linear.D);
  begin(gradients.bias, gradients.bias_type, chunk.bias_sum, linear.V);
  // The padding of the vocabulary has no gradient.
  if (gradients.accumulate) return;
  const auto zero_padding = [&](char* rows, Float type, int64_t size) {
    const int64_t row = size * size_of(type);
    if (rows != nullptr && linear.width > linear.V) on.zero(rows + linear.V * row, (linear.width - linear.V) * row);
  };
  zero_padding(gradients.head, gradients.head_type, linear.D);
  zero_padding(gradients.bias, gradients.bias_type, 1);
}

void end_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  const int64_t head = linear.V * linear.D;
  if (chunk.head_sum != nullptr)
    on(convert_kernel, {ceil_div(head, kThreads), kThreads}, chunk.head_sum, gradients.head, gradients.head_type, head,
       gradients.accumulate, chunk.whole_rows);
  if (chunk.bias_sum != nullptr)
    on(convert_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk.bias_sum, gradients.bias, gradients.bias_type,
       linear.V, gradients.accumulate, chunk.whole_rows);
}

}  // namespace grpo::cuda
