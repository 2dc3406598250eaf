// A chunk of rows of the linear operations: see linear.cuh. One block owns one row of logits; it reads the row twice for
// the softmax (maximum, then sums; the chunk was just written and mostly lies in the L2 cache) and writes it once for the
// gradient. float32 throughout, sums in a fixed tree.
#include "linear/linear.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Shared {
  float partial[kWarps];
  int32_t scan[kWarps];
};

__device__ __forceinline__ float block_max(float value, float* partial) {
  const auto larger = [](float x, float y) { return x > y || x != x ? x : y; };  // NaN stays
  value = warp_reduce(value, larger);
  __syncthreads();
  if (lane_index() == 0) partial[warp_index()] = value;
  __syncthreads();
  float most = partial[0];
  for (int warp = 1; warp < kWarps; ++warp) most = larger(most, partial[warp]);
  return most;
}

__global__ void live_kernel(LinearChunk chunk) {
  const int64_t left = int64_t{*chunk.named.count} - chunk.begin;
  *chunk.live = static_cast<int32_t>(left < 0 ? 0 : left < chunk.rows ? left : chunk.rows);
}

__global__ void __launch_bounds__(kThreads)
    softmax_kernel(LinearChunk chunk, const int32_t* token, float scale, int64_t V, float* logp, float* entropy,
                   float* logsumexp) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x;
  if (i >= *chunk.live) return;
  const float* z = chunk.logits + i * chunk.stride;
  float most = -INFINITY;
  for (int64_t v = threadIdx.x; v < V; v += kThreads) most = z[v] > most || z[v] != z[v] ? z[v] : most;
  most = block_max(most, shared.partial);
  float sum = 0, weighted = 0;  // of exp(x), and of that times x
  for (int64_t v = threadIdx.x; v < V; v += kThreads) {
    // The difference first: a constant added to a row changes no digit.
    const float x = (z[v] - most) * scale, e = expf(x);
    sum += e;
    weighted += e > 0 ? e * x : 0;
  }
  sum = block_sum(sum, shared.partial);
  weighted = block_sum(weighted, shared.partial);
  const float bad = sum != sum ? NAN : 0;  // NaN among the logits
  const double log_sum = log(static_cast<double>(sum));
  const Softmax softmax{most, sum, static_cast<float>(log_sum),
                        static_cast<float>(static_cast<double>(most) * scale + log_sum),
                        static_cast<float>(log_sum - static_cast<double>(weighted) / sum) + bad};
  if (threadIdx.x == 0) chunk.softmax[i] = softmax;
  const int32_t r = chunk.named.row[chunk.begin + i];
  for (int32_t j = chunk.named.start[r] + threadIdx.x; j < chunk.named.start[r + 1]; j += kThreads) {
    const int32_t t = chunk.named.tokens[j];
    if (logp != nullptr) logp[t] = static_cast<float>(static_cast<double>(z[token[t]] - most) * scale - log_sum);
    if (entropy != nullptr) entropy[t] = softmax.entropy;
    if (logsumexp != nullptr) logsumexp[t] = softmax.logsumexp;
  }
}

// z becomes (sum of grad_logp[t] over the tokens t of v - p coefficient - p (log p + entropy) entropy_coefficient) scale;
// zeros past the end of the row.
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(LinearChunk chunk, const int32_t* token, float scale, int64_t V, const float* logsumexp,
                    const float* entropy, const float* grad_logp, const float* grad_entropy) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x;
  if (i >= *chunk.live) return;
  float* z = chunk.logits + i * chunk.stride;
  const int32_t r = chunk.named.row[chunk.begin + i];
  const int32_t begin = chunk.named.start[r], end = chunk.named.start[r + 1];
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
  const bool as_own = fabsf(lse - own.logsumexp) <= 2.4e-7f * fmaxf(1, fabsf(own.logsumexp));
  const float h = entropy != nullptr ? entropy[first] : own.entropy;
  float largest = 0;
  for (int64_t v = threadIdx.x; v < V; v += kThreads) {
    const float x = (z[v] - own.most) * scale;
    const float log_p = as_own ? x - own.log_sum : z[v] * scale - lse, p = as_own ? expf(x) / own.sum : expf(log_p);
    float own_tokens = 0;  // summed as coefficient is: with all tokens of one id and p = 1, the gradient is exactly 0
    for (int32_t j = begin; j < end; ++j)
      if (token[chunk.named.tokens[j]] == v) own_tokens += grad_logp[chunk.named.tokens[j]];
    // p = 0 where log p is -infinity.
    const bool bonus = entropy_coefficient != 0 && p > 0;
    const float gradient = own_tokens - p * (bonus ? fmaf(entropy_coefficient, log_p + h, coefficient) : coefficient);
    z[v] = gradient * scale;
    largest = fmaxf(largest, fabsf(gradient * scale));
  }
  if (threadIdx.x < chunk.stride - V) z[V + threadIdx.x] = 0;
  if (chunk.row_largest == nullptr) return;
  largest = block_max(largest, shared.partial);
  if (threadIdx.x == 0) chunk.row_largest[i] = largest;
}

// One block: the rows with a gradient, in order.
__global__ void __launch_bounds__(kThreads) compact_kernel(LinearChunk chunk) {
  DYN_SMEM(Shared, shared);
  const int32_t live = *chunk.live;
  int32_t kept = 0;
  for (int32_t begin = 0; begin < live; begin += kThreads) {
    const int32_t i = begin + threadIdx.x;
    const bool keep = i < live && chunk.has_gradient[i] != 0;
    const uint32_t votes = __ballot_sync(kAllLanes, keep);
    __syncthreads();
    if (lane_index() == 0) shared.scan[warp_index()] = __popc(votes);
    __syncthreads();
    int32_t place = kept + __popc(votes & ((1u << lane_index()) - 1));
    for (int warp = 0; warp < kWarps; ++warp) {
      if (warp < warp_index()) place += shared.scan[warp];
      kept += shared.scan[warp];
    }
    if (!keep) continue;
    chunk.kept[place] = i;
    chunk.kept_row[place] = chunk.named.row[chunk.begin + i];
  }
  if (threadIdx.x == 0) *chunk.kept_count = kept;
}

