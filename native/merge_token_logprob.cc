// The log-probabilities of a vocabulary from those of two parts of it, each of which measured its own columns.
#include "formulas/merge_token_logprob.h"

#include "interface/operation.h"

namespace grpo {
namespace {

void merge_token_logprob(const float* logp,             // [T]
                         const float* entropy,          // [T]
                         const float* logsumexp,        // [T]
                         const float* other_logp,       // [T]
                         const float* other_entropy,    // [T]
                         const float* other_logsumexp,  // [T]
                         float* out_logp,               // [T], may be null, as the other two
                         float* out_entropy,            // [T]
                         float* out_logsumexp,          // [T]
                         int64_t T) {
  parallel_for(T, 4096, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const TokenLogprob whole =
          merge({logp[t], entropy[t], logsumexp[t]}, {other_logp[t], other_entropy[t], other_logsumexp[t]});
      if (out_logp != nullptr) out_logp[t] = static_cast<float>(whole.logp);
      if (out_entropy != nullptr) out_entropy[t] = static_cast<float>(whole.entropy);
      if (out_logsumexp != nullptr) out_logsumexp[t] = static_cast<float>(whole.logsumexp);
    }
  });
}

using Args = grpo_merge_token_logprob_args;

int run(const Args& args, const Axes& axes) {
  const float *logp = data<float>(args.logp), *other_logp = data<float>(args.other_logp);
  for (int64_t t = 0; t < axes['T']; ++t)
    if (claimed_twice({logp[t], data<float>(args.entropy)[t], data<float>(args.logsumexp)[t]},
                      {other_logp[t], data<float>(args.other_entropy)[t], data<float>(args.other_logsumexp)[t]}))
      return fail(GRPO_VALUE, "other_logp",
                  "claims token " + std::to_string(t) + ", as {logp} does, but one part of a vocabulary holds it: "
                  "replicated logits are no parts");
  merge_token_logprob(logp, data<float>(args.entropy), data<float>(args.logsumexp), other_logp,
                      data<float>(args.other_entropy), data<float>(args.other_logsumexp),
                      data<float>(args.out_logp), data<float>(args.out_entropy), data<float>(args.out_logsumexp),
                      axes['T']);
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(logp, "f32[T]"),
    GRPO_IN(entropy, "f32[T]"),
    GRPO_IN(logsumexp, "f32[T]"),
    GRPO_IN(other_logp, "f32[T]"),
    GRPO_IN(other_entropy, "f32[T]"),
    GRPO_IN(other_logsumexp, "f32[T]"),
    GRPO_OUT_AS(logp, out_logp, "f32[T]"),
    GRPO_OUT_AS(entropy, out_entropy, "f32[T]"),
    GRPO_OUT_AS(logsumexp, out_logsumexp, "f32[T]"),
};

}  // namespace

GRPO_OPERATION(kMergeTokenLogprob, merge_token_logprob, kFields);

}  // namespace grpo
