import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { evolRl } from '../../../lib/recipes/methods/evol_rl.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const E = [
  [1, 0, 0],
  [0.8, 0.6, 0],
  [0, 1, 0],
  [0, 0.6, 0.8],
  [0, 0, 1],
]
const dot = (a: number[], b: number[]) => a.reduce((sum, x, d) => sum + x * b[d]!, 0)
const S = E.map((a) => E.map((b) => dot(a, b)))
const batch = { majority: [1, 1, 1, 0, 0], similarity: [S], groupStart: [0, 5] }

golden('evolRl', 'majority and novelty', (check) => {
  const { rewards, advantage } = prepareStep(evolRl(), batch)
  check.float64(rewards!, [0.75, 0.5, 1, -0.75, -0.75])
  const minority = -1.07093413682
  check.float32(advantage!, [0.713956091214, 0.416474386541, 1.01143779589, minority, minority])
})

golden('evolRl', 'the dual clip', (check) => {
  const columns = { majority: [1, 0], similarity: [[[1]], [[1]]] }
  const recipe = evolRl({ clipHigh: 0.2, entropyCoef: 0, klCoef: 0 })
  check.float32(optimizationStep(recipe, { ...fixture, ...columns, advantage }).loss, 0.0528571429)
})

const ones = (n: number) => Array.from({ length: n }, () => Array<number>(n).fill(1))
const rewards = (majority: number[], similarity = ones(majority.length), more = {}) =>
  Array.from(
    prepareStep(evolRl(), { majority, similarity: [similarity], groupStart: [0, majority.length], ...more }).rewards!,
  )

edge('evolRl', 'alone with its label, or equally novel', () => {
  expect(rewards([1, 0])).toEqual([1, -0.5])
  expect(rewards([1, 1, 0])).toEqual([0.75, 0.75, -0.5])
})

edge('evolRl', 'similarities are clipped to 0..1', () => {
  // -3 counts as 0 and 7 as 1: unclipped, the last two would differ.
  const [a, b] = [-3, 7]
  const matrix = [
    [1, a, 0],
    [a, 1, b],
    [0, b, 1],
  ]
  expect(rewards([1, 1, 1], matrix)).toEqual([1, 0.5, 0.5])
})

edge('evolRl', 'the mean runs within the label, the maximum over all', () => {
  // Rollout 2 is alone in its label's direction, but a copy of 3, which has another label.
  const matrix = [
    [1, 0.2, 0, 0],
    [0.2, 1, 0, 0],
    [0, 0, 1, 1],
    [0, 0, 1, 1],
  ]
  // Means 0.1, 0.1, 0 and maxima 0.2, 0.2, 1 give u = 0.85, 0.85, 0.5; a maximum within the label would favour 2.
  expect(rewards([1, 1, 1, 0], matrix)).toEqual([1, 1, 0.5, -0.5])
})

edge('evolRl', 'invalid responses have -1 and are no neighbours', () => {
  const matrix = [
    [1, 0, 0.5, 1],
    [0, 1, 0.5, 0],
    [0.5, 0.5, 1, 0],
    [1, 0, 0, 1],
  ]
  expect(rewards([1, 1, 1, 0], matrix, { valid: [1, 1, 1, 0] })).toEqual([1, 1, 0.5, -1])
})

edge('evolRl', 'a single valid response: its label if it is the group, else -1', () => {
  expect(rewards([1])).toEqual([1])
  expect(rewards([0])).toEqual([0])
  expect(rewards([1], [[1]], { valid: [0] })).toEqual([-1])
  expect(rewards([1, 0], ones(2), { valid: [1, 0] })).toEqual([-1, -1])
  const { advantage } = prepareStep(evolRl(), { majority: [1], similarity: [[[1]]], groupStart: [0, 1] })
  expect(Array.from(advantage!)).toEqual([Math.fround(1 / (1 + 1e-6))])
})

edge('evolRl', 'equal rewards have advantage 0', () => {
  const { advantage } = prepareStep(evolRl(), { majority: [1, 1], similarity: [ones(2)], groupStart: [0, 2] })
  expect(Array.from(advantage!)).toEqual([0, 0])
})

edge('evolRl', 'all vote, the first ones are trained on', () => {
  const { rewards, advantage, rollouts } = prepareStep(evolRl({ trained: 2 }), batch)
  expect(Array.from(rewards!).slice(0, 3)).toEqual([0.75, 0.5, 1]) // novelty is normalised with the third
  expect(Array.from(rollouts)).toEqual([1, 1, 0, 0, 0])
  expect(Array.from(advantage!)).toEqual(
    [0.125, -0.125, 0, 0, 0].map((a) => Math.fround(a / (Math.SQRT1_2 / 4 + 1e-6))),
  )
  expect(Array.from(prepareStep(evolRl({ trained: null }), batch).rollouts)).toEqual([1, 1, 1, 1, 1])
})

edge('evolRl', 'ragged groups, and a rejected rollout', () => {
  const given = { majority: [1, 1, 1, 1, 0], similarity: [ones(2), ones(3)], groupStart: [0, 2, 5] }
  expect(Array.from(prepareStep(evolRl(), given).rewards!)).toEqual([0.75, 0.75, 0.75, 0.75, -0.5])
  const rejected = prepareStep(evolRl(), { ...given, rolloutMask: [1, 1, 1, 0, 1] })
  expect(Array.from(rejected.rewards!).slice(2, 3)).toEqual([1])
  expect(Array.from(rejected.rollouts)).toEqual([1, 1, 1, 0, 1])
})

edge('evolRl', 'everything masked', () => {
  const columns = { majority: [1, 0], similarity: [[[1]], [[1]]], entropy: new Float32Array(8).fill(1) }
  learnsNothing(evolRl(), columns)
})

edge('evolRl', 'the entropy bonus needs entropies', () => {
  const columns = { majority: [1, 0], similarity: [[[1]], [[1]]] }
  expect(() => optimizationStep(evolRl(), { ...fixture, ...columns })).toThrow(
    'evolRl: entropy is missing from the batch',
  )
})

edge('evolRl', 'a similarity that is missing or no square', () => {
  const { similarity, ...rest } = batch
  expect(() => prepareStep(evolRl(), rest as never)).toThrow('evolRl: similarity is missing from the batch')
  const given = { majority: [1, 1], groupStart: starts([2]) }
  const problem = 'evolRl: similarity of group 0 is no matrix of 2 rows of 2 values'
  for (const wrong of [[], [[[1, 1]]], [[[1], [1]]]]) {
    expect(() => prepareStep(evolRl(), { ...given, similarity: wrong })).toThrow(problem)
  }
})
