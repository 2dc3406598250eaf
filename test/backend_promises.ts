// Stands in for lib/promises.js in the runs on device arrays: see backend.ts.
import * as operations from './backend.js'

export * from '../lib/promises.js'

export const discountedSum = operations.discountedSum.later
export const gatherRows = operations.gatherRows.later
export const gaussianLogprob = operations.gaussianLogprob.later
export const gaussianLogprobBackward = operations.gaussianLogprobBackward.later
export const groupAdvantage = operations.groupAdvantage.later
export const groupBy = operations.groupBy.later
export const linearPolicyLoss = Object.assign(operations.linearPolicyLoss.later, {
  plan: operations.linearPolicyLoss.plan.later,
})
export const linearTokenLogprob = operations.linearTokenLogprob.later
export const linearTokenLogprobBackward = operations.linearTokenLogprobBackward.later
export const maskIndex = operations.maskIndex.later
export const mergeTokenLogprob = operations.mergeTokenLogprob.later
export const moments = operations.moments.later
export const policyLoss = operations.policyLoss.later
export const policyLossFromLogits = operations.policyLossFromLogits.later
export const prefixAttention = operations.prefixAttention.later
export const prefixAttentionBackward = operations.prefixAttentionBackward.later
export const scatterRows = operations.scatterRows.later
export const selectRollouts = operations.selectRollouts.later
export const selectTokens = operations.selectTokens.later
export const sequenceExpand = operations.sequenceExpand.later
export const sequenceSum = operations.sequenceSum.later
export const standardize = operations.standardize.later
export const tokenLogprob = operations.tokenLogprob.later
export const tokenLogprobBackward = operations.tokenLogprobBackward.later
