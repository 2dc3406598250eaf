// The gradients of a chunk, see chunk.cuh: one block owns one row of logits and writes its gradient in its place; rows
// with a gradient are listed, and go through the products. float32 or, where halves.cuh says so, f16, sums in a fixed
// order. The arithmetic is that of logits/logits_softmax.cuh: a multiply-add and a power of 2 for each logit; the
// tokens' own ones in float64. At most 30 instructions for a logit (sm_90a), where memory leaves room for 41. Tried:
// each logit compared with the row's tokens, and divided by the sum: 40 to 80.
#include "blocks/flags.cuh"
#include "blocks/reduce.cuh"
#include "linear/halves.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Shared {
  float partial[kWarps];
};
struct CompactShared {
  int32_t partial[kWarps];
};

// Where NaN among magnitudes counts as the largest.
struct LargerOrNan {
  __device__ __forceinline__ float operator()(float x, float y) const { return x > y || x != x ? x : y; }
};

struct Coefficients {
  double logp = 0, entropy = 0;  // their sums over the tokens of a row
  double size = 0;               // the sum of the first ones' magnitudes
  bool zero = true;              // all are exactly 0, which a sum that is 0 does not say
};

// What no gradient of the row exceeds, from what is known before a logit is read: p is at most that of the largest one.
// A row that is scaled by it loses nothing that float32 would keep: where p of its token is nearly 1, and the gradient
// far below the bound, the plain formula's 1 - p has lost as many digits.
__device__ __forceinline__ double bound_of(const SoftmaxOfRow& softmax, const Coefficients& c, double slope) {
  const double p = exp(-softmax.log_sum), p_log_p = fmax(0.3679, p * fabs(softmax.log_sum));
  return fabs(slope) * (c.size + p * (fabs(c.logp) + fabs(c.entropy * softmax.entropy)) + fabs(c.entropy) * p_log_p);
}

// value(x) of each of the row's logits in its place, zeros past the end of the row; returns the largest magnitude.
template <class Value>
__device__ __forceinline__ float write_floats(float* z, int64_t V, int64_t stride, Value value) {
  float largest = 0;
  for (int64_t v = threadIdx.x * 4; v < stride; v += kThreads * 4) {
    Words4& words = *reinterpret_cast<Words4*>(z + v);
    float x[4];
    if (v + 4 <= V) unpack<float>(words, x);
    else
      for (int k = 0; k < 4; ++k) x[k] = v + k < V ? z[v + k] : 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = value(x[k]);
    if (v + 4 > V)
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] = v + k < V ? x[k] : 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) largest = LargerOrNan{}(largest, fabsf(x[k]));
    words = packed<float>(x);
  }
  return largest;
}

// The same as f16, from the row's begin on. All threads have read the logits of a step before one of them writes: what
// it writes are places of logits up to that step.
template <class Value>
__device__ __forceinline__ void write_halves(float* z, int64_t V, int64_t stride, Value value) {
  for (int64_t base = 0; base < stride; base += kThreads * 8) {
    const int64_t v = base + threadIdx.x * 8;
    const Words4* words = reinterpret_cast<const Words4*>(z + v);
    float x[8] = {};
    if (v + 8 <= V) {
      float low[4], high[4];
      unpack<float>(words[0], low), unpack<float>(words[1], high);
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] = low[k], x[k + 4] = high[k];
    } else {
      for (int k = 0; k < 8; ++k) x[k] = v + k < V ? z[v + k] : 0;
    }
    __syncthreads();
    if (v >= stride) continue;
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = value(x[k]);
    if (v + 8 > V)
#pragma unroll
      for (int k = 0; k < 8; ++k) x[k] = v + k < V ? x[k] : 0;
    reinterpret_cast<Words4*>(z)[v / 8] = packed<f16>(x);
  }
}

