// The operations as promises: they run off the main thread and take an AbortSignal, in the way of node:fs/promises.
// Until a promise settles the caller leaves the inputs alone. Errors of the input reject, they do not throw.
import * as operations from './index.js'

export const groupAdvantage = operations.groupAdvantage.later
export const mergeTokenLogprob = operations.mergeTokenLogprob.later
export const tokenLogprob = operations.tokenLogprob.later
export const tokenLogprobBackward = operations.tokenLogprobBackward.later
export const mergeMoments = operations.mergeMoments.later
export const moments = operations.moments.later
export const standardize = operations.standardize.later
