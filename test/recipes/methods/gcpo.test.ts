import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gcpo } from '../../../lib/recipes/methods/gcpo.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const batch = { correct: [1, 1, 0, 1, 0, 1, 0, 0], auxiliary: [1, 1, 1, 1, 0, 0, 0, 0], groupStart: [0, 8] }

golden('gcpo', 'the auxiliary reward is gated by the contrast', (check) => {
  const { rewards, advantage } = prepareStep(gcpo(), batch)
  check.float64(rewards!, [1.5, 1.5, 0.5, 1.5, 0, 1, 0, 0])
  const [a, b] = [1.060658671782, 0.353552890594]
  check.float32(advantage!, [a, a, -b, a, -a, b, -a, -a])
})

golden('gcpo', 'the loss is GRPO’s', (check) => {
  const step = optimizationStep(gcpo({ klCoef: 0 }), { ...fixture, correct: [1, 0], auxiliary: [1, 0], advantage })
  check.float32(step.loss, -0.085)
})

const rewards = (correct: number[], auxiliary: number[], options = {}, more = {}) =>
  Array.from(prepareStep(gcpo(options), { correct, auxiliary, groupStart: [0, correct.length], ...more }).rewards!)

edge('gcpo', 'the sign of the contrast', () => {
  expect(rewards([0, 1], [1, 0])).toEqual([-0.5, 1])
  expect(rewards([1, 0], [1, 0])).toEqual([1.5, 0])
  expect(rewards([1, 1], [1, 0])).toEqual([1, 1])
})

edge('gcpo', 'a contrast of exactly the margin counts for nothing', () => {
  expect(rewards([1, 0, 0, 0], [1, 1, 0, 0], { margin: 0.5 })).toEqual([1, 0, 0, 0])
  expect(rewards([1, 0, 0, 0], [1, 1, 0, 0], { margin: 0.49 })).toEqual([1.5, 0.5, 0, 0])
})

edge('gcpo', 'an empty subgroup', () => {
  expect(rewards([1, 1], [1, 1])).toEqual([1, 1])
  expect(rewards([1, 0], [0, 0])).toEqual([1, 0])
})

edge('gcpo', 'format and length', () => {
  const more = { format: [1, 0], sequenceStart: starts([3, 40]) }
  expect(rewards([1, 1], [0, 0], { lengthWeight: 2, maxLength: 12 }, more)).toEqual([2.5, 3])
})

edge('gcpo', 'ragged groups are contrasted by themselves; a group of one has advantage 0', () => {
  const given = { correct: [1, 1, 0, 0, 1], auxiliary: [1, 1, 0, 1, 0], groupStart: [0, 1, 3, 5] }
  const { rewards, advantage } = prepareStep(gcpo(), given)
  expect(Array.from(rewards!)).toEqual([1, 1.5, 0, -0.5, 1])
  expect(advantage![0]).toBe(0)
})

edge('gcpo', 'rejected rollouts are in no subgroup', () => {
  expect(rewards([1, 0, 0], [1, 0, 1], {}, { rolloutMask: [1, 0, 1] })).toEqual([1, 0, 0])
})

edge('gcpo', 'equal rewards have advantage 0', () => {
  const { advantage } = prepareStep(gcpo(), { correct: [1, 1], auxiliary: [1, 0], groupStart: [0, 2] })
  expect(Array.from(advantage!)).toEqual([0, 0])
})

edge('gcpo', 'everything masked', () => learnsNothing(gcpo(), { correct: [1, 0], auxiliary: [1, 0] }))

edge('gcpo', 'auxiliary is missing', () => {
  const given = { correct: [1], groupStart: [0, 1] }
  expect(() => prepareStep(gcpo(), given as never)).toThrow('gcpo: auxiliary is missing from the batch')
})
