import type { ArrayInput } from './arrays/input.js'
import { mergeStats } from './call/merge_stats.js'

/** The numbers in the `stats` of a policy loss. Fractions and means are over the unmasked tokens. */
export interface LossStats {
  /** Mean of weight × surrogate: before `aggregate`, without KL and entropy. */
  policyLoss: number
  /** Mean of what the KL adds: klCoef × kl, and × its weight with a `klWeight`. */
  klLoss: number
  /** Mean, in nats; 0 if policyLoss was given none. */
  entropy: number
  /** Tokens outside the clip interval on the side where the advantage pushes: clipFractionLow + clipFractionHigh. */
  clipFraction: number
  /** Tokens with advantage < 0 and a ratio below the interval; for 'dppo_tv' and 'dppo_kl' those they drop. */
  clipFractionLow: number
  /** Tokens with advantage > 0 and a ratio above it; likewise. */
  clipFractionHigh: number
  /** Tokens with advantage < 0 and a ratio above dualClip. */
  dualClipFraction: number
  /** Of the importance ratio, for ratios of sequences the sequence's. */
  ratioMean: number
  /** Infinity without tokens. */
  ratioMin: number
  /** -Infinity without tokens. */
  ratioMax: number
  /** Mean of oldLogp - logp. */
  approxKl: number
  /** Mean of the value of `kl`; 0 without refLogp. */
  kl: number
  /** Unmasked tokens. */
  tokens: number
  /** Sequences with unmasked tokens, or all of them with countEmpty. */
  sequences: number
  /**
   * Unmasked tokens with a NaN or an infinity among their inputs, or whose own term, or its derivative by logp or
   * entropy, is NaN, infinite or larger than float32 can hold; at least 1 where the loss is.
   *
   * Sums over tokens are not looked at, so that 0 does not say that every gradient is finite: what flows through the
   * ratio of a sequence is such a sum, and gradLogits, gradHidden and gradHead are sums of products. With
   * c = sum over tokens of |gradLogp| + log V |gradEntropy|, these three are finite while
   *
   *   2 c / temperature × the largest of 1, |hidden| and |head|
   *
   * stays below 3e38 (below 65504 where they are f16). By 'token_mean' the KL k1 adds |klCoef| to c, and the entropy
   * bonus |entropyCoef| log V: coefficients up to 1e30 leave a factor of 1e6 and more for the rest.
   */
  nonFinite: number
  /** Tokens with an id, a row or an offset out of range (device arrays only: host arrays are refused). */
  badIndex: number
}

// The order of `stats`, as native/loss/policy_loss.h numbers it.
export const statNames = [
  'tokens',
  'sequences',
  'policyLoss',
  'klLoss',
  'entropy',
  'clipFractionLow',
  'clipFractionHigh',
  'dualClipFraction',
  'ratioMean',
  'ratioMin',
  'ratioMax',
  'approxKl',
  'kl',
  'nonFinite',
  'badIndex',
] as const satisfies (keyof LossStats)[]

/**
 * Names the statistics of policy losses, and merges those of any number of micro-batches or ranks: counts and sums are
 * added, extremes compared, and means taken over the tokens of all of them.
 *
 * @param stats  f64[15] each, as policyLoss, policyLossFromLogits and linearPolicyLoss return them; it waits for those on a
 *               device, which `read` does without blocking this thread
 * @returns the numbers; without tokens means and fractions are 0, ratioMin is Infinity and ratioMax -Infinity
 * @throws TypeError or RangeError if an argument is no such array
 * @example
 * import { lossStats, policyLoss } from 'grpo-kernels'
 *
 * const sequenceStart = new Int32Array([0, 2])
 * const advantage = new Float32Array([1])
 * const oldLogp = new Float32Array([-1, -1])
 * const [first, second] = [-0.5, -1.1].map((start) =>
 *   policyLoss({ logp: new Float32Array([start, -1]), oldLogp, sequenceStart, advantage }),
 * )
 * console.log(lossStats(first.stats, second.stats)) // of both micro-batches
 */
export function lossStats(...stats: ArrayInput<'f64'>[]): LossStats {
  const at = mergeStats('lossStats', statNames, stats)
  const tokens = at('tokens')
  const mean = (name: (typeof statNames)[number]) => (tokens === 0 ? 0 : at(name) / tokens)
  return {
    policyLoss: mean('policyLoss'),
    klLoss: mean('klLoss'),
    entropy: mean('entropy'),
    clipFraction: mean('clipFractionLow') + mean('clipFractionHigh'),
    clipFractionLow: mean('clipFractionLow'),
    clipFractionHigh: mean('clipFractionHigh'),
    dualClipFraction: mean('dualClipFraction'),
    ratioMean: mean('ratioMean'),
    ratioMin: at('ratioMin'),
    ratioMax: at('ratioMax'),
    approxKl: mean('approxKl'),
    kl: mean('kl'),
    tokens,
    sequences: at('sequences'),
    nonFinite: at('nonFinite'),
    badIndex: at('badIndex'),
  }
}
