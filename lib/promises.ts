// The operations as promises: they run off the main thread and take an AbortSignal, in the way of node:fs/promises.
// Until a promise settles the caller leaves the inputs alone: a transfer of their memory cannot be seen through Node-API. Errors of the input reject, they do not throw. On device arrays
// a call is enqueued at once, in the order of the program, and the promise waits on another thread for the results.
import * as operations from './index.js'

const { later: linearPolicyLossLater, plan } = operations.linearPolicyLoss

export const discountedSum = operations.discountedSum.later
export const gatherRows = operations.gatherRows.later
export const gaussianKl = operations.gaussianKl.later
export const gaussianKlBackward = operations.gaussianKlBackward.later
export const gaussianLogprob = operations.gaussianLogprob.later
export const gaussianLogprobBackward = operations.gaussianLogprobBackward.later
export const groupAdvantage = operations.groupAdvantage.later
export const groupBy = operations.groupBy.later
export const importanceWeight = operations.importanceWeight.later
export const linearPolicyLoss = Object.assign(linearPolicyLossLater, { plan: plan.later })
export const linearTokenLogprob = operations.linearTokenLogprob.later
export const linearTokenLogprobBackward = operations.linearTokenLogprobBackward.later
export const logRatio = operations.logRatio.later
export const maskIndex = operations.maskIndex.later
export const mergeMoments = operations.mergeMoments.later
export const mergeTokenLogprob = operations.mergeTokenLogprob.later
export const moments = operations.moments.later
export const policyLoss = operations.policyLoss.later
export const policyLossFromLogits = operations.policyLossFromLogits.later
export const prefixAttention = operations.prefixAttention.later
export const prefixAttentionBackward = operations.prefixAttentionBackward.later
export const prefixLayout = operations.prefixLayout.later
export const scatterRows = operations.scatterRows.later
export const selectRollouts = operations.selectRollouts.later
export const selectTokens = operations.selectTokens.later
export const sequenceExpand = operations.sequenceExpand.later
export const sequenceSum = operations.sequenceSum.later
export const standardize = operations.standardize.later
export const tokenLogprob = operations.tokenLogprob.later
export const tokenLogprobBackward = operations.tokenLogprobBackward.later
export const tokenTree = operations.tokenTree.later
export const treeLayout = operations.treeLayout.later
