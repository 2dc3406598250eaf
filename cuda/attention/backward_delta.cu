// What the slopes of all scores of a query have in common: one thread per query and head.
#include "attention/backward.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// gradOut . out by the very chain of products that multiply() forms gradOut . v with: where out is v (a token that sees
// only itself) the two cancel to exactly 0.
// Grid: ceil(P H / 256). Block: 256. Shared: 0. Work: 2 E elements and 4 bytes per query and head. Bound: memory.
template <class T>
__global__ void __launch_bounds__(kThreads) delta_kernel(Backward on, int64_t rows, int64_t E) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  const T *grad_out = static_cast<const T*>(on.grad_out.data) + i * E, *out = static_cast<const T*>(on.out.data) + i * E;
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum = fmaf(to_float(grad_out[e]), to_float(out[e]), sum);
  on.delta[i] = sum;
}

}  // namespace

void form_delta(const Backward& backward, const AttentionShape& shape, Launch& on) {
  const int64_t rows = shape.P * shape.H;
  const auto kernel = backward.type == Float::kF32    ? delta_kernel<float>
                      : backward.type == Float::kBf16 ? delta_kernel<bf16>
                                                      : delta_kernel<f16>;
  on(kernel, {ceil_div(rows, kThreads), kThreads}, backward, rows, shape.E);
}

}  // namespace grpo::cuda
