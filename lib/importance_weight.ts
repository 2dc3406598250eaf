import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface ImportanceWeightInputs {
  oldLogp: ArrayInput<'f32'>
  rolloutLogp: ArrayInput<'f32'>
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

/** Whose ratio: the token's, the product over the tokens of its sequence, or their geometric mean. */
export type ImportanceLevel = 'token' | 'sequence' | 'sequence_mean'

/** Of a token; of the sum, the mean or the maximum over its sequence. */
export type ImportanceRejection = `${'token' | 'seq_sum' | 'seq_mean'}_${'k1' | 'k2' | 'k3'}` | `seq_max_${'k2' | 'k3'}`

export interface ImportanceWeightOptions extends CallOptions<'weight' | 'mask' | 'stats'> {
  level?: ImportanceLevel
  outside?: 'bound' | 'zero' | 'none'
  low?: number | null
  high?: number | null
  gate?: ImportanceLevel | null
  gateLow?: number | null
  gateHigh?: number | null
  normalize?: boolean
  reject?: ImportanceRejection | null
  rejectLow?: number | null
  rejectHigh?: number | null
}

export const matches: Matches<'importanceWeight', ImportanceWeightInputs, ImportanceWeightOptions> = true

/**
 * Importance weights of the trainer over the inference engine that sampled, and rejection of what the two disagree on.
 *
 *   d[t]   = oldLogp[t] - rolloutLogp[t]
 *   log[t] = d[t];  or, over the unmasked tokens of t's sequence, sum d ('sequence') or mean d ('sequence_mean')
 *   ratio  = exp(min(max(log, -20), 20))
 *   weight = ratio, outside of [low, high] the nearer bound ('bound') or 0 ('zero'), 0 where the gate is closed
 *   mask   = mask, 0 where the statistic `reject` is outside of its bounds
 *
 * The gate is closed where the ratio of its level is outside of [gateLow, gateHigh]. `normalize` divides the weights by
 * their mean: over tokens, or, for a level of sequences, over the means of those sequences that have unmasked tokens;
 * not where that mean is 0. Statistics of rejection are taken of k1 = -d, k2 = d^2 / 2 or k3 = exp(d) - 1 - d, d held
 * within 20 of 0 for each token, before any sum. Nothing of it depends on the weights, which know nothing of it in turn:
 * they are those before rejection. Several statistics are several calls, each with the mask of the one before.
 *
 * A masked token has weight 0 and mask 0, and what stands there is not looked at. A NaN is outside of no bound: it is the
 * weight of its token, or, for a level of sequences, of all in its sequence, and its token is not rejected. `stats` are
 * sums over unmasked tokens, and of the weights before normalisation: importanceStats names them.
 *
 * Accuracy: log-ratios of tokens and of sequences are float32, sums and exponentials float64; weights are what these give,
 * rounded once.
 *
 * @param inputs.oldLogp        f32[T]    log-probabilities of the trainer's policy as it was when it sampled, in nats
 * @param inputs.rolloutLogp    f32[T]    of the inference engine
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; ends with T
 * @param inputs.mask           u8[T]     0 = does not count
 * @param options.level      whose ratio is the weight: the token's, the product over its sequence, or their geometric mean
 * @param options.outside    what becomes of a ratio outside of its bounds; "none": they are not looked at
 * @param options.low        of the ratio; null: none
 * @param options.high       of the ratio; null: none
 * @param options.gate       the level of the gate; null: none, and its bounds are not looked at
 * @param options.gateLow    of the gate's ratio; null: none
 * @param options.gateHigh   of the gate's ratio; null: none
 * @param options.normalize  true: divide by the mean
 * @param options.reject     the statistic; null: nothing is rejected, and its bounds are not looked at
 * @param options.rejectLow  of k1 alone, which is held between log rejectLow and log rejectHigh; null: 1 / rejectHigh
 * @param options.rejectHigh of the statistic, of k1 as a ratio: at least 1 without rejectLow
 * @returns weight f32[T], mask u8[T], 1 = counts and is kept, stats f64[14]
 * @throws RangeError if sequenceStart does not rise from 0 to T, or if a lower bound is above its upper one
 * @see TIS: fengyao.notion.site/off-policy-rl; the statistics of rejection: rollout_rs of verl
 * @example
 * import { importanceStats, importanceWeight } from 'grpo-kernels'
 *
 * const inputs = {
 *   oldLogp: new Float32Array([-1, -1, -2, -1]),
 *   rolloutLogp: new Float32Array([-1, -3, -2, -1.5]),
 *   sequenceStart: new Int32Array([0, 2, 4]),
 * }
 * const { weight, mask, stats } = importanceWeight(inputs, { high: 2, reject: 'seq_mean_k1', rejectHigh: 2 })
 * console.log(weight.data, mask.data, importanceStats(stats).cutFraction)
 */
export const importanceWeight = operation((inputs: ImportanceWeightInputs, options: ImportanceWeightOptions = {}) =>
  call('importanceWeight', inputs, options),
)
