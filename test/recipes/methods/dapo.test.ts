import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { dapo } from '../../../lib/recipes/methods/dapo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }

golden('dapo', 'advantages of verl', (check) => {
  const { advantage } = prepareStep(dapo(), groups)
  check.float32(advantage!, [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154, 0, 0, 0, 0])
})

golden('dapo', 'clip-higher', (check) => {
  const step = optimizationStep(dapo(), { ...fixture, advantage })
  check.float32(step.loss, 0.0928571429, 14) // the terms of both signs are 14 times as large
  const gradient = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  check.float32(unmasked(step.gradLogp!.data), gradient)
})

golden('dapo', 'soft overlong punishment with the lengths of the paper', (check) => {
  // 16384, 16385, 18432, 20480, 20481 and 30720 tokens
  const sequenceStart = [0, 16384, 32769, 51201, 71681, 92162, 122882]
  const batch = { rewards: Array(6).fill(1), groupStart: [0, 6], sequenceStart }
  const paper = { maxLength: 20480, buffer: 4096 }
  check.float64(prepareStep(dapo(paper), batch).rewards!, [1, 1 - 1 / 4096, 0.5, 0, 0, 0])
  const verl = prepareStep(dapo({ ...paper, floor: false, factor: 0.5 }), batch).rewards!
  check.float64(verl, [1, 1 - 0.5 / 4096, 0.75, 0.5, 0.5 - 0.5 / 4096, -0.75])
})

golden('dapo', 'dynamic sampling drops the prompts whose rollouts are equal', (check) => {
  const { sample } = prepareStep(dapo(), groups)
  check.float64(sample!.keep, [1, 0])
  check.float64(sample!.missing, 1)
})

edge('dapo', 'masked tokens are no length', () => {
  const batch = { rewards: [1], groupStart: [0, 1], sequenceStart: [0, 4], mask: [1, 0, 0, 1] }
  expect(Array.from(prepareStep(dapo({ maxLength: 4, buffer: 2 }), batch).rewards!)).toEqual([1])
})

edge('dapo', 'dynamic sampling compares the accuracy, not the punished reward', () => {
  const batch = { rewards: [1, 1], groupStart: [0, 2], sequenceStart: [0, 1, 5] }
  const recipe = dapo({ maxLength: 4, buffer: 2 })
  expect(prepareStep(recipe, batch).sample).toEqual({ keep: Uint8Array.of(1), missing: 0 })
  expect(prepareStep(recipe, { ...batch, accuracy: [1, 1] }).sample).toEqual({ keep: Uint8Array.of(0), missing: 1 })
})

edge(
  'dapo',
  'dynamic sampling of ragged groups: one rollout, none, rejected ones, equal ones that no float holds',
  () => {
    const { keep } = dapo().sample
    expect(Array.from(keep([0.3, 0.1, 0.1, 0.1, 0, 1], [0, 1, 1, 4, 6]))).toEqual([1, 0, 0, 1])
    expect(Array.from(keep([1, 0, 1], [0, 3], [1, 0, 1]))).toEqual([0])
  },
)

edge('dapo', 'a rejected rollout makes no prompt worth keeping', () => {
  const { sample } = prepareStep(dapo(), {
    rewards: [1, 0, 1, 0, 1],
    groupStart: [0, 3, 5],
    rolloutMask: [1, 0, 1, 1, 1],
  })
  expect(sample).toEqual({ keep: Uint8Array.of(0, 1), missing: 1 })
})

edge('dapo', 'advantages in place of rewards: nothing to filter by', () => {
  expect(prepareStep(dapo(), { ...fixture, advantage }).sample).toBe(null)
})

edge('dapo', 'a group of one has advantage 0, or its reward', () => {
  const one = { rewards: [2], groupStart: [0, 1] }
  expect(Array.from(prepareStep(dapo(), one).advantage!)).toEqual([0])
  expect(prepareStep(dapo({ singleton: 'raw' }), one).advantage![0]).toBeCloseTo(2 / (1 + 1e-6), 6)
})

edge('dapo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(dapo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('dapo', 'a maximum length without a buffer, and lengths without tokens', () => {
  expect(() => dapo({ maxLength: 8 })).toThrow('dapo: buffer is null, expected a number: maxLength is given')
  expect(() => dapo({ buffer: 8 })).toThrow('dapo: maxLength is null, expected a number: buffer is given')
  expect(() => prepareStep(dapo({ maxLength: 8, buffer: 4 }), groups)).toThrow(/dapo: sequenceStart is missing/)
})
