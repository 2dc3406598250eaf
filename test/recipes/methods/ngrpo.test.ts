import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { ngrpo } from '../../../lib/recipes/methods/ngrpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const advantagesOf = (rewards: number[], options = {}) =>
  prepareStep(ngrpo(options), { rewards, groupStart: [0, rewards.length] }).advantage!

golden('ngrpo', 'advantages with a virtual rollout', (check) => {
  const a = 0.447212595502
  check.float32(advantagesOf([0, 0, 0, 0]), [-a, -a, -a, -a])
  check.float32(advantagesOf([1, 0, 0, 0]), [1.095443115014, -0.730295410009, -0.730295410009, -0.730295410009])
  check.float32(advantagesOf([1, 1, 1, 0]), [a, a, a, -1.788850382009])
  check.float32(advantagesOf([1, 1, 1, 1]), [0, 0, 0, 0])
  check.float32(advantagesOf(Array(8).fill(0)), Array(8).fill(-0.333332333336))
})

golden('ngrpo', 'GRPO without virtual rollouts', (check) => {
  const few = { virtualCount: 0 }
  check.float32(advantagesOf([0, 0, 0, 0], few), [0, 0, 0, 0])
  check.float32(advantagesOf([1, 0, 0, 0], few), [1.499997, -0.499999, -0.499999, -0.499999])
})

golden('ngrpo', 'loss and gradient', (check) => {
  const step = optimizationStep(ngrpo({ entropyCoef: 0, clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, advantage })
  // The mean of the token losses is 1.353 before their signs cancel.
  check.float32(step.loss, 0.11, 1.353 / 0.11)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('ngrpo', 'an all-wrong group has the closed form -1 / sqrt(G + 1)', () => {
  for (const G of [2, 5, 16]) {
    expect(Array.from(advantagesOf(Array(G).fill(0), { eps: 0 }))).toEqual(
      Array(G).fill(Math.fround(-1 / Math.sqrt(G + 1))),
    )
  }
})

edge('ngrpo', 'its own clip interval, and the entropy bonus', () => {
  const entropy = new Float32Array(8).fill(2)
  const step = optimizationStep(ngrpo(), { ...fixture, advantage, entropy })
  expect(step.loss).toBeCloseTo((-1.5 * 1.24 - 1.5 - 1.05 + 0.8 * 0.84 + 2.8 + 0.8 + 0.88) / 7 - 0.002, 6)
})

edge('ngrpo', 'a group of one has its reward as advantage, as in verl', () => {
  expect(Array.from(advantagesOf([0.5]))).toEqual([Math.fround(0.5 / (1 + 1e-6))])
})

edge('ngrpo', 'groups that are all correct are left out and refilled, all wrong ones stay', () => {
  const batch = { rewards: [1, 1, 0, 0, 0, 1, 1], groupStart: [0, 2, 5, 5, 7], rolloutMask: [1, 1, 1, 1, 1, 1, 0] }
  const prepared = prepareStep(ngrpo(), batch)
  expect(Array.from(prepared.rollouts)).toEqual([0, 0, 1, 1, 1, 0, 0])
  expect(prepared.sample).toEqual({ refill: [0, 3] })
  const kept = prepareStep(ngrpo({ filter: false }), batch)
  expect(Array.from(kept.rollouts)).toEqual(Array(7).fill(1))
  expect(kept.sample).toEqual({ refill: [] })
})

edge('ngrpo', 'a group whose rollouts are all rejected is not all correct', () => {
  const batch = { rewards: [1, 1, 1, 0], groupStart: [0, 2, 4], rolloutMask: [0, 0, 1, 1] }
  expect(prepareStep(ngrpo(), batch).sample).toEqual({ refill: [] })
})

edge('ngrpo', 'everything masked', () => learnsNothing(ngrpo({ entropyCoef: 0 }), { rewards: [0, 1] }))

edge('ngrpo', 'an entropy bonus without entropies is refused', () => {
  expect(() => optimizationStep(ngrpo(), { ...fixture, rewards: [0, 1] })).toThrow('ngrpo: entropy is missing')
})
edge('ngrpo', 'a missing column', () => {
  expect(() => prepareStep(ngrpo(), { groupStart: [0, 1] })).toThrow('ngrpo: rewards is missing from the batch')
})
