import type { ArrayInput } from './arrays/input.js'
import { mergeStats } from './call/merge_stats.js'

/** The numbers in the `stats` of importanceWeight. Fractions and means are over the unmasked tokens. */
export interface ImportanceStats {
  /** Unmasked tokens. */
  tokens: number
  /** Mean of |oldLogp - rolloutLogp|, in nats: TRL's sampling_logp_difference. */
  logpDifference: number
  /** The largest of them; 0 without tokens. */
  logpDifferenceMax: number
  /** Mean of rolloutLogp - oldLogp: an estimate of KL(inference engine || trainer). */
  kl: number
  /** Of the ratio of `level`, before bounds and gate. */
  ratioMean: number
  /** Infinity without tokens. */
  ratioMin: number
  /** -Infinity without tokens. */
  ratioMax: number
  /** Of the weights, with bounds and gate, before `normalize`. */
  weightMean: number
  /** (sum of weights)^2 / (tokens × sum of weights^2): 1 where all are equal, 0 without a weight. */
  effectiveSampleSize: number
  /** Tokens whose ratio is outside of its bounds: cutFractionLow + cutFractionHigh. Those of a closed gate are not counted. */
  cutFraction: number
  cutFractionLow: number
  cutFractionHigh: number
  /** Tokens for which the gate is closed. */
  gatedFraction: number
  /** Tokens that `reject` masks. */
  rejectedFraction: number
  /** Unmasked tokens with a NaN or an infinity among their inputs, or as their weight. */
  nonFinite: number
}

// The order of `stats`, as native/loss/importance.h numbers it.
export const importanceStatNames = [
  'tokens',
  'logpDifference',
  'logpDifferenceMax',
  'kl',
  'ratioMean',
  'ratioMin',
  'ratioMax',
  'weightMean',
  'weightSquare',
  'cutFractionLow',
  'cutFractionHigh',
  'gatedFraction',
  'rejectedFraction',
  'nonFinite',
] as const satisfies (keyof ImportanceStats | 'weightSquare')[]

/**
 * Names the statistics of importance weights, and merges those of any number of micro-batches or ranks: counts and sums
 * are added, extremes compared, and means taken over the tokens of all of them.
 *
 * @param stats  f64[14] each, as importanceWeight returns them; it waits for those on a device, which `read` does without
 *               blocking this thread
 * @returns the numbers; without tokens means and fractions are 0, ratioMin is Infinity and ratioMax -Infinity
 * @throws TypeError or RangeError if an argument is no such array
 * @example
 * import { importanceStats, importanceWeight } from 'grpo-kernels'
 *
 * const oldLogp = new Float32Array([-1, -2])
 * const [first, second] = [-1.5, -4].map((start) =>
 *   importanceWeight({ oldLogp, rolloutLogp: new Float32Array([start, -2]), sequenceStart: new Int32Array([0, 2]) }),
 * )
 * const { ratioMax, weightMean, cutFraction } = importanceStats(first.stats, second.stats) // of both micro-batches
 * console.log(ratioMax.toFixed(3), weightMean.toFixed(3), cutFraction)
 */
export function importanceStats(...stats: ArrayInput<'f64'>[]): ImportanceStats {
  const at = mergeStats('importanceStats', importanceStatNames, stats)
  const tokens = at('tokens')
  const mean = (name: (typeof importanceStatNames)[number]) => (tokens === 0 ? 0 : at(name) / tokens)
  const squares = tokens * at('weightSquare')
  return {
    tokens,
    logpDifference: mean('logpDifference'),
    logpDifferenceMax: at('logpDifferenceMax'),
    kl: mean('kl'),
    ratioMean: mean('ratioMean'),
    ratioMin: at('ratioMin'),
    ratioMax: at('ratioMax'),
    weightMean: mean('weightMean'),
    effectiveSampleSize: squares === 0 ? 0 : at('weightMean') ** 2 / squares,
    cutFraction: mean('cutFractionLow') + mean('cutFractionHigh'),
    cutFractionLow: mean('cutFractionLow'),
    cutFractionHigh: mean('cutFractionHigh'),
    gatedFraction: mean('gatedFraction'),
    rejectedFraction: mean('rejectedFraction'),
    nonFinite: at('nonFinite'),
  }
}
