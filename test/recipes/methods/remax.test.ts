import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { remax } from '../../../lib/recipes/methods/remax.js'
import { fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('remax', 'the reward over that of the greedy rollout', (check) => {
  const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8], greedyReward: [0.1, 1] }
  check.float64(prepareStep(remax(), groups).advantage!, [0.9, -0.1, 0.4, -0.1, 0, 0, 0, 0])
})

golden('remax', 'loss and gradient: the mean over rollouts of -A logp', (check) => {
  const step = optimizationStep(remax(), { ...fixture, rewards: [2.5, 0.2], greedyReward: [1, 1] })
  const [first, second] = [0.7 * 0.2 * 0.28, 0.21 * 0.35 * 0.6 * 0.275].map(Math.log)
  check.float32(step.loss, (-1.5 * first! + 0.8 * second!) / 2)
  check.float32(unmasked(step.gradLogp!.data), [-0.75, -0.75, -0.75, 0.4, 0.4, 0.4, 0.4])
})

edge('remax', 'one rollout per prompt, ragged groups, and a rejected rollout', () => {
  const one = { rewards: [2, 1], groupStart: [0, 1, 2], greedyReward: [0.5, 3] }
  expect(Array.from(prepareStep(remax(), one).advantage!)).toEqual([1.5, -2])
  const ragged = { rewards: [2, 1, 5], groupStart: [0, 0, 3], greedyReward: [9, 1], rolloutMask: [1, 1, 0] }
  expect(Array.from(prepareStep(remax(), ragged).advantage!)).toEqual([1, 0, 0])
})

edge('remax', 'everything masked: loss 0, gradients 0', () => {
  const batch = { ...fixture, rewards: [1, 0], greedyReward: [0, 0], mask: new Uint8Array(8) }
  const step = optimizationStep(remax(), batch)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('remax', 'no greedy rewards, and as many as rollouts', () => {
  const groups = { rewards: [1, 0], groupStart: [0, 2] }
  expect(() => prepareStep(remax(), groups as never)).toThrow(/remax: greedyReward is missing from the batch, expected number\[G\]/) // biome-ignore format: one text
  expect(() => prepareStep(remax(), { ...groups, greedyReward: [1, 0] })).toThrow(/remax: greedyReward has 2 values, expected 1/) // biome-ignore format: one text
})
