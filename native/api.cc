// The list of operations, and the one exported symbol of the C interface.
#include "operation.h"

namespace grpo {

void last_error(grpo_error* error);
int defaults(const char* operation, void* args, grpo_objective* objective);

extern const grpo_operation kGroupAdvantage, kMoments, kStandardize, kTokenLogprob,
    kTokenLogprobBackward, kMergeTokenLogprob, kPolicyLoss, kPolicyLossFromLogits,
    kLinearPolicyLoss, kLinearPolicyLossPlan, kLinearTokenLogprob, kLinearTokenLogprobBackward,
    kTreeLayout, kPrefixAttention, kPrefixAttentionBackward, kSelectRollouts,
    kSelectTokens, kMaskIndex, kGatherRows, kScatterRows,
    kSequenceSum, kSequenceExpand, kGroupBy, kConvert,
    kDiscountedSum, kGaussianLogprob, kGaussianLogprobBackward;

namespace {

const grpo_operation* const kOperations[] = {
    &kGroupAdvantage,
    &kMoments,
    &kStandardize,
    &kTokenLogprob,
    &kTokenLogprobBackward,
    &kMergeTokenLogprob,
    &kPolicyLoss,
    &kPolicyLossFromLogits,
    &kLinearPolicyLoss,
    &kLinearPolicyLossPlan,
    &kLinearTokenLogprob,
    &kLinearTokenLogprobBackward,
    &kTreeLayout,
    &kPrefixAttention,
    &kPrefixAttentionBackward,
    &kSelectRollouts,
    &kSelectTokens,
    &kMaskIndex,
    &kGatherRows,
    &kScatterRows,
    &kSequenceSum,
    &kSequenceExpand,
    &kGroupBy,
    &kConvert,
    &kDiscountedSum,
    &kGaussianLogprob,
    &kGaussianLogprobBackward,
};

template <class Args, const grpo_operation& Operation>
int call(const Args* args, void* stream) {
  return Operation.run(args, stream);
}

const grpo_api kApi = {
    .size = sizeof(grpo_api),
    .version = GRPO_API_VERSION,
    .backend = "cpu",
    .operations = kOperations,
    .operation_count = sizeof kOperations / sizeof kOperations[0],
    .last_error = last_error,
    .defaults = defaults,
    .group_advantage = call<grpo_group_advantage_args, kGroupAdvantage>,
    .moments = call<grpo_moments_args, kMoments>,
    .standardize = call<grpo_standardize_args, kStandardize>,
    .token_logprob = call<grpo_token_logprob_args, kTokenLogprob>,
    .token_logprob_backward = call<grpo_token_logprob_backward_args, kTokenLogprobBackward>,
    .merge_token_logprob = call<grpo_merge_token_logprob_args, kMergeTokenLogprob>,
    .policy_loss = call<grpo_policy_loss_args, kPolicyLoss>,
    .policy_loss_from_logits = call<grpo_policy_loss_from_logits_args, kPolicyLossFromLogits>,
    .linear_policy_loss = call<grpo_linear_policy_loss_args, kLinearPolicyLoss>,
    .linear_policy_loss_plan = call<grpo_linear_policy_loss_plan_args, kLinearPolicyLossPlan>,
    .linear_token_logprob = call<grpo_linear_token_logprob_args, kLinearTokenLogprob>,
    .linear_token_logprob_backward = call<grpo_linear_token_logprob_backward_args, kLinearTokenLogprobBackward>,
    .tree_layout = call<grpo_tree_layout_args, kTreeLayout>,
    .prefix_attention = call<grpo_prefix_attention_args, kPrefixAttention>,
    .prefix_attention_backward = call<grpo_prefix_attention_backward_args, kPrefixAttentionBackward>,
    .select_rollouts = call<grpo_select_rollouts_args, kSelectRollouts>,
    .select_tokens = call<grpo_select_tokens_args, kSelectTokens>,
    .mask_index = call<grpo_mask_index_args, kMaskIndex>,
    .gather_rows = call<grpo_gather_rows_args, kGatherRows>,
    .scatter_rows = call<grpo_scatter_rows_args, kScatterRows>,
    .sequence_sum = call<grpo_sequence_sum_args, kSequenceSum>,
    .sequence_expand = call<grpo_sequence_expand_args, kSequenceExpand>,
    .group_by = call<grpo_group_by_args, kGroupBy>,
    .convert = call<grpo_convert_args, kConvert>,
    .discounted_sum = call<grpo_discounted_sum_args, kDiscountedSum>,
    .gaussian_logprob = call<grpo_gaussian_logprob_args, kGaussianLogprob>,
    .gaussian_logprob_backward = call<grpo_gaussian_logprob_backward_args, kGaussianLogprobBackward>,
};

}  // namespace
}  // namespace grpo

const grpo_api* grpo_kernels_api(uint32_t version) { return version <= GRPO_API_VERSION ? &grpo::kApi : nullptr; }