__global__ void column_largest_kernel(LinearChunk chunk, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V) return;
  float largest = 0;
  for (int32_t j = 0; j < *chunk.kept_count; ++j)
    largest = fmaxf(largest, fabsf(chunk.logits[int64_t{chunk.kept[j]} * chunk.stride + v]));
  chunk.column_largest[v] = largest;
}

__global__ void bias_kernel(LinearChunk chunk, float* sum, int64_t V) {
  const int64_t v = thread_index();
  if (v >= V) return;
  double total = sum[v];
  for (int32_t j = 0; j < *chunk.kept_count; ++j) total += chunk.logits[int64_t{chunk.kept[j]} * chunk.stride + v];
  sum[v] = static_cast<float>(total);
}

__global__ void convert_kernel(const float* from, void* to, Float type, int64_t n) {
  const int64_t i = thread_index();
  if (i < n) store_float(to, type, i, from[i]);
}

int64_t bytes_of_type(Float type) { return type == Float::kF32 ? 4 : 2; }

}  // namespace

LinearChunk linear_chunk(const Linear& linear, const LinearGradients* gradients, int64_t chunk_rows, Launch& on) {
  // At most a gigabyte of logits: few enough chunks that reading and writing gradHead for each costs little.
  const int64_t good = std::max<int64_t>(64, (int64_t{1} << 28) / std::max<int64_t>(linear.V, 1));
  const int64_t rows = std::min(linear.R, is_null(chunk_rows) ? good : chunk_rows);
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

void chunk_softmax(const Linear& linear, LinearChunk& chunk, int64_t begin, float* logp, float* entropy,
                   float* logsumexp, Launch& on) {
  chunk.begin = begin;
  on(live_kernel, {1, 1}, chunk);
  matmul({linear.hidden, linear.hidden_type, linear.D, chunk.named.row + begin, false},
         {linear.head, linear.head_type, linear.D, nullptr, false},
         {chunk.logits, Float::kF32, chunk.stride, nullptr, linear.bias, linear.bias_type, false, Float::kF32}, chunk.rows,
         linear.V, linear.D, {chunk.live, false}, nullptr, on);
  on(softmax_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear.token, linear.scale, linear.V, logp, entropy,
     logsumexp);
}

void chunk_gradient(const Linear& linear, const LinearChunk& chunk, const float* logsumexp, const float* entropy,
                    const float* grad_logp, const float* grad_entropy, const LinearGradients& gradients, Launch& on) {
  on(gradient_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear.token, linear.scale, linear.V, logsumexp,
     entropy, grad_logp, grad_entropy);
  on(compact_kernel, {1, kThreads, sizeof(Shared)}, chunk);
  const auto gradient = [&](bool transposed) {
    return Matrix{chunk.logits, Float::kF32, chunk.stride, chunk.kept, transposed};
  };
  if (gradients.hidden != nullptr)
    matmul(gradient(false), {linear.head, linear.head_type, linear.D, nullptr, true},
           {gradients.hidden, gradients.hidden_type, linear.D, chunk.kept_row, nullptr, Float::kF32, false,
            gradients.hidden_type},
           chunk.rows, linear.D, linear.V, {chunk.kept_count, false}, chunk.row_largest, on);
  if (gradients.head != nullptr) {
    if (chunk.column_largest != nullptr)
      on(column_largest_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk, linear.V);
    void* sum = chunk.head_sum != nullptr ? static_cast<void*>(chunk.head_sum) : gradients.head;
    matmul(gradient(true), {linear.hidden, linear.hidden_type, linear.D, chunk.kept_row, true},
           {sum, Float::kF32, linear.D, nullptr, nullptr, Float::kF32, true, gradients.head_type}, linear.V, linear.D,
           chunk.rows, {chunk.kept_count, true}, chunk.column_largest, on);
  }
  if (gradients.bias != nullptr) {
    float* sum = chunk.bias_sum != nullptr ? chunk.bias_sum : reinterpret_cast<float*>(gradients.bias);
    on(bias_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk, sum, linear.V);
  }
}

void begin_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  if (gradients.hidden != nullptr) on.zero(gradients.hidden, linear.R * linear.D * bytes_of_type(gradients.hidden_type));
  if (gradients.head != nullptr)
    on.zero(chunk.head_sum != nullptr ? static_cast<void*>(chunk.head_sum) : gradients.head, linear.V * linear.D * 4);
  if (gradients.bias != nullptr)
    on.zero(chunk.bias_sum != nullptr ? static_cast<void*>(chunk.bias_sum) : gradients.bias, linear.V * 4);
}

void end_gradients(const Linear& linear, const LinearChunk& chunk, const LinearGradients& gradients, Launch& on) {
  const int64_t head = linear.V * linear.D;
  if (chunk.head_sum != nullptr)
    on(convert_kernel, {ceil_div(head, kThreads), kThreads}, chunk.head_sum, gradients.head, gradients.head_type, head);
  if (chunk.bias_sum != nullptr)
    on(convert_kernel, {ceil_div(linear.V, kThreads), kThreads}, chunk.bias_sum, gradients.bias, gradients.bias_type,
       linear.V);
}

}  // namespace grpo::cuda
