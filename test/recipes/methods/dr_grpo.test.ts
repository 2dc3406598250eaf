import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { drGrpo } from '../../../lib/recipes/methods/dr_grpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('drGrpo', 'advantages', (check) => {
  const { advantage } = prepareStep(drGrpo(), { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] })
  check.float32(advantage!, [0.625, -0.375, 0.125, -0.375, 0, 0, 0, 0])
})

golden('drGrpo', 'loss and gradient', (check) => {
  const step = optimizationStep(drGrpo({ maxLength: 8 }), { ...fixture, advantage })
  check.float32(step.loss, 0.048125)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.09375, -0.065625, 0, 0.175, 0.05, 0.055])
})

edge('drGrpo', 'a group of one has advantage 0, or its reward', () => {
  const groups = { rewards: [3, 1, 0], groupStart: [0, 1, 3] }
  expect(Array.from(prepareStep(drGrpo(), groups).advantage!)).toEqual([0, 0.5, -0.5])
  expect(Array.from(prepareStep(drGrpo({ singleton: 'raw' }), groups).advantage!)).toEqual([3, 0.5, -0.5])
})

edge('drGrpo', 'equal rewards that no float holds exactly have advantage 0', () => {
  const { advantage } = prepareStep(drGrpo(), { rewards: Array(7).fill(0.1), groupStart: [0, 7] })
  expect(Array.from(advantage!)).toEqual(Array(7).fill(0))
})

edge('drGrpo', 'a rollout without tokens counts in the divisor', () => {
  const given = { ...fixture, advantage: [0, -0.8] }
  const losses = [given.mask, [0, 0, 0, 0, 1, 1, 1, 1]].map(
    (mask) => optimizationStep(drGrpo(), { ...given, mask }).loss,
  )
  expect(losses[1]).toBe(losses[0])
  expect(losses[1]).not.toBe(0)
})

edge('drGrpo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(drGrpo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('drGrpo', 'a batch without rewards, and a length of 0', () => {
  expect(() => prepareStep(drGrpo(), { groupStart: [0, 2] })).toThrow(/drGrpo: rewards is missing from the batch/)
  expect(() => drGrpo({ maxLength: 0 })).toThrow('drGrpo: maxLength is 0, expected a finite number > 0')
})
