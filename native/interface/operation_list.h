// The operations of the C interface, in the order of grpo_api: name, and the variable of the descriptor. Both backends
// build their tables from this list.
#pragma once

#include "interface/operation.h"

#define GRPO_FIRST_OPERATIONS(X) \
  X(group_advantage, kGroupAdvantage) \
  X(moments, kMoments) \
  X(standardize, kStandardize) \
  X(token_logprob, kTokenLogprob) \
  X(token_logprob_backward, kTokenLogprobBackward) \
  X(merge_token_logprob, kMergeTokenLogprob) \
  X(policy_loss, kPolicyLoss) \
  X(policy_loss_from_logits, kPolicyLossFromLogits) \
  X(linear_policy_loss, kLinearPolicyLoss) \
  X(linear_policy_loss_plan, kLinearPolicyLossPlan) \
  X(linear_token_logprob, kLinearTokenLogprob) \
  X(linear_token_logprob_backward, kLinearTokenLogprobBackward) \
  X(tree_layout, kTreeLayout) \
  X(prefix_attention, kPrefixAttention) \
  X(prefix_attention_backward, kPrefixAttentionBackward) \
  X(select_rollouts, kSelectRollouts) \
  X(select_tokens, kSelectTokens) \
  X(mask_index, kMaskIndex) \
  X(gather_rows, kGatherRows) \
  X(scatter_rows, kScatterRows) \
  X(sequence_sum, kSequenceSum) \
  X(sequence_expand, kSequenceExpand) \
  X(group_by, kGroupBy) \
  X(convert, kConvert) \
  X(discounted_sum, kDiscountedSum) \
  X(gaussian_logprob, kGaussianLogprob) \
  X(gaussian_logprob_backward, kGaussianLogprobBackward)
// Their pointers stand after grpo_api's `explain`, since fields are only ever appended. New operations come here, last.
#define GRPO_LATER_OPERATIONS(X) \
  X(gaussian_kl, kGaussianKl) \
  X(gaussian_kl_backward, kGaussianKlBackward) \
  X(log_ratio, kLogRatio) \
  X(importance_weight, kImportanceWeight)

#define GRPO_OPERATIONS(X) GRPO_FIRST_OPERATIONS(X) GRPO_LATER_OPERATIONS(X)

#define GRPO_DECLARE(name, variable) extern const grpo_operation variable;
#define GRPO_LISTED(name, variable) &variable,
#define GRPO_CALL(name, variable) .name = call<grpo_##name##_args, variable>,

namespace grpo {

// Null, with an error, for a name that is none.
const grpo_operation* find_operation(const grpo_api& api, const char* name);
void last_error(grpo_error* error);
int defaults(const char* operation, void* args, grpo_objective* objective);
int explain(const grpo_api& api, const char* operation, const void* args, grpo_path* path);

template <class Args, const grpo_operation& Operation>
int call(const Args* args, void* stream) {
  return Operation.run(args, stream);
}

// The table of a backend, `api`, whose descriptors are in scope where it is used.
#define GRPO_API(api, name)                                                       \
  {.size = sizeof(grpo_api),                                                 \
   .version = GRPO_API_VERSION,                                              \
   .backend = name,                                                          \
   .operations = kOperations,                                                \
   .operation_count = sizeof kOperations / sizeof kOperations[0],            \
   .last_error = last_error,                                                 \
   .defaults = defaults,                                                     \
   GRPO_FIRST_OPERATIONS(GRPO_CALL)                                          \
   .explain = [](const char* operation, const void* args, grpo_path* path) { \
     return grpo::explain(api, operation, args, path);                       \
   },                                                                        \
   GRPO_LATER_OPERATIONS(GRPO_CALL)}

}  // namespace grpo
