// Log-probabilities of tokens and the entropy of the policy there, and the way back. A row of logits is read from
// memory once, whatever the number of its tokens, and not at all without one. Forward: one exponential per logit.
// Backward: two, the second one while the row is in cache, and one write.
#include "logits/kept_rows.h"

namespace grpo {
namespace {

// Null outputs are not wanted.
struct Outputs {
  float *logp, *entropy, *logsumexp;  // [T] each
  float *full_logp, *full_logsumexp;  // [T] each, of the whole vocabulary whatever a row's set is
};

// `whole`: without sets.
void token_logprob(const Logits& logits, const Logits& whole, const RowTokens& tokens, const Outputs& outputs,
                   int64_t T, const KeptMemory& memory) {
  float *const logp = outputs.logp, *const entropy = outputs.entropy, *const logsumexp = outputs.logsumexp;
  float *const full_logp = outputs.full_logp, *const full_logsumexp = outputs.full_logsumexp;
  for (float* output : {logp, entropy, logsumexp, full_logp, full_logsumexp})
    if (output != nullptr) std::fill(output, output + T, 0.0f);  // what masked tokens keep
  const bool full = full_logp != nullptr || full_logsumexp != nullptr;
  for_named_rows(logits, tokens, [&](int64_t r, int64_t i, int worker) {
    const OwnRow own(logits, r, worker, memory);
    const RowSoftmax softmax = softmax_of_row(own.logits, r, own.row);
    const bool apart = full && has_set(logits.kept, r);
    const LogitRow whole_row = apart ? whole.open(r, worker) : own.row;
    const RowSoftmax of_whole = apart ? softmax_of_row(whole, r, whole_row) : softmax;
    for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) {
      const int32_t t = tokens.t[j];
      if (logp != nullptr) logp[t] = static_cast<float>(logp_of_token(own.logits, r, own.row, softmax, t));
      if (entropy != nullptr) entropy[t] = static_cast<float>(softmax.entropy);
      if (logsumexp != nullptr) logsumexp[t] = static_cast<float>(softmax.logsumexp(logits.scale(r)));
      if (full_logp != nullptr) full_logp[t] = static_cast<float>(logp_of_token(whole, r, whole_row, of_whole, t));
      if (full_logsumexp != nullptr) full_logsumexp[t] = static_cast<float>(of_whole.logsumexp(logits.scale(r)));
    }
  });
}

void token_logprob_backward(const Logits& logits, const RowTokens& tokens,
                            const float* logsumexp,     // [T]
                            const float* entropy,       // [T], null without grad_entropy
                            const float* grad_logp,     // [T]
                            const float* grad_entropy,  // [T], may be null
                            const GradLogits& grad_logits,
                            Target* targets,  // [T], scratch
                            const KeptMemory& memory) {
  for_rows(logits, tokens, [&](int64_t r, int64_t i, int worker) {
    if (i < 0) return write_zero_row(logits, grad_logits, r);
    const float* coefficients = coefficients_of_row(logits.kept, tokens, i, grad_logp, memory);
    if (row_gradient(tokens, i, coefficients, grad_entropy).zero) return write_zero_row(logits, grad_logits, r);
    const int32_t t = tokens.t[tokens.start[i]];
    const OwnRow own(logits, r, worker, memory);
    const RowSoftmax softmax = with_given(softmax_of_row(own.logits, r, own.row), logits.scale(r), logsumexp[t],
                                          entropy == nullptr ? nullptr : entropy + t);
    gradient_of_own_row(logits, own, softmax, tokens, i, coefficients, grad_entropy, grad_logits, targets, memory);
  });
}

template <class Args>
Logits maybe_part(const Args& args, const Axes& axes) {
  Logits logits = logits_of(args, axes);
  logits.part = is_part(args);
  if (logits.part) logits.vocab_start = args.vocab_start;
  return logits;
}

int run(const grpo_token_logprob_args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_full(args)) return status;
  const int64_t T = axes['T'], R = axes['R'];
  Scratch<int32_t> scratch(row_tokens_scratch(T));
  const RowTokens tokens = row_tokens(data<int32_t>(args.row), data<uint8_t>(args.mask), scratch.data(), T, R);
  const KeptSets kept = kept_sets_of(args, axes);
  if (const int status = check_named_rows(args, axes, kept, tokens)) return status;
  KeptScratch kept_scratch(kept, axes, false);
  const KeptMemory memory = kept_scratch.memory();
  Logits whole = maybe_part(args, axes), logits = with_sets(whole, kept, tokens, memory);
  CappedRows capped(logits);
  CappedRows capped_whole(whole, args.full != 0);
  token_logprob(logits, whole, tokens,
                {data<float>(args.logp), data<float>(args.entropy), data<float>(args.logsumexp),
                 data<float>(args.full_logp), data<float>(args.full_logsumexp)},
                T, memory);
  return GRPO_OK;
}

