import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { bnpo } from '../../../lib/recipes/methods/bnpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }
const advantages = (recipe: ReturnType<typeof bnpo>) => prepareStep(recipe, groups).advantage!

golden('bnpo', 'advantages by scale_rewards', (check) => {
  check.float32(advantages(bnpo()), [1.3053097494, -0.7831858496, 0.2610619499, -0.7831858496, 0, 0, 0, 0])
  const batch = [1.3641442499, -0.81848655, 0.27282885, -0.81848655, 0, 0, 0, 0]
  check.float32(advantages(bnpo({ scale: 'batch_std' })), batch)
  check.float32(advantages(bnpo({ scale: 'none' })), [0.625, -0.375, 0.125, -0.375, 0, 0, 0, 0])
})

golden('bnpo', 'loss and gradient', (check) => {
  const step = optimizationStep(bnpo(), { ...fixture, advantage })
  check.float32(step.loss, 0.11, 12) // the terms of both signs are 12 times as large
  const gradient = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  check.float32(unmasked(step.gradLogp!.data), gradient)
})

golden('bnpo', 'loss and gradient with a KL', (check) => {
  const step = optimizationStep(bnpo({ klCoef: 0.1 }), { ...fixture, advantage })
  check.float32(step.loss, 0.1137582733, 12)
  const gradient = [0.0020408163, -0.2178571429, -0.1510204082, -0.006122449, 0.406122449, 0.1166666667, 0.1244155844]
  check.float32(unmasked(step.gradLogp!.data), gradient)
})

edge('bnpo', 'a group of one, and of equal rewards, has advantage 0', () => {
  const { advantage } = prepareStep(bnpo(), { rewards: [3, 0.1, 0.1, 0.1], groupStart: [0, 1, 4] })
  expect(Array.from(advantage!)).toEqual([0, 0, 0, 0])
})

edge('bnpo', 'ragged groups share the standard deviation of the batch', () => {
  const ragged = { rewards: [1, 0, 2], groupStart: [0, 0, 2, 3] }
  const { advantage } = prepareStep(bnpo({ scale: 'batch_std', eps: 0 }), ragged)
  expect(Array.from(advantage!)).toEqual([0.5, -0.5, 0]) // the three rewards have the standard deviation 1
})

edge('bnpo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(bnpo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('bnpo', 'a batch without groups', () => {
  expect(() => prepareStep(bnpo(), { rewards: [1, 0] })).toThrow(/bnpo: groupStart is missing from the batch/)
})
