import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { passAtK } from '../../../lib/recipes/methods/pass_at_k.js'
import { expectedGradient } from '../bernoulli.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }

golden('passAtK', 'the best over the second best', (check) => {
  check.float64(prepareStep(passAtK(), groups).advantage!, [1.0444637539, 0, 0, 0, 0, 0, 0, 0])
  check.float64(prepareStep(passAtK({ scale: false }), groups).advantage!, [0.5, 0, 0, 0, 0, 0, 0, 0])
})

edge('passAtK', 'without the division, the gradient of 1 - (1 - p)^k is unbiased', () => {
  const recipe = passAtK({ scale: false })
  for (const k of [2, 3, 5]) {
    const advantages = (rewards: number[]) => prepareStep(recipe, { rewards, groupStart: [0, k] }).advantage!
    expect(expectedGradient(k, 0.3, advantages)).toBeCloseTo(k * 0.7 ** (k - 1), 12)
  }
})

edge('passAtK', 'two that are best: advantages 0', () => {
  const { advantage } = prepareStep(passAtK(), { rewards: [0, 1, 1], groupStart: [0, 3] })
  expect(Array.from(advantage!)).toEqual([0, 0, 0])
})

edge('passAtK', 'a group of one is refused, an empty one is not', () => {
  expect(() => prepareStep(passAtK(), { rewards: [1, 0, 1], groupStart: [0, 2, 3] })).toThrow(
    'passAtK: groupStart has 1 rollout in group 1, expected at least 2: the best is compared with the second',
  )
  expect(prepareStep(passAtK(), { rewards: [1, 0], groupStart: [0, 0, 2] }).advantage![0]).toBeGreaterThan(0)
})

edge('passAtK', 'rejected rollouts are not compared; of ragged groups each has its own best', () => {
  const batch = { rewards: [9, 3, 1, 0, 2], groupStart: [0, 3, 5], rolloutMask: [0, 1, 1, 1, 1] }
  const { advantage } = prepareStep(passAtK({ eps: 0 }), batch)
  const gap = 2 / Math.SQRT2
  expect(Array.from(advantage!)).toEqual([0, gap, 0, 0, gap])
  const one = prepareStep(passAtK(), { rewards: [9, 3], groupStart: [0, 2], rolloutMask: [1, 0] })
  expect(Array.from(one.advantage!)).toEqual([0, 0])
})

edge('passAtK', 'everything masked: loss 0, gradients 0', () => {
  const batch = { ...fixture, groupStart: [0, 2], rewards: [1, 0], mask: new Uint8Array(8) }
  const step = optimizationStep(passAtK(), batch)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('passAtK', 'a batch without rewards', () => {
  expect(() => prepareStep(passAtK(), { groupStart: [0, 2] })).toThrow(/passAtK: rewards is missing from the batch/)
})
