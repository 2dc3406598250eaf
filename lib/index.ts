export type { DType, TypedArray } from './addon/dtypes.js'
export { CudaError, type GrpoError } from './addon/errors.js'
export { array, type HostArray } from './arrays/array.js'
export type { ArrayInput } from './arrays/input.js'
export type { KernelPath } from './call/run.js'
export { fromBf16, fromF16, toBf16, toF16 } from './convert.js'
export { cpu } from './cpu.js'
export * from './cuda.js'
export { type DiscountedSumInputs, type DiscountedSumOptions, discountedSum } from './discounted_sum.js'
export { type GatherRowsInputs, gatherRows } from './gather_rows.js'
export {
  type GaussianKlBackwardInputs,
  type GaussianKlBackwardOptions,
  type GaussianKlInputs,
  type GaussianKlOptions,
  gaussianKl,
  gaussianKlBackward,
} from './gaussian_kl.js'
export {
  type GaussianLogprobBackwardInputs,
  type GaussianLogprobBackwardOptions,
  type GaussianLogprobInputs,
  type GaussianLogprobOptions,
  gaussianLogprob,
  gaussianLogprobBackward,
} from './gaussian_logprob.js'
export { type GroupAdvantageInputs, type GroupAdvantageOptions, groupAdvantage } from './group_advantage.js'
export { groupBy } from './group_by.js'
export { type ImportanceStats, importanceStats } from './importance_stats.js'
export {
  type ImportanceLevel,
  type ImportanceRejection,
  type ImportanceWeightInputs,
  type ImportanceWeightOptions,
  importanceWeight,
} from './importance_weight.js'
export {
  type LinearPolicyLossInputs,
  type LinearPolicyLossOptions,
  type LinearPolicyLossSizes,
  linearPolicyLoss,
} from './linear_policy_loss.js'
export {
  type LinearTokenLogprobBackwardInputs,
  type LinearTokenLogprobBackwardOptions,
  type LinearTokenLogprobInputs,
  type LinearTokenLogprobOptions,
  linearTokenLogprob,
  linearTokenLogprobBackward,
} from './linear_token_logprob.js'
export { type LogRatioInputs, type LogRatioOptions, logRatio } from './log_ratio.js'
export { type LossStats, lossStats } from './loss_stats.js'
export { maskIndex } from './mask_index.js'
export { type MergeTokenLogprobOptions, mergeTokenLogprob, type TokenLogprobPart } from './merge_token_logprob.js'
export { type Moments, type MomentsInputs, type MomentsOptions, mergeMoments, moments } from './moments.js'
export type { Objective } from './objective.js'
export { type PolicyInputs, type PolicyLossInputs, type PolicyLossOptions, policyLoss } from './policy_loss.js'
export {
  type PolicyLossFromLogitsInputs,
  type PolicyLossFromLogitsOptions,
  policyLossFromLogits,
} from './policy_loss_from_logits.js'
export {
  type PrefixAttentionBackwardInputs,
  type PrefixAttentionBackwardOptions,
  type PrefixAttentionInputs,
  type PrefixAttentionOptions,
  prefixAttention,
  prefixAttentionBackward,
} from './prefix_attention.js'
export * from './prefix_layout.js'
export { type ScatterRowsInputs, type ScatterRowsOptions, scatterRows } from './scatter_rows.js'
export { type SelectRolloutsInputs, type SelectRolloutsOptions, selectRollouts } from './select_rollouts.js'
export { type SelectTokensInputs, type SelectTokensOptions, selectTokens } from './select_tokens.js'
export { type SequenceExpandInputs, type SequenceExpandOptions, sequenceExpand } from './sequence_expand.js'
export { type SequenceSumInputs, type SequenceSumOptions, sequenceSum } from './sequence_sum.js'
export { type StandardizeInputs, type StandardizeOptions, standardize } from './standardize.js'
export {
  type TokenLogprobBackwardInputs,
  type TokenLogprobBackwardOptions,
  type TokenLogprobInputs,
  type TokenLogprobOptions,
  tokenLogprob,
  tokenLogprobBackward,
} from './token_logprob.js'
export {
  type HostIntegers,
  type PackedSequences,
  type TokenTree,
  type TokenTreeOptions,
  tokenTree,
} from './token_tree.js'
export { type Forest, type Layout, treeLayout } from './tree_layout.js'
