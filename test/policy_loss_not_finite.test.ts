// What is counted as not finite: a token whose inputs, term or derivative are NaN, infinite or beyond float32,
//
//   term = weight surrogate + klCoef weight kl,   f term - g entropyCoef entropy,   f d term / d logp
//
// with the factors f and g of the aggregates; and at least one token where the loss is not finite.
import { describe, expect, test } from 'vitest'
import { array, lossStats, type Objective, policyLoss, policyLossFromLogits } from '../lib/index.js'
import type { PolicyCase } from './references/policy_objective.js'
import { exactly, refuses } from './support/compare.js'
import { arraysOf } from './support/policy_cases.js'

const two = { logp: [-1, -1], sequenceStart: [0, 2], advantage: [0] }
function run(c: PolicyCase, objective: Objective) {
  const { loss, gradLogp, stats } = policyLoss(arraysOf(c), objective)
  return { loss: loss.data[0] as number, gradient: Array.from(gradLogp.data), ...lossStats(stats) }
}

describe('terms that float32 does not hold', () => {
  const far = { ...two, refLogp: [-11, -1] }
  test('a KL of 10 and 0 times 1e38', () => {
    for (const klWeight of ['none', 'ratio'] as const) {
      const { loss, nonFinite } = run(far, { klCoef: 1e38, kl: 'k1', klWeight })
      expect([loss, nonFinite]).toEqual([Infinity, 1])
    }
  })
  test('also where the mean over tokens is held, and not where the term is', () => {
    const objective = { klCoef: 1e38, kl: 'k1' } as const
    expect(run(far, { ...objective, normalizer: 1e6 })).toMatchObject({ loss: Math.fround(1e33), nonFinite: 1 })
    expect(run({ ...two, refLogp: [-4, -1] }, objective)).toMatchObject({ loss: Math.fround(1.5e38), nonFinite: 0 })
  })
  test('a factor that is too large for the term: loss and derivative', () => {
    const c = { ...two, advantage: [1] }
    const reinforce = { surrogate: 'reinforce', normalizer: 1e-39 } as const
    expect(run(c, reinforce)).toMatchObject({ loss: Infinity, gradient: [-Infinity, -Infinity], nonFinite: 2 })
  })
  test('a derivative alone', () => {
    const c = { logp: [-1e-30, -1], oldLogp: [-90, -1], sequenceStart: [0, 2], advantage: [1] }
    const { loss, gradient, nonFinite } = run(c, { surrogate: 'cispo', clipHigh: null, aggregate: 'token_sum' })
    expect([Number.isFinite(loss), gradient[0], nonFinite]).toEqual([true, -Infinity, 1])
  })
  test('a bonus', () => {
    const bonus = { entropyCoef: 3e38, entropyAggregate: 'token_sum' } as const
    expect(run({ ...two, entropy: [2, 0.5] }, bonus)).toMatchObject({ loss: -Infinity, nonFinite: 1 })
  })
  test('their sum alone: one', () => {
    const sum = { klCoef: 3e38, kl: 'k1', aggregate: 'token_sum' } as const
    expect(run({ ...two, refLogp: [-2, -2] }, sum)).toMatchObject({ loss: Infinity, nonFinite: 1 })
    // Blocks of tokens that are merged at the end.
    const many = 9000
    const c = { logp: Array(many).fill(-1), refLogp: Array(many).fill(-2), sequenceStart: [0, many], advantage: [0] }
    expect(run(c, { ...sum, klCoef: 1e35 })).toMatchObject({ loss: Infinity, nonFinite: 1 })
    expect(run(c, { ...sum, klCoef: 1e34 })).toMatchObject({ loss: Math.fround(9e37), nonFinite: 0 })
  })
  test('coefficients that it does not hold are refused', () => {
    const option = (argument: string, text: string) => ({
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument,
      message: exactly(`policyLoss: ${argument} is ${text}`),
    })
    const inverse = (argument: string) => ({
      ...option(argument, ''),
      message: exactly(', expected a number whose inverse is finite'),
    })
    const held = ', expected a number up to 3.4e38, which float32 can hold'
    const inputs = arraysOf({ ...two, refLogp: [-1, -1], entropy: [1, 1] })
    refuses(() => policyLoss(inputs, { klCoef: 1e39 }), option('klCoef', `1e+39${held}`))
    refuses(() => policyLoss(inputs, { entropyCoef: -1e39 }), option('entropyCoef', `-1e+39${held}`))
    const dro = { surrogate: 'dro', droBeta: 1e39 } as const
    refuses(() => policyLoss(inputs, dro), option('droBeta', `1e+39${held}`))
    refuses(() => policyLoss(inputs, { normalizer: 1e-310 }), inverse('normalizer'))
    refuses(() => policyLoss(inputs, { tauPositive: 1e-310 }), inverse('tauPositive'))
    // float64 is enough for these.
    for (const objective of [{ normalizer: 1e300 }, { maxLength: 1e300 }, { clipHigh: 1e300 }, { klCoef: 1e-300 }])
      expect(() => policyLoss(inputs, objective)).not.toThrow()
  })
})

describe('bounds of the ratio', () => {
  const c = { logp: [-1, -1, -1], oldLogp: [-1, -1.5, -1], sequenceStart: [0, 3], advantage: [1] }
  test.each(['ratioLow', 'ratioHigh'] as const)('%s: a NaN is counted, an infinity is no bound', (name) => {
    for (const surrogate of ['clip', 'cispo', 'sapo', 'reinforce'] as const) {
      const none = name === 'ratioLow' ? 0 : 9
      expect(run({ ...c, [name]: [none, Number.NaN, none] }, { surrogate }).nonFinite, surrogate).toBe(1)
      const open = name === 'ratioLow' ? -Infinity : Infinity
      expect(run({ ...c, [name]: [open, none, open] }, { surrogate }).nonFinite, surrogate).toBe(0)
      // A masked token's bound is not looked at.
      const masked = { ...c, mask: [1, 0, 1], [name]: [none, Number.NaN, none] }
      expect(run(masked, { surrogate }).nonFinite, surrogate).toBe(0)
    }
  })
})

test('the fused loss counts the same', () => {
  const logits = array(new Float32Array([0, 10, 0, 0]), [2, 2])
  const { logp, ...rest } = arraysOf({ ...two, refLogp: [-20, -1] })
  const inputs = { ...rest, logits, token: new Int32Array([1, 0]) }
  const { loss, stats } = policyLossFromLogits(inputs, { klCoef: 1e38, kl: 'k1' })
  expect([loss.data[0], lossStats(stats).nonFinite]).toEqual([Infinity, 1])
})
