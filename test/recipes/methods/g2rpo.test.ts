import { expect } from 'vitest'
import { array } from '../../../lib/index.js'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { g2rpo } from '../../../lib/recipes/methods/g2rpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const coarse = [0.3, 0.5, 0.4]
const fine = [0.2, 0.6, 0.1]
const example = { groupStart: [0, 3], sequenceStart: [0, 1, 2, 3] }
const advantagesOf = (views: number[], more: object = {}) =>
  prepareStep(g2rpo(), { ...example, views, ...more }).tokenAdvantage!

golden('g2rpo', 'advantages of each view and their sum', (check) => {
  // The rewards are four times as large as their differences.
  check.float32(advantagesOf(coarse), [-0.9999999, 0.9999999, 0], 4)
  check.float32(advantagesOf(fine), [-0.377964458724, 1.133893376171, -0.755928917447], 4)
  const both = coarse.flatMap((reward, i) => [reward, fine[i]!])
  check.float32(advantagesOf(both), [-1.377964358724, 2.133893276171, -0.755928917447], 4)
})

golden('g2rpo', 'loss and gradient', (check) => {
  const views = new Float32Array(8)
  const step = optimizationStep(g2rpo({ clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, views, advantage })
  check.float32(step.loss, 0.11, 12) // the tokens' losses are 12 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('g2rpo', 'steps are apart by number and prompt; ragged trajectories', () => {
  const batch = { groupStart: [0, 2, 4], sequenceStart: [0, 2, 3, 5, 7], step: [0, 1, 0, 1, 0, 0, 1] }
  // Numbers 0 and 1 of the first prompt: steps 0 and 2, and 1 alone; of the second 4 and 5, and 3 and 6.
  const a = Math.SQRT1_2
  const expected = [a, 0, -a, -a, a, -a, a].map((x) => expect.closeTo(x, 6))
  expect(Array.from(advantagesOf([1, 9, 0, 0, 1, 0, 1], batch))).toEqual(expected)
  const byPlace = { ...batch, step: undefined }
  expect(Array.from(advantagesOf([1, 9, 0, 1, 0, 0, 1], byPlace))).toEqual([a, 0, -a, a, -a, -a, a].map((x) => expect.closeTo(x, 6))) // biome-ignore format: short
})

edge('g2rpo', 'equal rewards and a group of one have advantage 0; the sum lies within 5', () => {
  expect(advantagesOf([0.1, 0.1, 0.1])).toEqual(new Float32Array(3))
  expect(advantagesOf([1, 2, 3], { groupStart: [0, 1, 2, 3] })).toEqual(new Float32Array(3))
  // Six views of (1 - 1 / 3) / sqrt(1 / 3) = 1.15 each.
  expect(advantagesOf([...Array(6).fill(1), ...Array(12).fill(0)])[0]).toBe(5)
})

edge('g2rpo', 'masked steps and rejected trajectories enter no statistic', () => {
  const a = Math.SQRT1_2
  const expected = [-a, a, 0].map((x) => expect.closeTo(x, 6))
  expect(Array.from(advantagesOf([0.3, 0.5, 9], { mask: [1, 1, 0] }))).toEqual(expected)
  expect(Array.from(advantagesOf([0.3, 0.5, 9], { rolloutMask: [1, 1, 0] }))).toEqual(expected)
})

edge(
  'g2rpo',
  'a Gaussian policy, on the policy that sampled: minus the advantage times the gradient of the density',
  () => {
    const rows = (...x: number[]) => array(Float32Array.from(x), [3, 1])
    const [x, mean, std] = [rows(0.5, 0, -1), rows(0, 0, 0), Float32Array.of(1, 1, 1)]
    const oldLogp = Float32Array.from([0.5, 0, -1], (v) => (-v * v - Math.log(2 * Math.PI)) / 2)
    const step = optimizationStep(g2rpo(), { ...example, views: coarse, x, mean, std, oldLogp })
    expect(Array.from(step.gradMean!.data)).toEqual([0.5 / 3, -0, 0].map((g) => expect.closeTo(g, 5)))
  },
)

edge('g2rpo', 'everything masked', () => learnsNothing(g2rpo(), { views: new Float32Array(8) }))

edge('g2rpo', 'without views; with another number of them', () => {
  expect(() => prepareStep(g2rpo(), example as never)).toThrow('g2rpo: views is missing from the batch, expected number[T,V]') // biome-ignore format: short
  expect(() => advantagesOf([1, 2])).toThrow('g2rpo: views has 2 values, expected a multiple of 3')
})
