import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { grpoLambda } from '../../../lib/recipes/methods/grpo_lambda.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const lengths = [100, 200, 300, 250, 10, 20, 30, 40]
const batch = {
  correct: [1, 1, 1, 0, 1, 0, 0, 0],
  groupStart: [0, 4, 8],
  sequenceStart: starts(lengths),
}

golden('grpoLambda', 'one of two groups is efficient', (check) => {
  const { rewards, advantage } = prepareStep(grpoLambda({ lambda: 0.5 }), batch)
  check.float64(rewards!, [0.863738488339, 0.7, 0.536261511661, 0, 1, 0, 0, 0])
  const third = -0.499999000002
  const first = [0.904108969447, 0.46708323707, 0.030057504692, -1.401249711209]
  check.float32(advantage!, [...first, 1.499997000006, third, third, third])
})

golden('grpoLambda', 'the loss is GRPO’s', (check) => {
  check.float32(optimizationStep(grpoLambda({ klCoef: 0 }), { ...fixture, correct: [1, 0], advantage }).loss, -0.085)
})

const rewardsOf = (correct: number[], sizes: number[], lengths: number[], options = {}) => {
  const given = { correct, groupStart: starts(sizes), sequenceStart: starts(lengths) }
  return Array.from(prepareStep(grpoLambda(options), given).rewards!)
}

edge('grpoLambda', 'one correct rollout, or equal lengths: sigmoid(0)', () => {
  expect(rewardsOf([1, 0, 0], [3], [5, 7, 9])).toEqual([0.7, 0, 0])
  expect(rewardsOf([1, 1, 0], [3], [5, 5, 9])).toEqual([0.7, 0.7, 0])
})

edge('grpoLambda', 'a top group without a correct rollout has rewards and advantages 0', () => {
  const given = { correct: [0, 0], groupStart: [0, 2], sequenceStart: [0, 1, 3] }
  const { rewards, advantage } = prepareStep(grpoLambda(), given)
  expect(Array.from(rewards!)).toEqual([0, 0])
  expect(Array.from(advantage!)).toEqual([0, 0])
})

edge('grpoLambda', 'equal accuracies at the cut: the earlier group', () => {
  expect(rewardsOf([1, 0, 1, 0], [2, 2], [1, 1, 1, 1], { lambda: 0.5 })).toEqual([0.7, 0, 1, 0])
})

edge('grpoLambda', 'ragged groups, and the number of efficient groups is rounded up', () => {
  const rewards = rewardsOf([1, 1, 0, 1, 0, 0], [1, 2, 3], [1, 1, 1, 1, 1, 1], { lambda: 0.4 })
  expect(rewards).toEqual([0.7, 0.7, 0, 1, 0, 0])
})

edge('grpoLambda', 'groups without rollouts do not count among the groups', () => {
  expect(rewardsOf([1, 1], [1, 0, 0, 1], [2, 2], { lambda: 0.5 })).toEqual([0.7, 1])
})

edge('grpoLambda', 'a group of one has advantage 0', () => {
  const { advantage } = prepareStep(grpoLambda(), { correct: [1], groupStart: [0, 1], sequenceStart: [0, 3] })
  expect(Array.from(advantage!)).toEqual([0])
})

edge('grpoLambda', 'rejected rollouts count neither in the accuracy nor in the lengths', () => {
  const given = { ...batch, rolloutMask: [1, 1, 1, 0, 1, 0, 0, 0] }
  const { rewards } = prepareStep(grpoLambda({ lambda: 0.5 }), { ...given, correct: [1, 1, 0, 1, 1, 1, 1, 1] })
  expect(Array.from(rewards!).slice(4, 5)).toEqual([0.7]) // the second group's only rollout, all right
  expect(Array.from(rewards!).slice(0, 3)).toEqual([1, 1, 0])
})

edge('grpoLambda', 'everything masked', () => learnsNothing(grpoLambda(), { correct: [1, 0] }))

edge('grpoLambda', 'correct is missing', () => {
  const { correct, ...rest } = batch
  expect(() => prepareStep(grpoLambda(), rest as never)).toThrow('grpoLambda: correct is missing from the batch')
})

edge('grpoLambda', '0.07 of 100 groups are 7, though the product is above it', () => {
  const ones = Array<number>(100).fill(1)
  const rewards = rewardsOf(ones, ones, ones, { lambda: 0.07 })
  expect(rewards.filter((r) => r !== 1).length).toBe(7)
})
