// Log-probabilities of tokens and the entropy of the policy from hidden states, and the way back, without the logits.
// Forward: one product, of which a thread holds one block of a chunk at a time. Backward: three, of which the first
// gives the chunk's logits again; gradHidden and gradHead are the other two. Rows with sets go their own way, see
// linear/kept.h.
#include "linear/linear_token_logprob.h"

#include "linear/kept.h"

namespace grpo {

RowTokens tokens_with_gradient(const int32_t* row, const uint8_t* mask, const float* grad_logp,
                               const float* grad_entropy, uint8_t* has_gradient, int32_t* scratch, int64_t T,
                               int64_t R) {
  for (int64_t t = 0; t < T; ++t)
    has_gradient[t] = (mask == nullptr || mask[t] != 0) &&
                      (grad_logp[t] != 0 || (grad_entropy != nullptr && grad_entropy[t] != 0));
  return row_tokens(row, has_gradient, scratch, T, R);
}

void write_token_logprob(const RowTokens& chunk, const RowSoftmax* softmax, const Temperature& temperature,
                         float* logp, float* entropy, float* logsumexp) {
  for (int64_t i = 0; i < chunk.count; ++i) {
    const float scale = scale_of_row(temperature, chunk.row[i]);
    for (int32_t j = chunk.start[i]; j < chunk.start[i + 1]; ++j) {
      const int32_t t = chunk.t[j];
      // In a part that is all -inf, log_sum is -inf too.
      logp[t] = std::isnan(softmax[i].log_sum) || logp[t] != -INFINITY
                    ? static_cast<float>(softmax[i].logp(logp[t], scale))
                    : -INFINITY;
      if (entropy != nullptr) entropy[t] = static_cast<float>(softmax[i].entropy);
      if (logsumexp != nullptr) logsumexp[t] = static_cast<float>(softmax[i].logsumexp(scale));
    }
  }
}

void linear_token_logprob(const Linear& linear, const RowTokens& tokens, float* logp, float* entropy, float* logsumexp,
                          int64_t chunk_rows) {
  for (float* output : {logp, entropy, logsumexp})
    if (output != nullptr) std::fill(output, output + linear.T, 0.0f);
  for_softmax_rows(linear, tokens, logp, logsumexp, chunk_rows, [&](const RowTokens& chunk, const RowSoftmax* softmax) {
    write_token_logprob(chunk, softmax, linear.temperature, logp, entropy, logsumexp);
  });
}

void linear_token_logprob_backward(const Linear& linear, const RowTokens& tokens, const float* logsumexp,
                                   const float* entropy, const float* grad_logp, const float* grad_entropy,
                                   const LinearGradients& gradients, int64_t chunk_rows) {
  const auto take_given = [&](const RowTokens& chunk, RowSoftmax* softmax) {
    for (int64_t i = 0; i < chunk.count && logsumexp != nullptr; ++i) {
      const int32_t t = chunk.t[chunk.start[i]];
      softmax[i] = with_given(softmax[i], scale_of_row(linear.temperature, chunk.row[i]), logsumexp[t],
                              entropy == nullptr ? nullptr : entropy + t);
    }
  };
  for_gradient_rows(linear, tokens, nullptr, grad_logp, grad_entropy, gradients, chunk_rows, take_given);
}

namespace {

// The same of the whole vocabulary, from logp and logsumexp of rows without sets: one product for those that have one.
void full_token_logprob(Linear linear, const RowTokens& tokens, const float* logp, const float* logsumexp,
                        float* full_logp,       // [T]
                        float* full_logsumexp,  // [T], may be null
                        int64_t chunk_rows) {
  std::copy(logp, logp + linear.T, full_logp);
  if (full_logsumexp != nullptr) std::copy(logsumexp, logsumexp + linear.T, full_logsumexp);
  if (linear.kept.start == nullptr) return;
  Scratch<int32_t> split(split_scratch(linear.T));
  const RowSplit rows = split_rows(tokens, linear.kept, split.data());
  linear.kept = {};
  for_softmax_chunks(linear, rows.kept, full_logp, chunk_rows, [&](const RowTokens& chunk, const RowSoftmax* softmax) {
    write_token_logprob(chunk, softmax, linear.temperature, full_logp, nullptr, full_logsumexp);
  });
}

int run(const grpo_linear_token_logprob_args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_full(args)) return status;
  Linear linear = linear_of(args, axes);
  linear.kept_logits = data<float>(args.logits);
  Scratch<int32_t> scratch(row_tokens_scratch(linear.T));
  const bool full = args.full_logp != nullptr || args.full_logsumexp != nullptr;
  const auto memory = [&](const DLTensor* given, bool needed) { return given == nullptr && needed ? linear.T : 0; };
  Scratch<float> own_logp(memory(args.logp, true)), own_full_logp(memory(args.full_logp, full));
  Scratch<float> own_logsumexp(memory(args.logsumexp, args.full_logsumexp != nullptr));
  const RowTokens tokens =
      row_tokens(data<int32_t>(args.row), data<uint8_t>(args.mask), scratch.data(), linear.T, linear.R);
  if (const int status = check_named_rows(args, axes, linear.kept, tokens)) return status;
  float* logp = args.logp == nullptr ? own_logp.data() : data<float>(args.logp);
  float* logsumexp = args.full_logsumexp != nullptr && args.logsumexp == nullptr ? own_logsumexp.data()
                                                                                 : data<float>(args.logsumexp);
  linear_token_logprob(linear, tokens, logp, data<float>(args.entropy), logsumexp, args.chunk_rows);
  if (full)
    full_token_logprob(linear, tokens, logp, logsumexp,
                       args.full_logp == nullptr ? own_full_logp.data() : data<float>(args.full_logp),
                       data<float>(args.full_logsumexp), args.chunk_rows);
  return GRPO_OK;
}

int run(const grpo_linear_token_logprob_backward_args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_entropy(args.entropy, args.grad_entropy)) return status;
  Linear linear = linear_of(args, axes);
  linear.logits = data<float>(args.logits);
  const float *grad_logp = data<float>(args.grad_logp), *grad_entropy = data<float>(args.grad_entropy);
  Scratch<int32_t> scratch(row_tokens_scratch(linear.T));
  Scratch<uint8_t> has_gradient(linear.T);
  const RowTokens tokens =
      tokens_with_gradient(data<int32_t>(args.row), data<uint8_t>(args.mask), grad_logp, grad_entropy,
                           has_gradient.data(), scratch.data(), linear.T, linear.R);
  if (const int status = check_named_rows(args, axes, linear.kept, tokens)) return status;
  LinearGradients gradients = linear_gradients_of(args);
  gradients.scale = args.grad_scale;
  linear_token_logprob_backward(linear, tokens, data<float>(args.logsumexp),
                                grad_entropy == nullptr ? nullptr : data<float>(args.entropy), grad_logp, grad_entropy,
                                gradients, args.chunk_rows);
  return GRPO_OK;
}

