import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { opo } from '../../../lib/recipes/methods/opo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = {
  rewards: [1, 0, 0.5, 0, 1, 1, 1, 1],
  groupStart: [0, 4, 8],
  sequenceStart: [0, 2, 6, 9, 10, 12, 14, 16, 18],
}

golden('opo', 'advantages over the mean weighted by length', (check) => {
  const { advantage } = prepareStep(opo(), groups)
  check.float64(advantage!, [0.65, -0.35, 0.15, -0.35, 0, 0, 0, 0])
  check.float64(groups.rewards[0]! - advantage![0]!, 0.35)
  check.float64(groups.rewards[4]! - advantage![4]!, 1)
})

golden('opo', 'loss and gradient: the policy gradient over tokens', (check) => {
  const step = optimizationStep(opo(), { ...fixture, advantage })
  check.float32(step.loss, 0.1898277223, 4) // the terms of both signs are four times as large
  check.float32(unmasked(step.gradLogp!.data), [...Array(3).fill(-0.2142857143), ...Array(4).fill(0.1142857143)])
})

edge('opo', 'a group of one has advantage 0, or its reward', () => {
  const one = { rewards: [2], groupStart: [0, 1], sequenceStart: [0, 3] }
  expect(Array.from(prepareStep(opo(), one).advantage!)).toEqual([0])
  expect(Array.from(prepareStep(opo({ singleton: 'raw' }), one).advantage!)).toEqual([2])
})

edge('opo', 'equal rewards that no float holds exactly have advantage 0, in ragged groups', () => {
  const equal = { rewards: Array(5).fill(0.1), groupStart: [0, 0, 3, 5], sequenceStart: [0, 3, 10, 11, 20, 22] }
  expect(Array.from(prepareStep(opo(), equal).advantage!)).toEqual([0, 0, 0, 0, 0])
})

edge('opo', 'masked tokens and rejected rollouts weigh nothing', () => {
  const batch = { rewards: [1, 0, 9], groupStart: [0, 3], sequenceStart: [0, 2, 5, 9], rolloutMask: [1, 1, 0] }
  const { advantage } = prepareStep(opo(), { ...batch, mask: [1, 0, 1, 1, 1, 1, 1, 1, 1] })
  expect(Array.from(advantage!)).toEqual([0.75, -0.25, 0])
})

edge('opo', 'everything masked: loss 0, gradients 0, advantages 0', () => {
  const step = optimizationStep(opo(), { ...fixture, groupStart: [0, 2], rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  expect(Array.from(step.advantage!)).toEqual([0, 0])
})

edge('opo', 'a batch without tokens', () => {
  expect(() => prepareStep(opo(), { rewards: [1, 0], groupStart: [0, 2] })).toThrow(
    /opo: sequenceStart is missing from/,
  )
})
