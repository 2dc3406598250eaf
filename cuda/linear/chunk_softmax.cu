// The softmax of a chunk's rows, see chunk.cuh: one block owns one row of logits, which it reads twice (maximum, then
// sums), both times from memory: a chunk has up to a gigabyte, more than the L2 cache. float32, sums in a fixed tree.
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

// Grid: 1. Block: 1. Shared: 0. Work: 8 bytes. Bound: latency.
__global__ void live_kernel(LinearChunk chunk) {
  const int64_t left = int64_t{*chunk.named.count} - chunk.begin;
  *chunk.live = static_cast<int32_t>(left < 0 ? 0 : left < chunk.rows ? left : chunk.rows);
}

// Grid: rows of the chunk. Block: 256. Shared: 32. Work: 8 bytes per logit, in two reads. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(LinearChunk chunk, Linear linear, float* logp, float* entropy, float* logsumexp) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x, V = linear.V;
  if (i >= *chunk.live) return;
  const int32_t r = chunk.named.row[chunk.begin + i];
  const float scale = scale_of_row(linear.temperature, r);
  float* z = chunk.logits + i * chunk.stride;
  const InverseCap inverse = inverse_cap(linear.temperature);
  float most = -INFINITY;
  for (int64_t v = threadIdx.x; v < V; v += kThreads) {
    if (inverse.high != 0) z[v] = softcapped(z[v], inverse);  // what the gradient is formed from, too
    most = z[v] > most || z[v] != z[v] ? z[v] : most;
  }
  most = block_reduce(most, shared.partial, LargerOrNan{});
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
  Softmax softmax{most, sum, static_cast<float>(log_sum),
                        static_cast<float>(static_cast<double>(most) * scale + log_sum),
                        static_cast<float>(log_sum - static_cast<double>(weighted) / sum) + bad};
  if (linear.part && most == -INFINITY) softmax = {0, 0, -INFINITY, -INFINITY, 0};  // a part may be -inf alone
  if (threadIdx.x == 0) chunk.softmax[i] = softmax;
  const int32_t end = chunk.named.end(chunk.begin + i);
  for (int32_t j = chunk.named.begin(chunk.begin + i) + threadIdx.x; j < end; j += kThreads) {
    const int32_t t = chunk.named.tokens[j];
    const int64_t column = linear.token[t] - linear.vocab_start;
    const float logit = column >= 0 && column < V ? z[column] : -INFINITY;  // of another part
    if (logp != nullptr)
      logp[t] = logit == -INFINITY && softmax.log_sum == softmax.log_sum
                    ? -INFINITY
                    : static_cast<float>(static_cast<double>(logit - most) * scale - log_sum);
    if (entropy != nullptr) entropy[t] = softmax.entropy;
    if (logsumexp != nullptr) logsumexp[t] = softmax.logsumexp;
  }
}

}  // namespace

void chunk_softmax(const Linear& linear, LinearChunk& chunk, int64_t begin, float* logp, float* entropy,
                   float* logsumexp, Launch& on) {
  chunk.begin = begin;
  on(live_kernel, {1, 1}, chunk);
  matmul(Use::kLogits, {linear.hidden, linear.hidden_type, linear.D, chunk.named.row + begin, false},
         {linear.head, linear.head_type, linear.D, nullptr, false},
         {chunk.logits, Float::kF32, chunk.stride, nullptr, linear.bias, linear.bias_type, false, Float::kF32},
         chunk.rows, linear.V, linear.D, {chunk.live, false}, {}, nullptr, on);
  on(softmax_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear, logp, entropy, logsumexp);
}

}  // namespace grpo::cuda
