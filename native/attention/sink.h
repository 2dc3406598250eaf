// The softmax of a row with a sink: a logit that takes part in its sum and has no value.
#pragma once

#include <cmath>

#include "vector/vector.h"

namespace grpo {

struct RowSoftmax {
  float logsumexp;
  double scale;  // of a sum of exp(score - max) v: exp(max - logsumexp)
};

// Of a row with that maximum and that sum of exp(score - max). The sink is added last and in float64: a large one takes
// no digits from the scores, and where it outweighs them all the sum neither overflows nor loses it. `sink` null: none.
inline RowSoftmax softmax_of_row(double max, double sum, const float* sink) {
  double logsumexp = max + std::log(sum);
  if (sink != nullptr && *sink != -INFINITY) {
    const double most = std::fmax(logsumexp, *sink);
    logsumexp = most + std::log1p(std::exp(-std::fabs(logsumexp - *sink)));  // NaN of either is one of the distance
  }
  return {static_cast<float>(logsumexp), std::exp(max - logsumexp)};
}

// gradSink[h] = -sum_p exp(sink[h] - logsumexp[p,h]) (gradOut[p,h] . out[p,h]), in float64, in an order of P alone.
void sink_gradient(const float* sink,       // [H]
                   const void* grad_out,    // [P,H,E]
                   const void* out,         // [P,H,E]
                   const void* out_low,     // [P,H,E]  what rounding lost of out; may be null
                   Float type,              // of the three
                   const float* logsumexp,  // [P,H]
                   float grad_scale,
                   float* grad_sink,        // [H]
                   int64_t P, int64_t H, int64_t E);

}  // namespace grpo
