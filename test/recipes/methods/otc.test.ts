import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { otc } from '../../../lib/recipes/methods/otc.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batchOf = (toolCalls: number[], correct = toolCalls.map(() => 1)) => ({
  toolCalls,
  correct,
  groupStart: [0, toolCalls.length],
  prompt: ['q'],
})

golden('otc', 'OTC-PPO', (check) => {
  const rewards = (smoothing: number) => prepareStep(otc({ form: 'ppo', smoothing }), batchOf([0, 1, 2, 3, 4])).rewards!
  check.float64(rewards(4), [1, 0.866025403784, Math.SQRT1_2, 0.587785252292, 0.5])
  check.float64(rewards(1), [1, 0.5, 0.309016994375, 0.222520933956, 0.173648177667])
})

golden('otc', 'OTC-GRPO', (check) => {
  const { rewards, advantage } = prepareStep(otc(), batchOf([2, 3, 6, 1], [1, 1, 1, 0]))
  check.float64(rewards!, [1, 0.951056516295, Math.SQRT1_2, 0])
  check.float32(advantage!, [0.727397568868, 0.621270285296, 0.0922984844474, -1.44096633861])
})

golden('otc', 'the tool reward of m = 1, n = 2, which m = 4 has too', (check) => {
  // Only a wrong rollout can have fewer calls than n, with reward 0; but m = n k and m = n / k are rewarded alike.
  check.float64(prepareStep(otc(), batchOf([2, 4])).rewards![1]!, 0.866025403784)
})

golden('otc', 'OTC-GRPO where no tool is needed', (check) => {
  check.float64(prepareStep(otc({ smoothing: 4 }), batchOf([0, 1, 3])).rewards!, [1, 0.866025403784, 0.587785252292])
})

golden('otc', 'the loss is GRPO’s', (check) => {
  const columns = { ...batchOf([1, 1]), prompt: ['a', 'b'] }
  check.float32(optimizationStep(otc({ klCoef: 0 }), { ...columns, ...fixture, advantage }).loss, -0.085)
})

edge('otc', 'the fewest calls of a question are kept over the visits, and never those of a wrong rollout', () => {
  const recipe = otc()
  const first = prepareStep(recipe, batchOf([2, 1], [1, 0]))
  expect(first.state!.data).toEqual({ fewest: { q: 2 } })
  const second = prepareStep(recipe, batchOf([4, 6]), first.state)
  expect(second.state!.data).toEqual({ fewest: { q: 2 } })
  expect(Array.from(second.rewards!)).toEqual([Math.sin((4 / 6) * Math.PI), Math.sin((6 / 8) * Math.PI)])
  expect(prepareStep(recipe, batchOf([0, 5]), second.state).state!.data).toEqual({ fewest: { q: 0 } })
  expect(first.state!.data).toEqual({ fewest: { q: 2 } })
})

edge('otc', 'a question in two groups of a batch is one', () => {
  const given = { toolCalls: [2, 4], correct: [1, 1], groupStart: [0, 1, 2], prompt: ['q', 'q'] }
  const { rewards, state } = prepareStep(otc(), given)
  expect(Array.from(rewards!)).toEqual([1, Math.sin((4 / 6) * Math.PI)])
  expect(state!.data).toEqual({ fewest: { q: 2 } })
})

edge('otc', 'no correct rollout: rewards and advantages 0, and nothing to remember', () => {
  const { rewards, advantage, state } = prepareStep(otc(), batchOf([1, 2], [0, 0]))
  expect(Array.from(rewards!)).toEqual([0, 0])
  expect(Array.from(advantage!)).toEqual([0, 0])
  expect(state!.data).toEqual({ fewest: {} })
})

edge('otc', 'a group of one, and equal calls, have advantage 0; ragged groups', () => {
  const given = { ...batchOf([3, 2, 2, 2]), groupStart: [0, 1, 4], prompt: ['a', 'b'] }
  expect(Array.from(prepareStep(otc(), given).advantage!)).toEqual([0, 0, 0, 0])
})

edge('otc', 'rejected rollouts set no record', () => {
  const { state, rewards } = prepareStep(otc(), { ...batchOf([1, 2]), rolloutMask: [0, 1] })
  expect(state!.data).toEqual({ fewest: { q: 2 } })
  expect(Array.from(rewards!)).toEqual([0, 1])
})

edge('otc', 'a run that is saved, restored and continued gives the same bits', () => {
  const recipe = otc()
  const { state } = prepareStep(recipe, batchOf([2, 3]))
  const restored = fromJSON(recipe, toJSON(state!))
  expect(prepareStep(recipe, batchOf([5, 7]), restored)).toMatchObject({
    rewards: prepareStep(recipe, batchOf([5, 7]), state).rewards,
  })
})

edge('otc', 'everything masked', () => learnsNothing(otc(), { ...batchOf([1, 2]), ...fixture, prompt: ['a', 'b'] }))

edge('otc', 'what cannot be counted is refused', () => {
  expect(() => prepareStep(otc(), batchOf([1, -1]))).toThrow('otc: toolCalls has -1 at 1, expected at least 0')
  const { prompt, ...rest } = batchOf([1])
  expect(() => prepareStep(otc(), rest as never)).toThrow('otc: prompt is missing from the batch, expected id[G]')
})
