import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { unlikeliness } from '../../../lib/recipes/methods/unlikeliness.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

/** Rollouts of two tokens whose log-probabilities have these means. */
const batchOf = (means: number[], rewards: number[], groupStart = [0, means.length]) => ({
  rewards,
  groupStart,
  sequenceStart: [0, ...means.map((_, i) => 2 * i + 2)],
  oldLogp: Float32Array.from(means.flatMap((m) => [m - 0.1, m + 0.1])),
})

golden('unlikeliness', 'ranks by the mean', (check) => {
  const { rewards, advantage } = prepareStep(unlikeliness(), batchOf([-0.9, -0.5, -1.4, -0.7], [1, 1, 1, 0]))
  check.float64(rewards!, [0.9375, 0.8125, 1, 0])
  check.float32(advantage!, [0.537731701314, 0.268865850657, 0.672164626642, -1.478762178613])
})

golden('unlikeliness', 'the ranks themselves', (check) => {
  // With every reward 1, rank = 4 (1 - reward) / betaRank.
  const { rewards } = prepareStep(unlikeliness({ betaRank: 1 }), batchOf([-0.9, -0.5, -1.4, -0.7], [1, 1, 1, 1]))
  check.float64(
    rewards!.map((r) => 4 * (1 - r)),
    [1, 3, 0, 2],
  )
})

golden('unlikeliness', 'the loss is a token mean', (check) => {
  const step = optimizationStep(unlikeliness({ klCoef: 0 }), { ...fixture, advantage })
  check.float32(step.loss, 0.11, 12) // token losses of 1.35 in size on average
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('unlikeliness', 'the most likely rollout loses beta (n - 1) / n, the least likely nothing', () => {
  const { rewards } = prepareStep(unlikeliness(), batchOf([-3, -2, -1], [1, 1, 1]))
  expect(rewards![0]).toBe(1)
  expect(rewards![2]).toBe(1 - (0.25 * 2) / 3)
})

edge('unlikeliness', 'per token or in all: the length changes the order', () => {
  const given = {
    rewards: [1, 1],
    groupStart: [0, 2],
    sequenceStart: [0, 1, 5],
    oldLogp: Float32Array.of(-2, -1, -1, -1, -1),
  }
  const rewards = (key: 'mean' | 'sum') => Array.from(prepareStep(unlikeliness({ key, betaRank: 1 }), given).rewards!)
  expect(rewards('mean')).toEqual([1, 0.5])
  expect(rewards('sum')).toEqual([0.5, 1])
})

edge('unlikeliness', 'ties keep the order of the group; a rollout without tokens is a most likely one', () => {
  const given = batchOf([-1, -1, -1], [1, 1, 1])
  const rewards = (mask: number[]) =>
    Array.from(prepareStep(unlikeliness({ betaRank: 0.75 }), { ...given, mask }).rewards!)
  expect(rewards([1, 1, 1, 1, 1, 1])).toEqual([1, 0.75, 0.5])
  expect(rewards([0, 0, 1, 1, 1, 1])).toEqual([0.5, 1, 0.75])
})

edge('unlikeliness', 'groups that are all right or all wrong leave the loss, unless asked', () => {
  const given = batchOf([-1, -2, -1, -2, -1, -2, -3, -1, -2], [1, 1, 0, 0, 1, 0, 1, 0, 1], [0, 2, 4, 7, 9])
  expect(Array.from(prepareStep(unlikeliness(), given).rollouts)).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 1])
  const kept = prepareStep(unlikeliness({ dropUniform: false }), given)
  expect(Array.from(kept.rollouts)).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1])
  expect(kept.advantage![1]).toBeGreaterThan(0) // all right: the unlikely one is favoured
  expect(Array.from(kept.advantage!).slice(2, 4)).toEqual([0, 0])
})

edge('unlikeliness', 'a group of one has its own reward as advantage', () => {
  const { advantage } = prepareStep(unlikeliness(), batchOf([-1], [1]))
  expect(Array.from(advantage!)).toEqual([Math.fround(1 / (1 + 1e-6))])
})

edge('unlikeliness', 'a rejected rollout has no rank', () => {
  const given = { ...batchOf([-3, -2, -1], [1, 1, 0]), rolloutMask: [0, 1, 1] }
  expect(Array.from(prepareStep(unlikeliness(), given).rewards!)).toEqual([1, 1, 0])
})

edge('unlikeliness', 'everything masked', () => learnsNothing(unlikeliness(), { rewards: [1, 0] }))

edge('unlikeliness', 'oldLogp is missing', () => {
  const { oldLogp, ...rest } = batchOf([-1], [1])
  expect(() => prepareStep(unlikeliness(), rest)).toThrow('unlikeliness: oldLogp is missing from the batch')
})
