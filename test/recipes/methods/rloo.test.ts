import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { rloo } from '../../../lib/recipes/methods/rloo.js'
import { expectedGradient } from '../bernoulli.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }

golden('rloo', 'leave-one-out advantages', (check) => {
  const { advantage } = prepareStep(rloo({ klCoef: 0 }), groups)
  check.float32(advantage!, [0.8333333333, -0.5, 0.1666666667, -0.5, 0, 0, 0, 0])
})

golden('rloo', 'loss and gradient of TRL', (check) => {
  const step = optimizationStep(rloo({ form: 'clip' }), { ...fixture, advantage })
  check.float32(step.loss, 0.343, 2) // a difference of two terms twice as large
  check.float32(unmasked(step.gradLogp!.data), [-0.735, -0.735, -0.735, 1.078, 1.078, 1.078, 1.078])
})

golden('rloo', 'the KL in the reward, from the products', (check) => {
  const batch = { ...fixture, rewards: [1, 0.5] }
  const kl = [(0.5 * 0.2 * 0.4) / (0.6 * 0.25 * 0.3), (0.3 * 0.1 * 0.6 * 0.25) / (0.3 * 0.2 * 0.5 * 0.3)].map(Math.log)
  const { rewards } = prepareStep(rloo({ klCoef: 1 }), batch)
  check.float32(rewards!, [1 - kl[0]!, 0.5 - kl[1]!])
})

edge('rloo', 'the advantage is that over the group mean times G / (G - 1), in ragged groups', () => {
  const ragged = { rewards: [3, 1, -1, 4, 0.5], groupStart: [0, 3, 5] }
  const { advantage } = prepareStep(rloo({ klCoef: 0 }), ragged)
  expect(Array.from(advantage!)).toEqual([3, 0, -3, 3.5, -3.5])
})

edge('rloo', 'the gradient of the success probability is unbiased', () => {
  const recipe = rloo({ klCoef: 0 })
  const gradient = (n: number) =>
    expectedGradient(n, 0.3, (rewards) => prepareStep(recipe, { rewards, groupStart: [0, n] }).advantage!) / n
  for (const n of [2, 3, 5]) expect(gradient(n)).toBeCloseTo(1, 6)
})

edge('rloo', 'a group of one has advantage 0, or its reward', () => {
  const one = { rewards: [2], groupStart: [0, 1] }
  expect(Array.from(prepareStep(rloo({ klCoef: 0 }), one).advantage!)).toEqual([0])
  expect(Array.from(prepareStep(rloo({ klCoef: 0, singleton: 'raw' }), one).advantage!)).toEqual([2])
})

edge('rloo', 'normalized advantages have mean 0; those of equal rewards stay 0', () => {
  const recipe = rloo({ klCoef: 0, normalize: true })
  const two = prepareStep(recipe, { rewards: [1, 0], groupStart: [0, 2] }).advantage!
  expect(two[0]).toBeCloseTo(1 / (Math.SQRT2 + 1e-4), 6)
  expect(two[1]).toBe(-two[0]!)
  const equal = prepareStep(recipe, { rewards: [0.1, 0.1, 0.1], groupStart: [0, 3] }).advantage!
  expect(Array.from(equal)).toEqual([0, 0, 0])
})

edge('rloo', 'on the policy that sampled, both forms have one gradient', () => {
  const batch = { ...fixture, logp: fixture.oldLogp, advantage }
  const [reinforce, clip] = (['reinforce', 'clip'] as const).map((form) => optimizationStep(rloo({ form }), batch))
  expect(reinforce!.gradLogp!.data).toEqual(clip!.gradLogp!.data)
})

edge('rloo', 'everything masked: loss 0, gradients 0, no KL', () => {
  const step = optimizationStep(rloo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  expect(Array.from(step.rewards!)).toEqual([1, 0])
})

edge('rloo', 'a KL without a reference is refused', () => {
  const { refLogp, ...batch } = fixture
  expect(() => prepareStep(rloo(), { ...batch, rewards: [1, 0] })).toThrow(/rloo: refLogp is missing from the batch/)
})