// z becomes (sum of grad_logp[t] over the tokens t of v - p coefficient - p (log p + entropy) entropy_coefficient)
// scale, with a soft-cap times its slope, as f16 times the row's power of two.
// Grid: rows of the chunk. Block: 256. Shared: 32. Work: 6 or 8 bytes per logit. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(LinearChunk chunk, Linear linear, const float* logsumexp, const float* entropy,
                    const float* grad_logp, const float* grad_entropy, double grad_scale) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x, V = linear.V;
  if (i >= *chunk.live) return;
  const int32_t begin = chunk.named.begin(chunk.begin + i), end = chunk.named.end(chunk.begin + i);
  Coefficients c;
  for (int32_t j = begin; j < end; ++j) {  // the same in all threads
    const int32_t t = chunk.named.tokens[j];
    const float own = grad_logp[t], bonus = grad_entropy == nullptr ? 0 : grad_entropy[t];
    c.logp += own, c.entropy += bonus, c.size += fabsf(own);
    c.zero = c.zero && own == 0 && bonus == 0;
  }
  if (threadIdx.x == 0) chunk.has_gradient[i] = !c.zero;
  if (c.zero) return;
  float* z = chunk.logits + i * chunk.stride;
  const float scale = scale_of_row(linear.temperature, chunk.named.row[chunk.begin + i]);
  const int32_t first = chunk.named.tokens[begin];
  SoftmaxOfRow softmax = chunk.softmax[i];
  if (logsumexp != nullptr)
    softmax = with_given(softmax, scale, logsumexp[first], entropy == nullptr ? nullptr : entropy + first);
  const bool exists = isfinite(softmax.log_sum);  // else NaN, or every part of the vocabulary is -inf
  const double softcap = linear.temperature.softcap;
  const bool capped = softcap != 0, halved = chunk.is_halved();
  double slope = (capped ? scale / softcap : scale) * grad_scale;
  const int power = halved ? power_for(bound_of(softmax, c, slope)) : 0;
  if (halved && threadIdx.x == 0) chunk.power[i] = power;
  slope *= PowerOfTwo::exactly(power);

  // Of the tokens of a column the first one writes it, after the others.
  const auto column_of = [&](int32_t j) { return linear.token[chunk.named.tokens[j]] - linear.vocab_start; };
  const auto mine = [&](int32_t j) {
    const int64_t column = column_of(j);
    if (column < 0 || column >= V) return false;
    for (int32_t k = begin; k < j; ++k)
      if (column_of(k) == column) return false;
    return true;
  };
  for (int32_t j = begin + static_cast<int32_t>(threadIdx.x); j < end && exists; j += kThreads) {
    if (!mine(j)) continue;
    const int64_t column = column_of(j);
    double value = 0;
    for (int32_t k = j; k < end; ++k)
      if (column_of(k) == column) value += grad_logp[chunk.named.tokens[k]];
    const float x = z[column];
    const double log_p = softmax.logp(x, scale), p = exp(log_p);
    if (p != 0) value -= p * (c.logp + c.entropy * (log_p + softmax.entropy));  // not 0 * -inf
    if (capped) value *= cap_slope(x);
    chunk.own_gradient[j] = static_cast<float>(slope * value);
  }
  __syncthreads();
  const GradientLine line =
      exists ? gradient_line(softmax, c.logp, c.entropy, slope, log2_scale(scale)) : GradientLine{0, 0, NAN, 0};
  const auto plain = [&](float x) { return line.template at<true>(x); };
  const auto sloped = [&](float x) { return line.template at<true>(x) * softcap_slope(x); };
  float largest = 0;
  if (halved && capped) write_halves(z, V, chunk.stride, sloped);
  else if (halved) write_halves(z, V, chunk.stride, plain);
  else largest = capped ? write_floats(z, V, chunk.stride, sloped) : write_floats(z, V, chunk.stride, plain);
  __syncthreads();
  for (int32_t j = begin + static_cast<int32_t>(threadIdx.x); j < end && exists; j += kThreads) {
    if (!mine(j)) continue;
    const float own = chunk.own_gradient[j];
    if (halved) reinterpret_cast<f16*>(z)[column_of(j)] = from_float<f16>(own);
    else z[column_of(j)] = own;
    largest = LargerOrNan{}(largest, fabsf(own));
  }
  if (halved || chunk.row_largest == nullptr) return;
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
  if (threadIdx.x != 0) return;
  *chunk.kept_count = kept;
  if (chunk.halves) *chunk.hidden_exponent = kNoExponent;
}

// Grid: ceil(V / 256). Block: 256. Shared: 0. Work: 4 bytes per logit of the chunk. Bound: memory.
__global__ void column_largest_kernel(LinearChunk chunk, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V || chunk.is_halved()) return;
  float largest = 0;
  for (int32_t j = 0; j < *chunk.kept_count; ++j)
    largest = fmaxf(largest, fabsf(chunk.logits[int64_t{chunk.kept[j]} * chunk.stride + v]));
  chunk.column_largest[v] = largest;
}

