// Rejection of tokens or rollouts by how far the trainer and the inference engine differ on them: verl's rollout_rs.
import { sequenceExpand } from '../../sequence_expand.js'
import { sequenceSum } from '../../sequence_sum.js'
import type { Context } from '../step/context.js'
import { known, sampledLogp } from './known.js'
import { difference, float32Map } from './map_tokens.js'
import { oncePerSample } from './once_per_batch.js'

export const within = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high)

/** oldLogp - rolloutLogp. @throws RangeError for a token that counts and has NaN in one of these columns */
export function engineLogRatio(c: Context): Float32Array {
  const rolloutLogp = known(c, 'rolloutLogp')
  return difference(sampledLogp(c), rolloutLogp)
}

export const perSequence = ({ sequenceStart, mask }: Context, x: Float32Array, mean: boolean) =>
  sequenceSum({ x, sequenceStart, mask }, { mean }).x.data
export const perToken = ({ sequenceStart, mask }: Context, x: Float32Array) =>
  sequenceExpand({ x, sequenceStart, mask }).x.data

/** d is the log of the ratio. */
const estimators = { k1: (d: number) => -d, k2: (d: number) => d ** 2 / 2, k3: (d: number) => Math.expm1(d) - d }
export type RejectionStatistic =
  | `${'token' | 'seq_sum' | 'seq_mean'}_${keyof typeof estimators}`
  | `seq_max_${'k2' | 'k3'}`
/** 'token_k1' and so on. */
export const statistic = /^(token|seq_sum|seq_mean|seq_max)_(k[123])$/

/** What lies outside of the bounds is masked. k1 is held between log low and log high, low being 1 / high by default: high is then at least 1. */
export interface Rejection {
  readonly statistic: RejectionStatistic
  readonly low?: number
  readonly high: number
}

function largest({ sequenceStart, mask, N }: Context, x: Float32Array): Float32Array {
  return Float32Array.from({ length: N }, (_, i) => {
    let most = Number.NEGATIVE_INFINITY
    for (let t = sequenceStart[i] as number; t < (sequenceStart[i + 1] as number); t++) {
      if (mask?.[t] !== 0) most = Math.max(most, x[t] as number)
    }
    return most
  })
}

/**
 * 1 = kept. The log-ratio of each token is held within ±20, before it is summed: as in verl. What the current policy
 * makes NaN is kept, and shows in the loss.
 */
export function accepted(c: Context, rejection: Rejection): Uint8Array {
  const { statistic: name, low, high } = rejection
  return oncePerSample(c, `reject ${name} ${low} ${high}`, () => acceptedNow(c, rejection))
}

function acceptedNow(c: Context, { statistic: name, low, high }: Rejection): Uint8Array {
  const [, level, kind] = statistic.exec(name) as unknown as [string, string, keyof typeof estimators]
  const estimate = estimators[kind]
  const x = float32Map(engineLogRatio(c), (d) => estimate(within(d, -20, 20)))
  const sequences = () => (level === 'seq_max' ? largest(c, x) : perSequence(c, x, level === 'seq_mean'))
  const values = level === 'token' ? x : perToken(c, sequences())
  const [least, most] = kind === 'k1' ? [Math.log(low ?? 1 / high), Math.log(high)] : [Number.NEGATIVE_INFINITY, high]
  const result = new Uint8Array(values.length)
  for (let t = 0; t < values.length; t++) {
    const value = values[t] as number
    result[t] = (value >= least && value <= most) || (Number.isNaN(value) && c.mask?.[t] !== 0) ? 1 : 0
  }
  return result
}
