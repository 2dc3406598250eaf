import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gpg } from '../../../lib/recipes/methods/gpg.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('gpg', 'advantages', (check) => {
  const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }
  const { advantage } = prepareStep(gpg(), groups)
  check.float32(advantage!, [0.8333333333, -0.5, 0.1666666667, -0.5, 0, 0, 0, 0])
  check.float32(advantage![0]! / 0.625, 1.3333333333) // alpha
})

golden('gpg', 'loss and gradient', (check) => {
  const step = optimizationStep(gpg(), { ...fixture, advantage })
  check.float32(step.loss, 0.1898277223, 4) // the terms of both signs are four times as large
  check.float32(unmasked(step.gradLogp!.data), [...Array(3).fill(-0.2142857143), ...Array(4).fill(0.1142857143)])
})

edge('gpg', 'a group of one has advantage 0, or alpha times its reward', () => {
  const groups = { rewards: [3, 1, 0, 0], groupStart: [0, 1, 4] }
  expect(prepareStep(gpg(), groups).advantage![0]).toBe(0)
  expect(prepareStep(gpg({ singleton: 'raw' }), groups).advantage![0]).toBe(6) // 4 rollouts, 2 with a reward
  expect(prepareStep(gpg({ singleton: 'raw', fNorm: 2 }), groups).advantage![0]).toBe(3)
})

edge('gpg', 'no reward at all: advantages 0', () => {
  const { advantage } = prepareStep(gpg(), { rewards: [0, 0, 0], groupStart: [0, 3] })
  expect(Array.from(advantage!)).toEqual([0, 0, 0])
})

edge('gpg', 'rejected rollouts do not count in alpha, in ragged groups', () => {
  const groups = { rewards: [1, 0, 7, 0, 0], groupStart: [0, 3, 5], rolloutMask: [1, 1, 0, 1, 1] }
  expect(Array.from(prepareStep(gpg(), groups).advantage!)).toEqual([2, -2, 0, 0, 0]) // alpha = 4
})

edge('gpg', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(gpg(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('gpg', 'a batch without rewards', () => {
  expect(() => prepareStep(gpg(), { groupStart: [0, 2] })).toThrow(/gpg: rewards is missing from the batch/)
})
