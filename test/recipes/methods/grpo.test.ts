import { expect } from 'vitest'
import { optimizationStep, prepareStep, recipes } from '../../../lib/recipes/index.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }

golden('grpo', 'advantages within the groups', (check) => {
  const prepared = prepareStep(recipes.grpo(), groups)
  check.float32(prepared.advantage!, [1.3053097494, -0.7831858496, 0.2610619499, -0.7831858496, 0, 0, 0, 0])
})

golden('grpo', 'loss and gradient', (check) => {
  const step = optimizationStep(recipes.grpo({ klCoef: 0 }), { ...fixture, advantage })
  check.float32(step.loss, -0.085)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11])
})

edge('grpo', 'a group of one has advantage 0', () => {
  const { advantage } = prepareStep(recipes.grpo(), { rewards: [3, 1, 0], groupStart: [0, 1, 3] })
  expect(Array.from(advantage!).slice(0, 1)).toEqual([0])
})

edge('grpo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(recipes.grpo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('grpo', 'a KL without a reference is refused', () => {
  const { refLogp, ...batch } = fixture
  expect(() => optimizationStep(recipes.grpo(), { ...batch, rewards: [1, 0] })).toThrow(
    'grpo: refLogp is missing from the batch, expected f32[T]',
  )
})