// Grid: ceil(V / 256). Block: 256. Shared: 0. Work: 2 or 4 bytes per logit of the chunk. Bound: memory.
__global__ void bias_kernel(LinearChunk chunk, float* sum, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V || *chunk.kept_count == 0) return;
  double total = sum[v];
  for (int32_t j = 0; j < *chunk.kept_count; ++j) total += chunk.gradient(chunk.kept[j], v);
  sum[v] = static_cast<float>(total);
}

// Grid: ceil(V D / 256). Block: 256. Shared: 0. Work: 4 bytes per element. Bound: memory.
__global__ void zero_kernel(float* sum, int64_t n, const uint32_t* rows) {
  const int64_t i = thread_index();
  if (*rows > 0 && i < n) sum[i] = 0;
}

// Zeros, of rows that lie apart.
// Grid: ceil(count size / 256). Block: 256. Shared: 0. Work: 4 bytes per element. Bound: memory.
__global__ void zero_rows_kernel(char* rows, Float type, int64_t count, int64_t size, int64_t stride) {
  const int64_t i = thread_index();
  if (i < count * size) store_float(rows, type, i / size * stride + i % size, 0);
}

// Of rows of `size` numbers, those of `to` `stride` apart.
// Grid: ceil(n / 2,048). Block: 256. Shared: 0. Work: 6 bytes per element, 8 where it is added. Bound: memory.
template <class Y>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const float* from, Y* to, int64_t n, int64_t size, int64_t stride, bool add, const uint32_t* rows) {
  const int64_t i = thread_index() * kLanes<Y>;
  if (rows != nullptr && *rows == 0) return;
  if (i + kLanes<Y> > n || !aligned16(to) || stride != size) {
    for (int64_t k = i; k < i + kLanes<Y> && k < n; ++k) {
      const int64_t at = stride == size ? k : k / size * stride + k % size;
      to[at] = from_float<Y>(from[k] + (add ? to_float(to[at]) : 0));
    }
    return;
  }
  float x[kLanes<Y>], before[kLanes<Y>] = {};
#pragma unroll
  for (int k = 0; k < kLanes<Y>; k += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i + k);
    x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
  }
  Words4& words = *reinterpret_cast<Words4*>(to + i);
  if (add) unpack<Y>(words, before);
#pragma unroll
  for (int k = 0; k < kLanes<Y>; ++k) x[k] += before[k];
  words = packed<Y>(x);
}

void convert(const float* from, char* to, Float type, int64_t count, int64_t size, int64_t stride, bool add,
             const uint32_t* rows, Launch& on) {
  const int64_t n = count * size;
  const auto launch = [&]<class Y>(Y*) {
    on(convert_kernel<Y>, {ceil_div(n, kThreads * kLanes<Y>), kThreads}, from, reinterpret_cast<Y*>(to), n, size,
       stride, add, rows);
  };
  if (type == Float::kBf16) launch(static_cast<bf16*>(nullptr));
  else launch(static_cast<f16*>(nullptr));
}

// Of `count` rows of `size` numbers, `stride` apart.
void zero_rows(char* rows, Float type, int64_t count, int64_t size, int64_t stride, Launch& on) {
  if (stride == size) return on.zero(rows, count * size * size_of(type));
  on(zero_rows_kernel, {ceil_div(count * size, kThreads), kThreads}, rows, type, count, size, stride);
}

}  // namespace

