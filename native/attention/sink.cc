#include "attention/sink.h"

#include "attention/rows.h"
#include "parallel/parallel.h"

namespace grpo {

void sink_gradient(const float* sink, const void* grad_out, const void* out, const void* out_low, Float type,
                   const float* logsumexp, float grad_scale, float* grad_sink, int64_t P, int64_t H, int64_t E) {
  constexpr int64_t kTokens = 256;  // of a part of the sum
  const int64_t parts = (P + kTokens - 1) / kTokens, row = (E + 15) / 16 * 16;
  Scratch<double> sums(parts * H);
  Scratch<float> rows(thread_count() * row);
  parallel_for(parts, 1, [&](int64_t begin, int64_t end, int worker) {
    float* const x = rows.data() + worker * row;
    for (int64_t part = begin; part < end; ++part) {
      double* const sum = sums.data() + part * H;
      std::fill_n(sum, H, 0.0);
      for (int64_t at = part * kTokens * H; at < std::min((part + 1) * kTokens, P) * H; ++at) {
        const int64_t h = at % H;
        gather(grad_out, type, at * E, E, 1, E, x);
        const auto times = [&](const void* y) -> double {
          if (y == nullptr) return 0;
          return vector_kernels().dot(x, static_cast<const char*>(y) + at * E * size_of(type), type, E);
        };
        // A sink of -inf has no weight, whatever the row; one of +inf has all of it.
        const double weight = sink[h] == -INFINITY        ? 0
                              : sink[h] == logsumexp[at] ? 1
                                                         : std::exp(static_cast<double>(sink[h]) - logsumexp[at]);
        sum[h] -= weight * (times(out) + times(out_low));
      }
    }
  });
  for (int64_t h = 0; h < H; ++h) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += sums.data()[part * H + h];
    grad_sink[h] = static_cast<float>(sum * grad_scale);
  }
}

}  // namespace grpo
