import { describe, expect, test } from 'vitest'
import { array, lossStats } from '../lib/index.js'
import { refuses } from './support/compare.js'

// tokens, sequences, policy, klLoss, entropy, low, high, dual, ratio, min, max, approxKl, kl, nonFinite, badIndex
const first = Float64Array.of(4, 2, 1, 0.5, 8, 1, 2, 0, 4.4, 0.5, 2, 0.2, 0.1, 1, 0)
const second = Float64Array.of(1, 1, -3, 0, 2, 0, 1, 1, 3, 3, 3, -0.7, 0.4, 0, 2)

describe('lossStats', () => {
  test('means are over the tokens of all, extremes are compared, counts added', () => {
    const merged = lossStats(first, array(second))
    expect(merged).toEqual({
      policyLoss: -2 / 5,
      klLoss: 0.5 / 5,
      entropy: 2,
      clipFraction: 1 / 5 + 3 / 5,
      clipFractionLow: 1 / 5,
      clipFractionHigh: 3 / 5,
      dualClipFraction: 1 / 5,
      ratioMean: (4.4 + 3) / 5,
      ratioMin: 0.5,
      ratioMax: 3,
      approxKl: (0.2 - 0.7) / 5,
      kl: 0.5 / 5,
      tokens: 5,
      sequences: 3,
      nonFinite: 1,
      badIndex: 2,
    })
    expect(lossStats(second, first)).toEqual(merged)
    expect(first[0]).toBe(4)
  })
  test('of nothing: means are 0, extremes are those of no number', () => {
    const empty = lossStats()
    expect(empty).toMatchObject({ policyLoss: 0, clipFraction: 0, ratioMean: 0, tokens: 0 })
    expect([empty.ratioMin, empty.ratioMax]).toEqual([Infinity, -Infinity])
    const none = Float64Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, Infinity, -Infinity, 0, 0, 0, 0)
    expect(lossStats(none, first)).toEqual(lossStats(first))
  })
  test('refuses what is no stats', () => {
    const bad = (x: unknown) => () => lossStats(first, x as Float64Array)
    refuses(bad(new Float32Array(15)), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'stats[1]' })
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'stats[1]' }
    for (const length of [0, 14, 16, 30]) refuses(bad(new Float64Array(length)), shape)
    refuses(bad({ stats: first }), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'stats[1]' })
  })
})
