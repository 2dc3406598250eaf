import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { trainLong } from '../../../lib/recipes/methods/train_long.js'
import { close } from '../../support/compare.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const flags = (n: number) => ({ correct: Array(n).fill(0), think: Array(n).fill(0), answer: Array(n).fill(0) })
const batchOf = (lengths: number[]) => ({
  ...flags(lengths.length),
  step: 0,
  groupStart: [0, lengths.length],
  sequenceStart: starts(lengths),
})
const lengthOnly = { budget: 128, correctWeight: 0, lengthWeight: 1, formatWeight: 0 }

golden('trainLong', 'the budget', (check) => {
  const { budget } = trainLong({ interval: 100 }).sample
  check.float64([0, 99, 100, 250, 600].map(budget), [256, 256, 179.2, 125.43999999999998, 30.11814399999999])
})

golden('trainLong', 'the length reward', (check) => {
  const { rewards } = prepareStep(trainLong(lengthOnly), batchOf([64, 128, 160, 256, 257]))
  check.float64(rewards!, [0.5, 1, 0.75, 0, 0])
})

golden('trainLong', 'the defaults end at the published budget of 87', (check) => {
  check.float64(Math.floor(trainLong().sample.budget(599)), 87)
})

golden('trainLong', 'population standard deviation', (check) => {
  // Lengths of L, 0, L / 2, 0 tokens have the length rewards 1, 0, 0.5, 0; an eps under the root that adds about 1e-6.
  const eps = (0.41457809879442503 + 1e-6) ** 2 - 0.171875
  const { advantage } = prepareStep(trainLong({ ...lengthOnly, eps }), batchOf([128, 0, 64, 0]))
  check.float32(advantage!, [1.5075530865, -0.9045318519, 0.3015106173, -0.9045318519])
})

edge('trainLong', 'the parts of the reward', () => {
  const given = { ...batchOf([128, 128, 128, 300]), correct: [1, 0, 0, 0], think: [0, 1, 0, 0], answer: [0, 1, 1, 0] }
  const { rewards } = prepareStep(trainLong({ budget: 128 }), given)
  expect(Array.from(rewards!)).toEqual([0.6 + 0.3, 0.3 + 0.1, 0.3 + 0.1 * 0.5, 0])
})

edge('trainLong', 'wrong answers collect the length reward; a band is flat below the budget', () => {
  const { rewards } = prepareStep(trainLong({ ...lengthOnly, shape: 'band' }), batchOf([0, 64, 128, 160]))
  expect(Array.from(rewards!)).toEqual([1, 1, 1, 0.75])
})

edge('trainLong', 'the budget is at least 1, and the next one is what a step returns', () => {
  expect(trainLong({ interval: 1 }).sample.budget(1000)).toBe(1)
  expect(prepareStep(trainLong(), { ...batchOf([1]), step: 149 }).sample).toEqual({ budget: 256 * 0.7 })
})

edge('trainLong', 'the ratio is that of the rollout', () => {
  // Ratios 1.4 · 1 · 0.7 = 0.98 and 0.7 · 3.5 · 1 · 1.1 = 2.695: inside the interval, and not clipped as A < 0.
  const step = optimizationStep(trainLong({ klCoef: 0 }), { ...fixture, ...flags(2), step: 0, advantage })
  const [first, second] = [(-1.5 * 0.98) / 2, (0.8 * 2.695) / 2]
  close([step.loss], [first + second], 2 ** -21)
  close(unmasked(step.gradLogp!.data), [first, first, first, second, second, second, second], 2 ** -21)
})

edge('trainLong', 'eps stands under the root: equal rewards and a group of one have advantage 0', () => {
  const given = { ...batchOf([5, 5, 9]), groupStart: [0, 2, 3] }
  expect(Array.from(prepareStep(trainLong(), given).advantage!)).toEqual([0, 0, 0])
  const { advantage } = prepareStep(trainLong({ ...lengthOnly, eps: 1 }), batchOf([128, 0]))
  expect(Array.from(advantage!)).toEqual([0.5, -0.5].map((x) => Math.fround(x / Math.sqrt(1.25))))
})

edge('trainLong', 'ragged groups', () => {
  const { advantage } = prepareStep(trainLong(lengthOnly), { ...batchOf([128, 0, 0, 0, 0]), groupStart: [0, 2, 5] })
  expect(Array.from(advantage!, Math.sign)).toEqual([1, -1, 0, 0, 0])
})

edge('trainLong', 'everything masked', () => learnsNothing(trainLong(), { ...flags(2), step: 0 }))

edge('trainLong', 'step is missing', () => {
  const { step, ...rest } = batchOf([1])
  expect(() => prepareStep(trainLong(), rest as never)).toThrow(
    'trainLong: step is missing from the batch, expected integer: how many optimization steps came before this one',
  )
})

edge('trainLong', 'a step below 0', () => {
  const text = 'trainLong: step is -1, expected at least 0'
  expect(() => prepareStep(trainLong(), { ...batchOf([1]), step: -1 })).toThrow(text)
  expect(() => prepareStep(trainLong(), { ...batchOf([1]), step: -1, advantage: [1] })).toThrow(text)
  expect(() => trainLong().sample.budget(-1)).toThrow(text)
  expect(() => trainLong().sample.budget(Number.NaN)).toThrow('trainLong: step is NaN, expected at least 0')
})
