// The log-probabilities of a vocabulary from those of two parts of it, each of which measured its own columns.
//
// One thread per token, 36 bytes each, in float64.
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"
#include "native/formulas/merge_token_logprob.h"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

struct Part {
  const float *logp, *entropy, *logsumexp;  // [T]
};
struct Whole {
  float *logp, *entropy, *logsumexp;  // [T], may be null
};

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 36 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads) merge_token_logprob_kernel(Part a, Part b, Whole out, int64_t T) {
  const int64_t t = thread_index();
  if (t >= T) return;
  const TokenLogprob whole =
      merge(TokenLogprob{a.logp[t], a.entropy[t], a.logsumexp[t]}, {b.logp[t], b.entropy[t], b.logsumexp[t]});
  if (out.logp != nullptr) out.logp[t] = static_cast<float>(whole.logp);
  if (out.entropy != nullptr) out.entropy[t] = static_cast<float>(whole.entropy);
  if (out.logsumexp != nullptr) out.logsumexp[t] = static_cast<float>(whole.logsumexp);
}

using Args = grpo_merge_token_logprob_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t T = axes['T'];
  const Part a{data<float>(args.logp), data<float>(args.entropy), data<float>(args.logsumexp)};
  const Part b{data<float>(args.other_logp), data<float>(args.other_entropy), data<float>(args.other_logsumexp)};
  const Whole out{data<float>(args.out_logp), data<float>(args.out_entropy), data<float>(args.out_logsumexp)};
  on(merge_token_logprob_kernel, {ceil_div(T, kThreads), kThreads}, a, b, out, T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kMergeTokenLogprob, merge_token_logprob);

}  // namespace grpo::cuda
