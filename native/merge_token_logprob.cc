// The log-probabilities of a vocabulary from those of its parts, each of which measured its own columns.
#include <atomic>
#include <cstring>

#include "interface/operation.h"
#include "logits/merge_range.h"

namespace grpo {
namespace {

constexpr int64_t kPiece = 4096;  // tokens

void copy(const float* from, float* to, int64_t count) {
  if (to != nullptr && count > 0) std::memcpy(to, from, count * sizeof *to);
}

// The first token that is claimed twice; T where none is.
int64_t first_claimed_twice(const Parts& parts) {
  std::atomic<int64_t> first{parts.T};
  parallel_for(parts.T, kPiece, [&](int64_t begin, int64_t end, int) {
    int64_t known = first;
    if (begin >= known) return;
    const int64_t t = merge_range().first_claimed_twice(parts, begin, end);
    while (t < end && t < known && !first.compare_exchange_weak(known, t)) continue;
  });
  return first;
}

int refused(const Parts& parts, int64_t t) {
  int64_t claims[2] = {}, count = 0;  // places in the list
  for (int64_t i = 0; i <= parts.N && count < 2; ++i) {
    const double logp = i == 0 ? parts.logp[t] : parts.other_logp[(i - 1) * parts.T + t];
    if (claims_token(logp)) claims[count++] = i;
  }
  const std::string before = claims[0] == 0 ? "{logp}" : "row " + std::to_string(claims[0] - 1) + " of {other_logp}";
  return fail(GRPO_VALUE, "other_logp",
              "claims token " + std::to_string(t) + " in row " + std::to_string(claims[1] - 1) + ", as " + before +
                  " does, but one part of a vocabulary holds it: replicated logits are no parts");
}

using Args = grpo_merge_token_logprob_args;

int run(const Args& args, const Axes& axes) {
  const float *logp = data<float>(args.logp), *entropy = data<float>(args.entropy);
  const Parts parts{logp, entropy, data<float>(args.logsumexp), data<float>(args.other_logp),
                    data<float>(args.other_entropy), data<float>(args.other_logsumexp), axes['N'], axes['T']};
  const Merged out{data<float>(args.out_logp), data<float>(args.out_entropy), data<float>(args.out_logsumexp)};
  if (parts.N == 0) {
    copy(parts.logp, out.logp, parts.T);
    copy(parts.entropy, out.entropy, parts.T);
    copy(parts.logsumexp, out.logsumexp, parts.T);
    return GRPO_OK;
  }
  if (const int64_t t = first_claimed_twice(parts); t < parts.T) return refused(parts, t);
  parallel_for(parts.T, kPiece,
               [&](int64_t begin, int64_t end, int) { merge_range().merge(parts, out, begin, end); });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(logp, "f32[T]"),
    GRPO_IN(entropy, "f32[T]"),
    GRPO_IN(logsumexp, "f32[T]"),
    GRPO_IN(other_logp, "f32[N,T]"),
    GRPO_IN(other_entropy, "f32[N,T]"),
    GRPO_IN(other_logsumexp, "f32[N,T]"),
    GRPO_OUT_AS(logp, out_logp, "f32[T]"),
    GRPO_OUT_AS(entropy, out_entropy, "f32[T]"),
    GRPO_OUT_AS(logsumexp, out_logsumexp, "f32[T]"),
};

}  // namespace

GRPO_OPERATION_BY(by_vectors, kMergeTokenLogprob, merge_token_logprob, kFields);

}  // namespace grpo
