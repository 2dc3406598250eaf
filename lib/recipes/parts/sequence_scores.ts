// Losses on one score per rollout: the scores, the way back to the tokens, and what such losses are made of. Everything
// that has a gradient gives it beside its value, in float64; the sums over tokens are kernels.
import { logRatio as differenceOf } from '../../log_ratio.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { sequenceSum } from '../../sequence_sum.js'
import type { Context } from '../step/context.js'
import { sum } from './statistics.js'

type Numbers = ArrayLike<number>

// ---- scores of rollouts ---------------------------------------------------------------------------------------------

export interface ScoreOptions {
  /** The mean over the unmasked tokens in place of the sum. */
  readonly mean?: boolean
}

/** [N] the sum over the tokens of each rollout. Without an unmasked token it is 0. */
export const scoresOf = (c: Context, x: Float32Array, options: ScoreOptions = {}): Float32Array =>
  sequenceSum({ x, sequenceStart: c.sequenceStart, mask: c.mask }, options).x.data

/** [T] the gradient at the tokens, from that of scoresOf with the same options. */
export const backToTokens = (c: Context, gradScore: Numbers, options: ScoreOptions = {}): Float32Array =>
  sequenceExpand({ x: Float32Array.from(gradScore), sequenceStart: c.sequenceStart, mask: c.mask }, options).x.data

/** The mean over all unmasked tokens; 0 if there are none. */
export const tokenMean = (c: Context, x: Float32Array): number =>
  sequenceSum({ x, sequenceStart: Int32Array.of(0, c.T), mask: c.mask }, { mean: true }).x.data[0] as number

/** [T] a number for each token, and 0 where masked, so that what stands under the mask goes no further. */
export function perToken(c: Context, value: (t: number) => number): Float32Array {
  const result = new Float32Array(c.T)
  for (let t = 0; t < c.T; t++) if (c.mask?.[t] !== 0) result[t] = value(t)
  return result
}

/** [T] logp - reference. Sums of it keep more digits than the difference of two sums. */
export function logRatio(c: Context, reference: Float32Array): Float32Array {
  const { logRatio } = differenceOf({ x: c.logp, y: reference, mask: c.mask })
  return logRatio.data as Float32Array
}

// ---- functions with gradients ---------------------------------------------------------------------------------------

export const sigmoid = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)))

/** log sigmoid(x), without overflow; its derivative is sigmoid(-x). */
export const logSigmoid = (x: number): number => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)))

/** exp(x) / sum exp(x), in float64 and without overflow. -Infinity gets 0. */
export function softmax(x: Numbers): Float64Array {
  const list = Float64Array.from(x)
  const largest = list.reduce((a, b) => Math.max(a, b), -Infinity)
  const terms = list.map((value) => Math.exp(value - largest))
  const total = sum(terms)
  return terms.map((term) => term / total)
}

/** temperature log mean exp(x / temperature), with its gradient softmax(x / temperature). There is at least one x. */
export function logMeanExp(x: Numbers, temperature: number): { value: number; gradient: Float64Array } {
  const scaled = Float64Array.from(x, (value) => value / temperature)
  const largest = scaled.reduce((a, b) => Math.max(a, b), -Infinity)
  const mean = sum(scaled.map((value) => Math.exp(value - largest))) / scaled.length
  return { value: temperature * (largest + Math.log(mean)), gradient: softmax(scaled) }
}

export interface ZScoreOptions {
  readonly ddof: number
  /** Added to the standard deviation. */
  readonly eps: number
  /** The standard deviation is a constant for the gradient. */
  readonly stopGradient?: boolean
}

/**
 * z[i] = (x[i] - mean) / (std + eps), and `backward` from a gradient with respect to z to one with respect to x:
 *
 *   (e - mean(e)) / (s + eps) - z sum(e z) / (s (n - ddof)),   s the standard deviation
 *
 * Values that are all equal have z = 0, and s = 0 has no gradient; without eps they get none at all.
 */
export function zScore(
  x: Numbers,
  { ddof, eps, stopGradient = false }: ZScoreOptions,
): { z: Float64Array; backward(gradZ: Numbers): Float64Array } {
  const n = x.length
  const equal = Array.from(x).every((value) => value === x[0])
  const center = sum(x) / n
  const centered = Float64Array.from(x, (value) => (equal ? 0 : value - center))
  const std = equal ? 0 : Math.sqrt(sum(centered.map((value) => value * value)) / (n - ddof))
  const scale = std + eps === 0 ? 0 : 1 / (std + eps)
  const z = centered.map((value) => value * scale)
  return {
    z,
    backward(gradZ) {
      const average = sum(gradZ) / n
      const along = equal || stopGradient ? 0 : sum(z.map((value, i) => value * (gradZ[i] as number)))
      const spread = along === 0 ? 0 : along / (std * (n - ddof))
      return z.map((value, i) => ((gradZ[i] as number) - average) * scale - value * spread)
    },
  }
}

/** The sum of two lists. */
export const plus = (x: Numbers, y: Numbers): Float64Array =>
  Float64Array.from(x, (value, i) => value + (y[i] as number))
