// What is counted as not finite: a token whose inputs, term or derivative are NaN, infinite or beyond float32,
//
//   term = weight surrogate + klCoef weight kl,   f term - g entropyCoef entropy,   f d term / d logp
//
// with the factors f and g of the aggregates, or its derivative by entropy[t], g entropyCoef; and at least one token
// where the loss is not finite. Sums over tokens that lead to logits, hidden states and head are not looked at.
import { describe, expect, test } from 'vitest'
import { array, linearPolicyLoss, lossStats, type Objective, policyLoss, policyLossFromLogits } from '../lib/index.js'
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
    const reinforce = { surrogate: 'reinforce', normalizer: 2 ** -126 } as const
    expect(run(c, reinforce)).toMatchObject({ loss: 2 ** 127, gradient: [-(2 ** 126), -(2 ** 126)], nonFinite: 0 })
    const larger = { ...c, advantage: [4] }
    expect(run(larger, reinforce)).toMatchObject({ loss: Infinity, gradient: [-Infinity, -Infinity], nonFinite: 2 })
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
  test('the derivative of a bonus alone', () => {
    const c = { ...two, entropy: [0, 0], mask: [1, 0] }
    const { gradEntropy, loss, stats } = policyLoss(arraysOf(c), { entropyCoef: 1e20, normalizer: 1e-20 })
    expect([loss.data[0], gradEntropy?.data[0], lossStats(stats).nonFinite]).toEqual([0, -Infinity, 1])
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
    const inverse = ', expected a number of at least 1.2e-38, whose inverse float32 can hold'
    const held = ', expected a number up to 3.4e38, which float32 can hold'
    const inputs = arraysOf({ ...two, refLogp: [-1, -1], entropy: [1, 1] })
    refuses(() => policyLoss(inputs, { klCoef: 1e39 }), option('klCoef', `1e+39${held}`))
    refuses(() => policyLoss(inputs, { entropyCoef: -1e39 }), option('entropyCoef', `-1e+39${held}`))
    const dro = { surrogate: 'dro', droBeta: 1e39 } as const
    refuses(() => policyLoss(inputs, dro), option('droBeta', `1e+39${held}`))
    const small = [[1e-39, '1e-39'], [1e-310, '9.99999999999997e-311']] as const // biome-ignore format: pairs
    for (const [size, text] of small)
      for (const name of ['tauPositive', 'tauNegative', 'maxLength'] as const)
        refuses(() => policyLoss(inputs, { [name]: size }), option(name, `${text}${inverse}`))
    const orZero = inverse.replace('expected', 'expected 0 or')
    refuses(() => policyLoss(inputs, { normalizer: 1e-39 }), option('normalizer', `1e-39${orZero}`))
    expect(policyLoss(inputs, { normalizer: 0 }).loss.data[0]).toBe(0)
    const least = 2 ** -126
    for (const name of ['tauPositive', 'tauNegative', 'maxLength', 'normalizer'] as const)
      expect(() => policyLoss(inputs, { [name]: least }), name).not.toThrow()
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

// With c = sum over tokens of |gradLogp| + log V |gradEntropy|: |gradLogits| <= c / temperature, |gradHeadBias| too,
// |gradHead| <= c max |hidden| / temperature, |gradHidden| <= 2 c max |head| / temperature.
describe('gradients behind those of log-probabilities', () => {
  const [hidden, head] = [
    [1, -0.5, 0.25, 1, -1, 0.5],
    [0.5, -1, 1, 0.75, -0.25, 1],
  ]
  const objective = { kl: 'k1', entropyCoef: 0, temperature: 0.5, aggregate: 'token_sum' } as const
  /** On-policy and at the reference: the loss is 0, every gradLogp is klCoef, every gradEntropy -entropyCoef. */
  function gradients(size: number, coefficients: { klCoef: number; entropyCoef: number }) {
    const scaled = array(
      Float32Array.from(hidden, (x) => x * size),
      [3, 2],
    )
    const inputs = { hidden: scaled, head: array(new Float32Array(head), [3, 2]), token: new Int32Array([0, 2, 1]) }
    const rest = { sequenceStart: new Int32Array([0, 3]), advantage: new Float32Array(1) }
    const { logp } = linearPolicyLoss({ ...inputs, ...rest }, { temperature: 0.5 })
    const options = { ...objective, ...coefficients }
    const { gradHidden, gradHead, stats } = linearPolicyLoss({ ...inputs, ...rest, refLogp: logp }, options)
    const finite = [gradHidden, gradHead].map((x) => x.data.every(Number.isFinite))
    return { finite, nonFinite: lossStats(stats).nonFinite }
  }
  const bound = (size: number, klCoef: number, entropyCoef: number) =>
    ((3 * (klCoef + Math.log(3) * entropyCoef)) / 0.5) * Math.max(size, 2 * 1)

  test.each([1, 1e3, 1e6])('are finite where c allows no more than 3e38: hidden states up to %d', (size) => {
    for (const share of [0, 0.5, 1]) {
      const unit = 3e38 / bound(size, 1 - share, share)
      const coefficients = { klCoef: (1 - share) * unit, entropyCoef: share * unit }
      expect(gradients(size, coefficients), String(share)).toEqual({ finite: [true, true], nonFinite: 0 })
    }
  })
  test('and beyond it may not be, which nonFinite does not say', () => {
    expect(gradients(100, { klCoef: 3e37, entropyCoef: 0 })).toEqual({ finite: [true, false], nonFinite: 0 })
  })
})
