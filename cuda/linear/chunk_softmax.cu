// The softmax of a chunk's rows, see chunk.cuh: one block owns one row of logits, which it reads once, from memory: a
// chunk has gigabytes, more than the L2 cache. The arithmetic is that of logits/logits_softmax.cuh: 25 instructions for
// a logit (sm_90a), where memory leaves room for 28. Tried: the maximum first, then the sums, which reads twice.
#include "blocks/softcap.cuh"
#include "linear/chunk.cuh"
#include "linear/matmul.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Shared {
  Online partial[kWarps];
  SoftmaxOfRow softmax;
};

// Grid: 1. Block: 1. Shared: 0. Work: 8 bytes. Bound: latency.
__global__ void live_kernel(LinearChunk chunk) {
  const int64_t left = int64_t{*chunk.named.count} - chunk.begin;
  *chunk.live = static_cast<int32_t>(left < 0 ? 0 : left < chunk.rows ? left : chunk.rows);
}

// Logits as the model makes them, to the caller's or, where they are given, from there.
// Grid: rows of the chunk. Block: 256. Shared: 0. Work: 8 bytes per logit. Bound: memory.
__global__ void __launch_bounds__(kThreads) keep_logits_kernel(LinearChunk chunk, Linear linear) {
  const int64_t i = blockIdx.x;
  if (i >= *chunk.live) return;
  const int64_t place = chunk.named.row[chunk.begin + i] * linear.width;
  float* z = chunk.logits + i * chunk.stride;
  for (int64_t v = threadIdx.x; v < linear.V; v += kThreads) {
    if (linear.logits != nullptr) z[v] = linear.logits[place + v];
    else linear.kept_logits[place + v] = z[v];
  }
}

// What the softmax works on, and the gradient is formed from: in place, by the threads that read it again.
__device__ __forceinline__ void cap_row(float* z, int64_t V, const InverseCap& inverse) {
  Words4* groups = reinterpret_cast<Words4*>(z);
  for (int64_t g = threadIdx.x; g < V / 4; g += kThreads) {
    float x[4];
    unpack<float>(groups[g], x);
    for (float& value : x) value = softcapped(value, inverse);
    groups[g] = packed<float>(x);
  }
  for (int64_t v = V / 4 * 4 + threadIdx.x; v < V; v += kThreads) z[v] = softcapped(z[v], inverse);
}

// Grid: rows of the chunk. Block: 256. Shared: 160. Work: 4 bytes per logit. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(LinearChunk chunk, Linear linear, float* logp, float* entropy, float* logsumexp) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x, V = linear.V;
  if (i >= *chunk.live) return;
  const float scale = scale_of_row(linear.temperature, chunk.named.row[chunk.begin + i]), scale2 = log2_scale(scale);
  float* z = chunk.logits + i * chunk.stride;
  if (linear.temperature.softcap != 0) cap_row(z, V, inverse_cap(linear.temperature));
  const Slice<float> slice = slice_of(z, V, InverseCap{});
  Online online = no_logits();
  add_groups<true>(online, slice, 0, slice.groups, scale2);
  add_ends<true>(online, slice, scale2);
  online = merge_lanes(online, scale2);
  if (lane_index() == 0) shared.partial[warp_index()] = online;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kWarps; ++warp) merge(online, shared.partial[warp], scale2);
    chunk.softmax[i] = shared.softmax = softmax_of(online, linear.part);
  }
  __syncthreads();
  const SoftmaxOfRow softmax = shared.softmax;
  const int32_t end = chunk.named.end(chunk.begin + i);
  for (int32_t j = chunk.named.begin(chunk.begin + i) + threadIdx.x; j < end; j += kThreads) {
    const int32_t t = chunk.named.tokens[j];
    const int64_t column = linear.token[t] - linear.vocab_start;
    const float logit = column >= 0 && column < V ? z[column] : -INFINITY;  // of another part
    if (logp != nullptr)
      logp[t] = logit == -INFINITY && softmax.log_sum == softmax.log_sum
                    ? -INFINITY
                    : static_cast<float>(softmax.logp(logit, scale));
    if (entropy != nullptr) entropy[t] = static_cast<float>(softmax.entropy);
    if (logsumexp != nullptr) logsumexp[t] = static_cast<float>(softmax.logsumexp(scale));
  }
}

}  // namespace

void chunk_softmax(const Linear& linear, LinearChunk& chunk, int64_t begin, float* logp, float* entropy,
                   float* logsumexp, Launch& on) {
  chunk.begin = begin;
  on(live_kernel, {1, 1}, chunk);
  if (linear.logits == nullptr)
    matmul(Use::kLogits, {linear.hidden, linear.hidden_type, linear.hidden_stride, chunk.named.row + begin, false},
           {linear.head, linear.head_type, linear.head_stride, nullptr, false},
           {chunk.logits, Float::kF32, chunk.stride, nullptr, linear.bias, linear.bias_type, false, Float::kF32},
           chunk.rows, linear.V, linear.D, {chunk.live, false}, {}, nullptr, on);
  if (linear.logits != nullptr || linear.kept_logits != nullptr)
    on(keep_logits_kernel, {chunk.rows, kThreads}, chunk, linear);
  on(softmax_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear, logp, entropy, logsumexp);
}

}  // namespace grpo::cuda
