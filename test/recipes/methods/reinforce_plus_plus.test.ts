import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { reinforcePlusPlus } from '../../../lib/recipes/methods/reinforce_plus_plus.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { type Check, edge, golden } from '../golden.js'

const lengths = [2, 4, 3, 1, 2, 2, 2, 2]
const sequenceStart = [0, 2, 6, 9, 10, 12, 14, 16, 18]
const batch = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8], sequenceStart }
const expand = (x: number[]) => lengths.flatMap((length, i) => Array<number>(length).fill(x[i]!))
type Recipe = ReturnType<typeof reinforcePlusPlus>
const advantages = (recipe: Recipe) => prepareStep(recipe, batch).tokenAdvantage!

/** Mean and variance of the whitening, from two tokens that it took to a and b, and x and y before. */
function statistics(check: Check, [x, y, a, b]: [number, number, number, number], mean: number, variance: number) {
  const deviation = (x - y) / (a - b)
  check.float32(deviation ** 2 - 1e-8, variance, 2)
  check.float32(x - a * deviation, mean, Math.abs(x / mean))
}

golden('reinforcePlusPlus', 'returns, whitened over tokens', (check) => {
  const a = advantages(reinforcePlusPlus({ klCoef: 0 }))
  const expected = [0.8071393263, -1.4280157289, -0.3104382013, -1.4280157289, ...Array(4).fill(0.8071393263)]
  check.float32(a, expand(expected))
  statistics(check, [1, 0, a[0]!, a[2]!], 0.6388888885, 0.2001633986)
})

golden('reinforcePlusPlus', 'the baseline, as verl whitens', (check) => {
  const a = advantages(reinforcePlusPlus({ klCoef: 0, baseline: true }))
  const expected = [2.1311777704, -1.2045787398, 0.4632995153, -1.2045787398, ...Array(4).fill(0.0463299515)]
  check.float32(a, expand(expected))
  statistics(check, [0.625, -0.375, a[0]!, a[2]!], -0.0138888889, 0.089869281)
})

golden('reinforcePlusPlus', 'the baseline, as OpenRLHF whitens', (check) => {
  const a = advantages(reinforcePlusPlus({ klCoef: 0, baseline: true, whiten: 'openrlhf' }))
  check.float32(a.subarray(0, 10), expand([2.1929639552, -1.239501366, 0.4767312946, -1.239501366]).slice(0, 10))
})

golden('reinforcePlusPlus', 'loss and gradient', (check) => {
  const step = optimizationStep(reinforcePlusPlus(), { ...fixture, advantage })
  check.float32(step.loss, 0.11, 12) // the terms of both signs are 12 times as large
  const gradient = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  check.float32(unmasked(step.gradLogp!.data), gradient)
})

edge('reinforcePlusPlus', 'the mean subtracted only: the differences stay those of the returns', () => {
  const a = advantages(reinforcePlusPlus({ klCoef: 0, whiten: 'center' }))
  expect(a[0]! - a[2]!).toBeCloseTo(1, 6)
  expect(a.reduce((sum, x) => sum + x)).toBeCloseTo(0, 5)
})

edge('reinforcePlusPlus', 'a discount, with a masked token that it passes over', () => {
  const one = { rewards: [8, 0], sequenceStart: [0, 4, 5], mask: [1, 1, 0, 1, 1] }
  const recipe = reinforcePlusPlus({ klCoef: 0, gamma: 0.5, whiten: 'center' })
  const mean = (2 + 4 + 8 + 0) / 4
  expect(Array.from(prepareStep(recipe, one).tokenAdvantage!)).toEqual([2 - mean, 4 - mean, 0, 8 - mean, -mean])
})

edge('reinforcePlusPlus', 'the KL of a token counts at those before it too', () => {
  const recipe = reinforcePlusPlus({ klCoef: 0.5, whiten: 'center' })
  const kl = { oldLogp: Float32Array.of(-1, -2, -3), refLogp: Float32Array.of(-1.5, -1, -5) } // 0.5, -1, 2
  const { tokenAdvantage } = prepareStep(recipe, { rewards: [1, 0], sequenceStart: [0, 2, 3], ...kl })
  const [first, second, third] = [1 - 0.25 + 0.5, 1 + 0.5, -1]
  const mean = (first + second + third) / 3
  const expected = [first - mean, second - mean, third - mean]
  expected.forEach((x, t) => expect(tokenAdvantage![t]).toBeCloseTo(x, 6))
})

edge('reinforcePlusPlus', 'equal rewards that no float holds: advantages 0 for every whitening', () => {
  for (const whiten of ['verl', 'openrlhf', 'center'] as const) {
    for (const baseline of [false, true]) {
      const equal = { ...batch, rewards: Array(8).fill(0.1) }
      const { tokenAdvantage } = prepareStep(reinforcePlusPlus({ klCoef: 0, baseline, whiten }), equal)
      expect(tokenAdvantage!.every((x) => x === 0)).toBe(true)
    }
  }
})

edge('reinforcePlusPlus', 'groups of one keep their rewards under the baseline', () => {
  const ragged = { rewards: [3, 1, 0], groupStart: [0, 1, 3], sequenceStart: [0, 1, 2, 3] }
  const recipe = reinforcePlusPlus({ klCoef: 0, baseline: true, whiten: 'center' })
  expect(Array.from(prepareStep(recipe, ragged).tokenAdvantage!)).toEqual([2, -0.5, -1.5]) // 3, 0.5, -0.5 less 1
})

edge('reinforcePlusPlus', 'one token, or none: 0', () => {
  const one = { rewards: [3, 2], sequenceStart: [0, 1, 1] }
  for (const whiten of ['verl', 'openrlhf', 'center'] as const) {
    const recipe = reinforcePlusPlus({ klCoef: 0, whiten })
    expect(Array.from(prepareStep(recipe, one).tokenAdvantage!)).toEqual([0])
    expect(Array.from(prepareStep(recipe, { ...one, mask: [0] }).tokenAdvantage!)).toEqual([0])
  }
})

edge('reinforcePlusPlus', 'rejected rollouts enter no statistic', () => {
  const recipe = reinforcePlusPlus({ klCoef: 0, whiten: 'center' })
  const given = { rewards: [3, 1, 50], sequenceStart: [0, 1, 2, 4], rolloutMask: [1, 1, 0] }
  expect(Array.from(prepareStep(recipe, given).tokenAdvantage!)).toEqual([1, -1, 0, 0])
})

edge('reinforcePlusPlus', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(reinforcePlusPlus(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('reinforcePlusPlus', 'a KL without a reference, and a baseline without groups', () => {
  const given = { rewards: [1, 0], sequenceStart: [0, 1, 2] }
  const logp = Float32Array.of(-1, -1)
  expect(() => prepareStep(reinforcePlusPlus(), { ...given, oldLogp: logp })).toThrow(
    /refLogp is missing from the batch/,
  )
  const recipe = reinforcePlusPlus({ klCoef: 0, baseline: true })
  expect(() => prepareStep(recipe, given)).toThrow(/reinforcePlusPlus: groupStart is missing from the batch/)
})
