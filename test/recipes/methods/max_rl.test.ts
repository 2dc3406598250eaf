import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { maxRl } from '../../../lib/recipes/methods/max_rl.js'
import { expectedGradient } from '../bernoulli.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('maxRl', 'advantages', (check) => {
  const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }
  const expected = [1.6666622222, -0.9999973333, 0.3333324444, -0.9999973333, 0, 0, 0, 0]
  check.float32(prepareStep(maxRl(), groups).advantage!, expected)
})

edge('maxRl', 'a binary success weighs (1 - p) / p: the rarer, the more', () => {
  const { advantage } = prepareStep(maxRl({ eps: 1e-12 }), { rewards: [1, 0, 0, 0, 1, 1, 1, 0], groupStart: [0, 4, 8] })
  expect(advantage![0]).toBeCloseTo(3, 6)
  expect(advantage![4]).toBeCloseTo(1 / 3, 6)
})

edge('maxRl', 'in expectation it is the gradient of log p, expanded in 1 - p to the order n - 1', () => {
  // A group without success has no gradient, which costs the last order.
  const recipe = maxRl({ eps: 1e-12 })
  for (const n of [2, 3, 5]) {
    const advantages = (rewards: number[]) => prepareStep(recipe, { rewards, groupStart: [0, n] }).advantage!
    const expansion = Array.from({ length: n - 1 }, (_, k) => 0.7 ** k).reduce((sum, term) => sum + term)
    expect(expectedGradient(n, 0.3, advantages) / n).toBeCloseTo(expansion, 6)
  }
})

edge('maxRl', 'no success, a group of one, and an empty one: advantages 0', () => {
  const { advantage } = prepareStep(maxRl(), { rewards: [0, 0, 0, 1], groupStart: [0, 3, 3, 4] })
  expect(Array.from(advantage!)).toEqual([0, 0, 0, 0])
})

edge('maxRl', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(maxRl(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('maxRl', 'a negative reward is refused, unless its rollout is rejected', () => {
  const groups = { rewards: [1, -0.5], groupStart: [0, 2] }
  const text = 'maxRl: rewards has -0.5 at 1, expected at least 0: their mean divides'
  expect(() => prepareStep(maxRl(), groups)).toThrow(text)
  expect(Array.from(prepareStep(maxRl(), { ...groups, rolloutMask: [1, 0] }).advantage!)).toEqual([0, 0])
  expect(() => prepareStep(maxRl(), { groupStart: [0, 2] })).toThrow(/maxRl: rewards is missing from the batch/)
})
