// The policy loss from hidden states, with its gradients, without the logits. With token-level ratios a chunk of rows
// goes through three products: its logits, then, these having become their own gradient in place, gradHidden and
// gradHead. The ratio of a sequence needs the log-probabilities of all its rows first: a pass of one product,
// policy_loss, and the three products for the rows that have a gradient.
#include "linear/linear_policy_loss.h"

#include "linear/kept.h"
#include "loss/policy_loss_args.h"

namespace grpo {

void lay_out(const LossShape& shape, Arena& arena, LossMemory& memory) {
  Objective objective{};
  objective.ratio = shape.ratio;
  arena.take(memory.rows, row_tokens_scratch(shape.T));
  arena.take(memory.count, shape.S);
  arena.take(memory.sums, policy_loss_scratch(shape.T, shape.S, objective));
  arena.take(memory.logp, shape.own_logp ? shape.T : 0);
  arena.take(memory.entropy, shape.own_entropy ? shape.T : 0);
  arena.take(memory.grad_logp, shape.gradient ? shape.T : 0);
  arena.take(memory.grad_entropy, shape.gradient ? shape.T : 0);
  arena.take(memory.has_gradient, shape.gradient && shape.ratio != Ratio::kToken ? shape.T : 0);
}

namespace {

using Args = grpo_linear_policy_loss_args;

struct Call {
  const Linear& linear;
  const RowTokens& tokens;
  const LossInputs& in;  // logp and entropy are the two arrays below
  const Denominators& denominators;
  const Objective& objective;
  float* logp;          // [T]
  float* entropy;       // [T]
  float* grad_logp;     // [T], null without gradients
  float* grad_entropy;  // [T], null without an entropy bonus
  const LinearGradients& gradients;
  int64_t chunk_rows;
};

void one_pass(const Call& call) {
  std::fill(call.logp, call.logp + call.in.T, 0.0f);  // what masked tokens keep
  std::fill(call.entropy, call.entropy + call.in.T, 0.0f);
  const auto take_coefficients = [&](const RowTokens& chunk, const RowSoftmax* softmax) {
    write_token_logprob(chunk, softmax, call.linear.temperature, call.logp, call.entropy, nullptr);
    for (int32_t j = chunk.start[0]; j < chunk.start[chunk.count]; ++j)
      token_gradient(call.in, call.denominators, chunk.t[j], call.grad_logp, call.grad_entropy, call.objective);
  };
  for_gradient_rows(call.linear, call.tokens, call.logp, call.grad_logp, call.grad_entropy, call.gradients,
                    call.chunk_rows, take_coefficients);
}

void second_pass(const Call& call, const int32_t* row, const LossMemory& memory) {
  const RowTokens tokens = tokens_with_gradient(row, call.in.mask, call.grad_logp, call.grad_entropy,
                                                memory.has_gradient, memory.rows, call.in.T, call.linear.R);
  linear_token_logprob_backward(call.linear, tokens, nullptr, nullptr, call.grad_logp, call.grad_entropy,
                                call.gradients, call.chunk_rows);
}

int run(const Args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_objective(args, true)) return status;
  const Objective objective = objective_of(args);
  const Linear linear = linear_of(args, axes);
  const LinearGradients gradients = linear_gradients_of(args);
  const int32_t* row = data<int32_t>(args.row);
  LossInputs in = loss_inputs(args, axes);
  const LossShape shape{.T = linear.T,
                        .R = linear.R,
                        .S = in.S,
                        .ratio = objective.ratio,
                        .gradient = args.grad_hidden != nullptr || args.grad_head != nullptr ||
                                    args.grad_head_bias != nullptr,
                        .own_logp = args.logp == nullptr,
                        .own_entropy = args.entropy == nullptr};
  const Laid<LossShape, LossMemory> scratch(shape);
  const LossMemory& memory = *scratch;
  const RowTokens tokens = row_tokens(row, in.mask, memory.rows, linear.T, linear.R);
  if (const int status = check_named_rows(args, axes, linear.kept, tokens)) return status;

  float* logp = args.logp != nullptr ? data<float>(args.logp) : memory.logp;
  float* entropy = args.entropy != nullptr ? data<float>(args.entropy) : memory.entropy;
  in.logp = logp;
  in.entropy = entropy;
  Denominators denominators;
  prepare_denominators(in, memory.count, denominators, objective);
  const Call call{.linear = linear,
                  .tokens = tokens,
                  .in = in,
                  .denominators = denominators,
                  .objective = objective,
                  .logp = logp,
                  .entropy = entropy,
                  .grad_logp = shape.gradient ? memory.grad_logp : nullptr,
                  .grad_entropy = shape.gradient && objective.entropy_coef != 0 ? memory.grad_entropy : nullptr,
                  .gradients = gradients,
                  .chunk_rows = args.chunk_rows};

  const bool once = in_one_pass(shape);
  if (once) one_pass(call);
  else linear_token_logprob(linear, tokens, logp, entropy, nullptr, call.chunk_rows);
  policy_loss(in, denominators, data<float>(args.loss), once ? nullptr : call.grad_logp,
              once ? nullptr : call.grad_entropy, data<double>(args.stats), memory.sums, objective);
  if (shape.gradient && !once) second_pass(call, row, memory);
  return GRPO_OK;
}

int path_of(const Args& args, const Axes& axes, Path& path) {
  if (const int status = check_objective(args, true)) return status;
  return logits_path(args, axes, path);
}

const grpo_field kFields[] = {
    GRPO_IN(hidden, "f32|bf16|f16[R,D] strided"),
    GRPO_IN(head, "f32|bf16|f16[V,D] strided"),
    GRPO_IN(head_bias, "f32|bf16|f16[V] ?"),
    GRPO_IN(token, "i32[T] vocabulary V"),
    GRPO_IN(row, "i32[T] ? below R"),
    GRPO_IN(row_temperature, "f32[R] ?"),
    GRPO_IN(kept_start, "i32[R+1] ? offsets M"),
    GRPO_IN(kept, "i32[M] ?"),
    GRPO_POLICY_INPUTS,
    GRPO_RATIO_BOUNDS,
    GRPO_OUT(loss, "f32[1]"),
    GRPO_OUT(grad_hidden, "~hidden[R,D] strided"),
    GRPO_OUT(grad_head, "~head[V,D] strided accumulates"),
    GRPO_OUT(grad_head_bias, "~head_bias[V] accumulates if head_bias"),
    GRPO_OUT(logp, "f32[T]"),
    GRPO_OUT(entropy, "f32[T]"),
    GRPO_OUT(stats, "f64[15]"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
    GRPO_OPT(accumulate, "boolean = false"),
    GRPO_OPT(chunk_rows, "integer? = null >= 1"),
    GRPO_OPT(precision, "enum high|standard"),
    GRPO_OBJECTIVE_FIELDS,
};

}  // namespace

GRPO_OPERATION_BY(path_of, kLinearPolicyLoss, linear_policy_loss, kFields);

}  // namespace grpo
