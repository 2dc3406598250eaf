import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { thyme } from '../../../lib/recipes/methods/thyme.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const golden4 = { rewards: [1.5, 0.5, -0.5, 0.5], groupStart: [0, 4] }

golden('thyme', 'advantages', (check) => {
  check.float32(prepareStep(thyme(), golden4).advantage!, [1.2245948898, 0, -1.2245948898, 0])
})

edge('thyme', 'the segment after <code> is decoded greedily, every other one at the temperature', () => {
  const { segmentTemperature } = thyme({ temperature: 0.9 }).sample
  expect(['', 'text', 'see <code>', 'see <code>\n', '<code>x</code>', '<code> x'].map(segmentTemperature)).toEqual([
    0.9, 0.9, 0, 0, 0.9, 0.9,
  ])
})

edge('thyme', 'a truncated rollout leaves the loss, and stays in its group and in the denominator', () => {
  const batch = { ...fixture, rewards: [1, 0], groupStart: [0, 2], truncated: [0, 1] }
  const step = optimizationStep(thyme({ klCoef: 0 }), batch)
  const whole = optimizationStep(thyme({ klCoef: 0, overlongFilter: false }), batch)
  expect(Array.from(step.advantage!)).toEqual(Array.from(whole.advantage!))
  expect(Array.from(step.rollouts)).toEqual([1, 0])
  expect(Array.from(step.gradLogp!.data.slice(0, 4))).toEqual(Array.from(whole.gradLogp!.data.slice(0, 4)))
  expect(Array.from(step.gradLogp!.data.slice(4))).toEqual([0, 0, 0, 0])
})

edge('thyme', 'groups without variance are resampled if asked for', () => {
  const groups = { rewards: [1, 1, 0, 1, 0.5], groupStart: [0, 2, 4, 5] }
  expect(prepareStep(thyme(), groups).sample).toEqual({ resample: [] })
  expect(prepareStep(thyme({ dynamicSample: true }), groups).sample).toEqual({ resample: [0, 2] })
})

edge('thyme', 'a rejected rollout is not compared; a group without rollouts is not resampled', () => {
  const groups = {
    rewards: [1, 1, 0, 1, 0, 0, 1, 0],
    groupStart: [0, 3, 3, 6, 8],
    rolloutMask: [1, 1, 0, 0, 1, 1, 0, 0],
  }
  expect(prepareStep(thyme({ dynamicSample: true }), groups).sample).toEqual({ resample: [0, 2, 3] })
  const { rolloutMask, ...all } = groups
  expect(prepareStep(thyme({ dynamicSample: true }), all).sample).toEqual({ resample: [] })
})

edge('thyme', 'ragged groups, a group of one and equal rewards: advantage 0 without variance', () => {
  const { advantage } = prepareStep(thyme(), { rewards: [2, 1, 1, 1, 3, 0], groupStart: [0, 1, 4, 6] })
  expect(Array.from(advantage!).slice(0, 4)).toEqual([0, 0, 0, 0])
  expect(advantage![4]).toBeGreaterThan(0)
})

edge('thyme', 'everything truncated: loss 0, gradients 0', () => {
  const step = optimizationStep(thyme(), { ...fixture, rewards: [1, 0], truncated: [1, 1] })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('thyme', 'columns that are missing or of another length, an aggregation without its length', () => {
  const batch = { ...fixture, rewards: [1, 0] }
  const { refLogp, ...without } = batch
  expect(() => prepareStep(thyme(), { groupStart: [0, 1] })).toThrow('thyme: rewards is missing from the batch')
  expect(() => prepareStep(thyme(), { ...batch, truncated: [1] })).toThrow('thyme: truncated has 1 values, expected 2')
  expect(() => optimizationStep(thyme(), without)).toThrow(
    'thyme: refLogp is missing from the batch, expected f32[T]: log-probabilities under the reference policy, as klCoef is 0.01',
  )
  expect(() => thyme({ aggregate: 'constant' })).toThrow('thyme: maxLength is null, but aggregate is constant')
  expect(optimizationStep(thyme({ aggregate: 'constant', maxLength: 4 }), batch).loss).not.toBe(0)
})
