import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { adaGrpo } from '../../../lib/recipes/methods/ada_grpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const format = ['L', 'L', 'L', 'L', 'S', 'S', 'C', 'D']
const batchOf = (progress: number, rewards = [1, 1, 0, 1, 1, 0, 1, 0]) => ({
  rewards,
  format,
  progress,
  groupStart: [0, 8],
})
const prepared = (progress: number, rewards?: number[]) => prepareStep(adaGrpo(), batchOf(progress, rewards))
const ones = Array(8).fill(1)

golden('adaGrpo', 'at the first step', (check) => {
  check.float64(prepared(0, ones).rewards!, [2, 2, 2, 2, 4, 4, 8, 8])
  const [long, wrong] = [-0.0921690803206, -0.829521722886]
  check.float32(prepared(0).advantage!, [long, long, wrong, long, 0.645183562244, wrong, 2.11988884737, wrong])
})

golden('adaGrpo', 'half way', (check) => {
  check.float64(prepared(0.5, ones).rewards!, [1.5, 1.5, 1.5, 1.5, 2.5, 2.5, 4.5, 4.5])
  const { advantage } = prepared(0.5)
  check.float32(
    [0, 4, 6, 2].map((i) => advantage![i]!),
    [0.0404414626606, 0.68750486523, 1.98163167037, -0.930153641194],
  )
})

golden('adaGrpo', 'at the last step it is GRPO', (check) => {
  check.float64(prepared(1, ones).rewards!, ones)
  const [right, wrong] = [0.724567437312, -1.20761239552]
  check.float32(prepared(1).advantage!, [right, right, wrong, right, right, wrong, right, wrong])
})

golden('adaGrpo', 'the loss is a token mean', (check) => {
  const step = optimizationStep(adaGrpo({ klCoef: 0 }), { ...fixture, format: ['a', 'b'], progress: 0, advantage })
  check.float32(step.loss, 0.11, 12) // token losses of 1.35 in size on average
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('adaGrpo', 'alpha falls from n / F to 1, and is 1 throughout for one format', () => {
  const list = [0, 0.25, 0.5, 0.75, 1].map((t) => prepared(t, ones).rewards![6]!)
  expect([...list].sort((a, b) => b - a)).toEqual(list)
  const given = { ...batchOf(0, ones), format: Array(8).fill('L') }
  expect(Array.from(prepareStep(adaGrpo(), given).rewards!)).toEqual(ones)
})

edge('adaGrpo', 'equal rewards in one format, and a group of one with its own reward', () => {
  const given = { rewards: [1, 1, 1], format: [1, 1, 2], progress: 0, groupStart: [0, 2, 3] }
  expect(Array.from(prepareStep(adaGrpo(), given).advantage!)).toEqual([0, 0, Math.fround(1 / (1 + 1e-6))])
})

edge('adaGrpo', 'ragged groups count their own rollouts, rejected ones not', () => {
  const given = { rewards: [1, 1, 1, 1, 1], format: ['L', 'S', 'L', 'L', 'S'], progress: 0, groupStart: [0, 2, 5] }
  expect(Array.from(prepareStep(adaGrpo(), given).rewards!)).toEqual([2, 2, 1.5, 1.5, 3])
  const rejected = prepareStep(adaGrpo(), { ...given, rolloutMask: [1, 1, 0, 1, 1] })
  expect(Array.from(rejected.rewards!)).toEqual([2, 2, 0, 2, 2])
})

edge('adaGrpo', 'an unknown format has reward 0, and the progress lies in 0..1', () => {
  const given = { rewards: [1, 0], format: ['unknown', 'L'], progress: 0, groupStart: [0, 2] }
  expect(() => prepareStep(adaGrpo(), given)).toThrow(
    'adaGrpo: rewards has 1 at 0, expected 0 where the format is unknown',
  )
  expect(Array.from(prepareStep(adaGrpo(), { ...given, rewards: [0, 1] }).rewards!)).toEqual([0, 2])
  for (const progress of [1.5, -0.1, Number.NaN]) {
    expect(() => prepareStep(adaGrpo(), { ...given, progress })).toThrow(
      `adaGrpo: progress is ${progress}, expected a number from 0 to 1`,
    )
  }
})

edge('adaGrpo', 'everything masked', () =>
  learnsNothing(adaGrpo(), { rewards: [1, 0], format: ['a', 'b'], progress: 0 }),
)

edge('adaGrpo', 'format is missing', () => {
  const { format, ...rest } = batchOf(0)
  expect(() => prepareStep(adaGrpo(), rest as never)).toThrow(
    'adaGrpo: format is missing from the batch, expected id[N]',
  )
})
