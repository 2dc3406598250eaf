// Rejection of tokens or rollouts by how far the trainer and the inference engine differ on them: verl's rollout_rs.
import { type ImportanceRejection, importanceWeight } from '../../importance_weight.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { sequenceSum } from '../../sequence_sum.js'
import type { Context } from '../step/context.js'
import { known, sampledLogp } from './known.js'
import { oncePerSample } from './once_per_batch.js'

export const within = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high)

/** Of importanceWeight. @throws RangeError for a token that counts and has NaN in one of the columns of log-probabilities */
export function enginePair(c: Context) {
  const rolloutLogp = known(c, 'rolloutLogp')
  return { oldLogp: sampledLogp(c), rolloutLogp, sequenceStart: c.sequenceStart, mask: c.mask }
}

export const perSequence = ({ sequenceStart, mask }: Context, x: Float32Array, mean: boolean) =>
  sequenceSum({ x, sequenceStart, mask }, { mean }).x.data
export const perToken = ({ sequenceStart, mask }: Context, x: Float32Array) =>
  sequenceExpand({ x, sequenceStart, mask }).x.data

export type RejectionStatistic = ImportanceRejection
/** 'token_k1' and so on. */
export const statistic = /^(token|seq_sum|seq_mean|seq_max)_(k[123])$/

/** What lies outside of the bounds is masked. k1 is held between log low and log high, low being 1 / high by default: high is then at least 1. */
export interface Rejection {
  readonly statistic: RejectionStatistic
  readonly low?: number
  readonly high: number
}

/**
 * 1 = kept; 0 under the mask. The log-ratio of each token is held within ±20, before it is summed: as in verl. What the
 * current policy makes NaN is kept, and shows in the loss.
 */
export function accepted(c: Context, { statistic: reject, low: rejectLow, high: rejectHigh }: Rejection): Uint8Array {
  const whole = { reject, rejectLow: rejectLow ?? null, rejectHigh }
  return oncePerSample(
    c,
    `reject ${JSON.stringify(whole)}`,
    () => importanceWeight(enginePair(c), { ...whole, out: { weight: null, stats: null } }).mask.data,
  )
}
