// What the slopes of all scores of a query have in common: one thread per query and head.
#include "attention/backward.cuh"
#include "attention/steps.cuh"
#include "blocks/reduce.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// gradOut . out by the very chain of products that multiply() forms gradOut . v with: where out is v (a token that sees
// only itself) the two cancel to exactly 0. What rounding lost of out has a chain of its own; with more than rounding
// can have lost, which is of another forward call, delta is NaN.
// Grid: ceil(P H / 256). Block: 256. Shared: 0. Work: 2 or 3 E elements and 4 bytes per query and head. Bound: memory.
template <class T>
__global__ void __launch_bounds__(kThreads) delta_kernel(Backward on, int64_t rows, int64_t E) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  const T* grad_out = static_cast<const T*>(on.grad_out.data) + i * E;
  const T* out = static_cast<const T*>(on.out.data) + i * E;
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum = fmaf(to_float(grad_out[e]), to_float(out[e]), sum);
  if (on.out_low != nullptr) {
    const T* low = static_cast<const T*>(on.out_low) + i * E;
    // Half a unit in the last place is at most `half` |out|; below the normal numbers a unit is `least`.
    constexpr float half = std::is_same_v<T, bf16> ? 0x1p-8f : 0x1p-11f;
    constexpr float least = std::is_same_v<T, bf16> ? 0x1p-133f : 0x1p-24f;
    float rest = 0;
    for (int64_t e = 0; e < E; ++e) {
      const float x = to_float(out[e]), lost = to_float(low[e]);
      rest = fmaf(to_float(grad_out[e]), lost, rest);
      if (isfinite(x) && !(fabsf(lost) <= fmaf(fabsf(x), half, least))) rest = NAN;
    }
    sum += rest;
  }
  on.delta[i] = sum;
}

struct SinkShared {
  double partial[kThreads / kWarp];
};

// gradSink[h] = -sum_p exp(sink[h] - logsumexp[p,h]) delta[p,h], in float64: a block for each head, whose threads add
// up every 256th token.
// Grid: H. Block: 256. Shared: 64. Work: 8 bytes per query and head. Bound: memory.
__global__ void __launch_bounds__(kThreads) grad_sink_kernel(Backward on, int64_t P, int64_t H, float grad_scale) {
  DYN_SMEM(SinkShared, shared);
  const int64_t h = blockIdx.x;
  const float sink = on.sink[h];
  double sum = 0;
  for (int64_t p = threadIdx.x; p < P; p += kThreads) {
    const float logsumexp = on.logsumexp[p * H + h];
    // A sink of -inf has no weight, whatever the row; one of +inf has all of it.
    const double weight = sink == -INFINITY ? 0 : sink == logsumexp ? 1 : exp(static_cast<double>(sink) - logsumexp);
    sum -= weight * on.delta[p * H + h];
  }
  sum = block_sum(sum, shared.partial);
  if (threadIdx.x == 0) on.grad_sink[h] = static_cast<float>(sum * grad_scale);
}

// Grid: ceil(P H / 256). Block: 256. Shared: 0. Work: 32 bytes per query and head. Bound: memory.
__global__ void __launch_bounds__(kThreads) query_numbers_kernel(Matrices on, AttentionShape shape) {
  const int64_t i = thread_index();
  if (i >= shape.P * shape.H) return;
  const int64_t head = i / shape.P, row = i % shape.P * shape.H + head;
  const int32_t power_q = on.q.power[i], power_grad = on.grad_out.power[i];
  const float scale = power_q == kZeros ? 0 : std::fabs(shape.scale) * size_of_power(power_q);
  const float grad = power_grad == kZeros ? 0 : size_of_power(power_grad);
  on.numbers[i] = {scale, origin_of(on.backward.logsumexp[row]), grad,
                   grad == 0 ? 0 : on.backward.delta[row] * (scale / grad)};
}

}  // namespace

bool fit_matrices(const Backward& backward, const AttentionShape& shape, Launch& on) {
  return fit_matrices(backward.type, shape, on);
}

Matrices prepare_matrices(const Backward& backward, const AttentionShape& shape, const WorkList& keys, Launch& on) {
  Matrices to{};
  with_widths(shape, [&]<int kD, int kE>() {
    const auto copy = [&](const Heads& x, int64_t heads, int64_t columns, int64_t width, bool by_row) {
      return copy_of(x, backward.type, shape.P, heads, columns, width, by_row, on);
    };
    Copied copies[] = {
        copy(backward.q, shape.H, shape.D, kD, true), copy(backward.grad_out, shape.H, shape.E, kE, true),
        copy(backward.k, shape.K, shape.D, kD, false), copy(backward.v, shape.K, shape.E, kE, false)};
    copies[0].negative = shape.scale < 0;
    make_copies(copies, 4, shape.P, keys, on);
    to = {backward, copies[0].to, copies[2].to, copies[3].to, copies[1].to,
          on.scratch<QueryNumbers>(shape.P * shape.H)};
  });
  on(query_numbers_kernel, {ceil_div(shape.P * shape.H, kThreads), kThreads}, to, shape);
  return to;
}

void form_delta(const Backward& backward, const AttentionShape& shape, Launch& on) {
  const int64_t rows = shape.P * shape.H;
  const auto kernel = backward.type == Float::kF32    ? delta_kernel<float>
                      : backward.type == Float::kBf16 ? delta_kernel<bf16>
                                                      : delta_kernel<f16>;
  on(kernel, {ceil_div(rows, kThreads), kThreads}, backward, rows, shape.E);
  if (backward.grad_sink != nullptr)
    on(grad_sink_kernel, {shape.H, kThreads, sizeof(SinkShared)}, backward, shape.P, shape.H, backward.grad_q.scale);
}

}  // namespace grpo::cuda
