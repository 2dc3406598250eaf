import { expect, test } from 'vitest'
import { logisticHead, pairLoss, pairsOf } from '../../../lib/recipes/parts/pairs.js'
import {
  backToTokens,
  logMeanExp,
  logRatio,
  logSigmoid,
  perToken,
  scoresOf,
  sigmoid,
  softmax,
  tokenMean,
  zScore,
} from '../../../lib/recipes/parts/sequence_scores.js'
import { createContext, extended } from '../../../lib/recipes/step/context.js'
import { centralDifferences, closeIn64 } from '../central_differences.js'

// Three rollouts, the second without tokens, a place of the last one masked.
const batch = { sequenceStart: [0, 2, 2, 5], mask: [1, 1, 1, 0, 1] }
const context = createContext('test', undefined, batch, undefined)
const x = Float32Array.of(1, 2, 4, Number.NaN, 8)

test('sums and means over the tokens of a rollout; NaN under the mask is not read', () => {
  expect(Array.from(scoresOf(context, x))).toEqual([3, 0, 12])
  expect(Array.from(scoresOf(context, x, { mean: true }))).toEqual([1.5, 0, 6])
  expect(tokenMean(context, x)).toBe(3.75)
  expect(Array.from(perToken(context, (t) => x[t] as number))).toEqual([1, 2, 4, 0, 8])
})

test('log-ratios to a reference, rounded once; what stands under the mask goes no further', () => {
  const logp = Float32Array.of(-0.1, -3, -2e-7, Infinity, Number.NaN)
  const reference = Float32Array.of(-0.3, 1e-7, -5, Number.NaN, -1)
  const ratio = logRatio(extended(context, { logp }), reference)
  const expected = logp.map((value, t) => (t === 3 ? 0 : value - reference[t]!))
  expect(ratio).toEqual(expected)
})

test('the way back is the transpose: the gradient of a weighted sum of the scores', () => {
  expect(Array.from(backToTokens(context, [1, 5, -2]))).toEqual([1, 1, -2, 0, -2])
  expect(Array.from(backToTokens(context, [1, 5, -2], { mean: true }))).toEqual([0.5, 0.5, -1, 0, -1])
})

test('sigmoid and log-sigmoid far from 0, and the derivative of the second', () => {
  expect([sigmoid(-800), sigmoid(0), sigmoid(800)]).toEqual([0, 0.5, 1])
  expect([logSigmoid(-800), logSigmoid(800)]).toEqual([-800, 0])
  for (const h of [-30, -2, -0.1, 0, 0.3, 4]) {
    closeIn64(
      [sigmoid(-h)],
      centralDifferences(([v]) => logSigmoid(v!), [h]),
    )
    expect(logSigmoid(h)).toBeCloseTo(Math.log(sigmoid(h)), 12)
  }
})

test('log-mean-exp lies between mean and maximum, and does not overflow', () => {
  expect(logMeanExp([2000, 2000], 1).value).toBe(2000)
  expect(logMeanExp([3, 1], 1e-3).value).toBeCloseTo(3 - 1e-3 * Math.log(2), 12)
  expect(logMeanExp([3, 1], 1e6).value).toBeCloseTo(2, 6)
  expect(Array.from(softmax([-Infinity, 0, 0]))).toEqual([0, 0.5, 0.5])
})

test('log-mean-exp against central differences', () => {
  for (const temperature of [0.7, 1, 10]) {
    const values = [-1, 0.5, 0.2, -0.3]
    const { gradient } = logMeanExp(values, temperature)
    closeIn64(
      gradient,
      centralDifferences((v) => logMeanExp(v, temperature).value, values),
    )
  }
})

test('z-score against central differences', () => {
  const values = [0.2, -0.1, 0.05, 0.3, 1]
  const upstream = [1, -2, 0.5, 3, 0.25]
  const along = (z: ArrayLike<number>) => upstream.reduce((total, e, i) => total + e * (z[i] as number), 0)
  for (const options of [
    { ddof: 0, eps: 0 },
    { ddof: 1, eps: 0.25 },
  ]) {
    closeIn64(
      zScore(values, options).backward(upstream),
      centralDifferences((v) => along(zScore(v, options).z), values),
    )
  }
})

test('z-score with a constant standard deviation against central differences', () => {
  const values = [0.2, -0.1, 0.05, 0.3]
  const upstream = [1, -2, 0.5, 3]
  const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length
  const std = Math.sqrt(mean(values.map((v) => (v - mean(values)) ** 2)))
  const frozen = (v: number[]) => upstream.reduce((total, e, i) => total + (e * (v[i]! - mean(v))) / (std + 0.5), 0)
  const { backward } = zScore(values, { ddof: 0, eps: 0.5, stopGradient: true })
  closeIn64(backward(upstream), centralDifferences(frozen, values))
})

test('z-scores of equal values, and of one', () => {
  const equal = zScore([0.1, 0.1, 0.1], { ddof: 1, eps: 0.01 })
  expect(Array.from(equal.z)).toEqual([0, 0, 0])
  closeIn64(equal.backward([3, 0, 0]), [200, -100, -100])
  expect(Array.from(zScore([0.1, 0.1, 0.1], { ddof: 1, eps: 0 }).backward([3, 0, 0]), Math.abs)).toEqual([0, 0, 0])
  const one = zScore([5], { ddof: 1, eps: 0.01 })
  expect([...one.z, ...one.backward([7])]).toEqual([0, 0])
})

test('the loss of pairs against central differences: a rollout in several pairs, chosen and rejected', () => {
  const pairs = [[0, 1], [2, 0], [2, 1]] as const // biome-ignore format: pairs
  const head = (h: number) => logisticHead(h, 0.1)
  const [chosen, rejected] = [[0.5, -1, 2], [0.1, 0.3, -0.7]] as const // biome-ignore format: two lists
  const { gradChosen, gradRejected } = pairLoss(pairs, chosen, rejected, head)
  closeIn64(
    gradChosen,
    centralDifferences((s) => pairLoss(pairs, s, rejected, head).loss, chosen),
  )
  closeIn64(
    gradRejected,
    centralDifferences((s) => pairLoss(pairs, chosen, s, head).loss, rejected),
  )
  expect(pairLoss([], chosen, rejected, head).loss).toBe(0)
})

test('pairs: without tokens or rejected they are left out; no rollout, or twice the same, is refused', () => {
  const pairs = (chosen: number[], rejected: number[], rolloutMask = [1, 1, 1]) => {
    const columns = { chosen: 'integer[M] a', rejected: 'integer[M] b' }
    return pairsOf(createContext('test', columns, { ...batch, rolloutMask, chosen, rejected }, undefined) as never)
  }
  expect(pairs([0, 0, 2], [1, 2, 0])).toEqual([[0, 2], [2, 0]]) // biome-ignore format: pairs
  expect(pairs([0], [2], [1, 1, 0])).toEqual([])
  expect(() => pairs([0], [3])).toThrow('test: rejected has 3 at 0, expected a rollout from 0 to 2')
  expect(() => pairs([-1], [2])).toThrow('test: chosen has -1 at 0, expected a rollout from 0 to 2')
  expect(() => pairs([2], [2])).toThrow('test: rejected has 2 at 0, expected another rollout than chosen')
  expect(() => pairs([0, 2], [2])).toThrow('test: rejected has 1 values, expected 2 (M = 2 from chosen)')
})