void chunk_gradient(const Linear& linear, const LinearChunk& chunk, const float* logsumexp, const float* entropy,
                    const float* grad_logp, const float* grad_entropy, const LinearGradients& gradients, Launch& on) {
  const int64_t V = linear.V, D = linear.D;
  on(gradient_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear, logsumexp, entropy, grad_logp,
     grad_entropy, gradients.scale);
  on(compact_kernel, {1, kThreads, sizeof(CompactShared)}, chunk);
  const Extent rows{chunk.kept_count, false}, terms{chunk.kept_count, true};
  Product hidden{gradients.hidden, gradients.hidden_type, gradients.hidden_stride, chunk.kept_row, nullptr,
                 Float::kF32,      false,                 gradients.hidden_type};
  Product head{chunk.head_sum, Float::kF32, D, nullptr, nullptr, Float::kF32, true, gradients.head_type};
  if (chunk.head_sum == nullptr) head.data = gradients.head, head.stride = gradients.head_stride;
  if (chunk.halves) {
    const auto gradient = [&](bool transposed) {
      return Matrix{chunk.logits, Float::kF16, 2 * chunk.stride, chunk.kept, transposed};
    };
    Product halved = hidden;
    halved.row_power = chunk.power, halved.power = chunk.head_power;
    if (gradients.hidden != nullptr)
      matmul(Use::kGradHidden, gradient(false), chunk.head, halved, chunk.rows, D, V, rows, chunk.choice, nullptr, on);
    halved = head;
    halved.power = chunk.hidden_power;
    if (gradients.head != nullptr) {
      halve_hidden(linear, chunk, on);
      matmul(Use::kGradHead, gradient(true), {chunk.hidden, Float::kF16, D, nullptr, true}, halved, V, D, chunk.rows,
             terms, chunk.choice, nullptr, on);
    }
  }
  if (!chunk.halves || chunk.choice.lossy != nullptr) {
    const Choice wide{chunk.choice.lossy, chunk.choice.count, true};
    const auto gradient = [&](bool transposed) {
      return Matrix{chunk.logits, Float::kF32, chunk.stride, chunk.kept, transposed};
    };
    if (gradients.hidden != nullptr)
      matmul(Use::kGradHidden, gradient(false), {linear.head, linear.head_type, linear.head_stride, nullptr, true},
             hidden, chunk.rows, D, V, rows, wide, chunk.row_largest, on);
    if (gradients.head != nullptr) {
      if (chunk.column_largest != nullptr) on(column_largest_kernel, {ceil_div(V, kThreads), kThreads}, chunk, V);
      matmul(Use::kGradHead, gradient(true),
             {linear.hidden, linear.hidden_type, linear.hidden_stride, chunk.kept_row, true}, head, V, D, chunk.rows,
             terms, wide, chunk.column_largest, on);
    }
  }
  if (gradients.bias != nullptr) {
    float* sum = chunk.bias_sum != nullptr ? chunk.bias_sum : reinterpret_cast<float*>(gradients.bias);
    on(bias_kernel, {ceil_div(V, kThreads), kThreads}, chunk, sum, V);
  }
}

void begin_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  halve_head(linear, chunk, on);
  if (gradients.hidden != nullptr)
    zero_rows(gradients.hidden, gradients.hidden_type, linear.R, linear.D, gradients.hidden_stride, on);
  const auto begin = [&](char* out, Float type, float* sum, int64_t size, int64_t stride) {
    if (out == nullptr) return;
    const int64_t n = linear.V * size;
    // Where gradients are added, a sum of float32 begins with what is there.
    if (sum == nullptr && !gradients.accumulate) zero_rows(out, type, linear.V, size, stride, on);
    if (sum == nullptr) return;
    if (chunk.whole_rows == nullptr) return on.zero(sum, n * int64_t{sizeof *sum});
    on(zero_kernel, {ceil_div(n, kThreads), kThreads}, sum, n, chunk.whole_rows);
    if (!gradients.accumulate) zero_rows(out, type, linear.V, size, stride, on);
  };
  begin(gradients.head, gradients.head_type, chunk.head_sum, linear.D, gradients.head_stride);
  begin(gradients.bias, gradients.bias_type, chunk.bias_sum, 1, 1);
  // The padding of the vocabulary has no gradient.
  if (gradients.accumulate) return;
  const auto zero_padding = [&](char* rows, Float type, int64_t size, int64_t stride) {
    if (rows == nullptr || linear.width <= linear.V) return;
    zero_rows(rows + linear.V * stride * size_of(type), type, linear.width - linear.V, size, stride, on);
  };
  zero_padding(gradients.head, gradients.head_type, linear.D, gradients.head_stride);
  zero_padding(gradients.bias, gradients.bias_type, 1, 1);
}

void end_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  if (chunk.head_sum != nullptr)
    convert(chunk.head_sum, gradients.head, gradients.head_type, linear.V, linear.D, gradients.head_stride,
            gradients.accumulate, chunk.whole_rows, on);
  if (chunk.bias_sum != nullptr)
    convert(chunk.bias_sum, gradients.bias, gradients.bias_type, linear.V, 1, 1, gradients.accumulate,
            chunk.whole_rows, on);
}

}  // namespace grpo::cuda