namespace forward {
using Args = grpo_linear_token_logprob_args;
const grpo_field kFields[] = {
    GRPO_IN(hidden, "f32|bf16|f16[R,D] strided"),
    GRPO_IN(head, "f32|bf16|f16[V,D] strided"),
    GRPO_IN(head_bias, "f32|bf16|f16[V] ?"),
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
    GRPO_OUT(logits, "f32[R,V] asked"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(vocab_start, "integer? = null 0..2147483647"),
    GRPO_OPT(chunk_rows, "integer? = null >= 1"),
    GRPO_OPT(full, "boolean = false"),
};
}  // namespace forward

namespace backward {
using Args = grpo_linear_token_logprob_backward_args;
const grpo_field kFields[] = {
    GRPO_IN(hidden, "f32|bf16|f16[R,D] strided"),
    GRPO_IN(head, "f32|bf16|f16[V,D] strided"),
    GRPO_IN(head_bias, "f32|bf16|f16[V] ?"),
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
    GRPO_IN(logits, "f32[R,V] ?"),
    GRPO_OUT(grad_hidden, "~hidden[R,D] strided"),
    GRPO_OUT(grad_head, "~head[V,D] strided accumulates"),
    GRPO_OUT(grad_head_bias, "~head_bias[V] accumulates if head_bias"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(vocab_start, "integer? = null 0..2147483647"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
    GRPO_OPT(accumulate, "boolean = false"),
    GRPO_OPT(chunk_rows, "integer? = null >= 1"),
    GRPO_OPT(precision, "enum high|standard"),
};
}  // namespace backward

}  // namespace

GRPO_OPERATION_BY(logits_path, kLinearTokenLogprob, linear_token_logprob, forward::kFields);
GRPO_OPERATION_BY(logits_path, kLinearTokenLogprobBackward, linear_token_logprob_backward, backward::kFields);

}  // namespace grpo
