// The log-probabilities of a vocabulary from those of its parts, each of which measured its own columns.
//
// One thread per token, in float64. The numbers of a part are asked for twice, the second time from cache.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "blocks/lanes.cuh"
#include "launch/operation.cuh"
#include "native/formulas/formula.h"

namespace grpo::cuda {
namespace {

namespace merging {
#include "native/formulas/merge_token_logprob.h"
}  // namespace merging

constexpr int kThreads = 256;

struct Parts {
  const float *logp, *entropy, *logsumexp;                    // [T]
  const float *other_logp, *other_entropy, *other_logsumexp;  // [N,T]
  int64_t N, T;

  __device__ __forceinline__ merging::Measured<double> of(int64_t i, int64_t t) const {
    if (i == 0) return {logp[t], entropy[t], logsumexp[t]};
    const int64_t at = (i - 1) * T + t;
    return {other_logp[at], other_entropy[at], other_logsumexp[at]};
  }
};
struct Whole {
  float *logp, *entropy, *logsumexp;  // [T], may be null
};

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 12 bytes per token and part, and 12 per token. Bound: memory.
__global__ void __launch_bounds__(kThreads) merge_token_logprob_kernel(Parts parts, Whole out) {
  const int64_t t = thread_index();
  if (t >= parts.T) return;
  merging::Measured<double> whole = parts.of(0, t);
  if (parts.N > 0) {
    merging::Merging<double> state = merging::nothing_merged<double>();
    for (int64_t i = 0; i <= parts.N; ++i) look_at(state, parts.of(i, t));
    for (int64_t i = 0; i <= parts.N; ++i) add(state, parts.of(i, t));
    whole = whole_of(state);
  }
  if (out.logp != nullptr) out.logp[t] = static_cast<float>(whole.logp);
  if (out.entropy != nullptr) out.entropy[t] = static_cast<float>(whole.entropy);
  if (out.logsumexp != nullptr) out.logsumexp[t] = static_cast<float>(whole.logsumexp);
}

using Args = grpo_merge_token_logprob_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const float *logp = data<float>(args.logp), *entropy = data<float>(args.entropy);
  const Parts parts{logp, entropy, data<float>(args.logsumexp), data<float>(args.other_logp),
                    data<float>(args.other_entropy), data<float>(args.other_logsumexp), axes['N'], axes['T']};
  const Whole out{data<float>(args.out_logp), data<float>(args.out_entropy), data<float>(args.out_logsumexp)};
  on(merge_token_logprob_kernel, {ceil_div(parts.T, kThreads), kThreads}, parts, out);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kMergeTokenLogprob, merge_token_logprob);

}  // namespace grpo::cuda