int run(const grpo_token_logprob_backward_args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_entropy(args.entropy, args.grad_entropy)) return status;
  if (args.grad_logits == nullptr) return GRPO_OK;
  const int64_t T = axes['T'], R = axes['R'];
  Scratch<int32_t> scratch(row_tokens_scratch(T));
  Scratch<Target> targets(T);
  const RowTokens tokens = row_tokens(data<int32_t>(args.row), data<uint8_t>(args.mask), scratch.data(), T, R);
  const KeptSets kept = kept_sets_of(args, axes);
  if (const int status = check_named_rows(args, axes, kept, tokens)) return status;
  KeptScratch kept_scratch(kept, axes, true);
  const KeptMemory memory = kept_scratch.memory();
  Logits logits = with_sets(maybe_part(args, axes), kept, tokens, memory);
  CappedRows capped(logits);
  const float* grad_entropy = data<float>(args.grad_entropy);
  GradLogits grad_logits = grad_logits_of(args.grad_logits, args.logits);
  grad_logits.scale = args.grad_scale;
  token_logprob_backward(logits, tokens, data<float>(args.logsumexp),
                         grad_entropy == nullptr ? nullptr : data<float>(args.entropy), data<float>(args.grad_logp),
                         grad_entropy, grad_logits, targets.data(), memory);
  return GRPO_OK;
}

namespace forward {
using Args = grpo_token_logprob_args;
const grpo_field kFields[] = {
    GRPO_IN(logits, "f32|bf16|f16[R,V] strided"),
    GRPO_IN(token, "i32[T] vocabulary V"),
    GRPO_IN(row, "i32[T] ? below R"),
    GRPO_IN(row_temperature, "f32[R] ?"),
    GRPO_IN(kept_start, "i32[R+1] ? offsets M"),
    GRPO_IN(kept, "i32[M] ?"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT(logp, "f32[T]"),
    GRPO_OUT(entropy, "f32[T]"),
    GRPO_OUT(logsumexp, "f32[T]"),
    GRPO_OUT(full_logp, "f32[T] if full"),
    GRPO_OUT(full_logsumexp, "f32[T] if full"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(vocab_start, "integer? = null 0..2147483647"),
    GRPO_OPT(full, "boolean = false"),
};
}  // namespace forward

namespace backward {
using Args = grpo_token_logprob_backward_args;
const grpo_field kFields[] = {
    GRPO_IN(logits, "f32|bf16|f16[R,V] strided"),
    GRPO_IN(token, "i32[T] vocabulary V"),
    GRPO_IN(row, "i32[T] ? below R"),
    GRPO_IN(row_temperature, "f32[R] ?"),
    GRPO_IN(kept_start, "i32[R+1] ? offsets M"),
    GRPO_IN(kept, "i32[M] ?"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_IN(logsumexp, "f32[T]"),
    GRPO_IN(entropy, "f32[T] ?"),
    GRPO_IN(grad_logp, "f32[T]"),
    GRPO_IN(grad_entropy, "f32[T] ?"),
    GRPO_OUT(grad_logits, "~logits[R,V] strided over logits"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(vocab_start, "integer? = null 0..2147483647"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
};
}  // namespace backward

}  // namespace

GRPO_OPERATION_BY(logits_path, kTokenLogprob, token_logprob, forward::kFields);
GRPO_OPERATION_BY(logits_path, kTokenLogprobBackward, token_logprob_backward, backward::kFields);

}  // namespace grpo
