import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { tempo } from '../../../lib/recipes/methods/tempo.js'
import { random } from '../../support/random.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const batchOf = (rollouts: number[][], rewards: number[], groupStart = [0, rollouts.length]) => ({
  token: rollouts.flat(),
  sequenceStart: starts(rollouts.map((tokens) => tokens.length)),
  groupStart,
  rewards,
})
const example = batchOf([[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 3, 2], [4, 1, 2]], [1, 0, 0, 0]) // biome-ignore format: four rollouts

golden('tempo', 'token advantages', (check) => {
  check.float32(
    prepareStep(tempo(), example).tokenAdvantage!,
    [
      1.66666333334, 1.833329666674, 2.49999500001, 1.499997000006, -0.333332666668, -0.166666333334, -1.499997000006,
      -0.499999000002, -0.333332666668, -1.166664333338, -0.499999000002, -0.499999000002, -0.999998000004,
      -0.499999000002, -0.499999000002,
    ],
  )
})

golden('tempo', 'loss and gradient with dual clip', (check) => {
  const options = { objective: { clipHigh: 0.2 } }
  const step = optimizationStep(tempo(), { ...fixture, advantage }, undefined, options)
  check.float32(step.loss, 0.0528571429)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0, 0.1142857143, 0.1257142857])
})

golden('tempo', 'loss with its own upper width', (check) => {
  const step = optimizationStep(tempo({ dualClip: null }), { ...fixture, advantage })
  check.float32(step.loss, 0.0928571429, 15) // the tokens' losses are 15 times as large, and cancel
})

const { integer, uniform } = random(11)
const groups = Array.from({ length: 12 }, (_, g) =>
  Array.from({ length: 1 + (g % 7) }, () => Array.from({ length: 1 + integer(8) }, () => integer(2))),
)
const groupStart = starts(groups.map((group) => group.length))
const ragged = batchOf(groups.flat(), groups.flat().map(uniform), groupStart)

edge('tempo', 'ragged groups equal the form of common prefix lengths, by brute force', () => {
  const rollouts = groups.flat()
  const { tokenAdvantage } = prepareStep(tempo({ scale: 'none' }), ragged)
  const expected = rollouts.flatMap((tokens, i) => {
    const g = groupStart.findIndex((first) => first > i) - 1
    const members = Array.from({ length: groups[g]!.length }, (_, k) => groupStart[g]! + k)
    const common = members.map((k) => {
      const end = tokens.findIndex((token, t) => rollouts[k]![t] !== token)
      return end === -1 ? tokens.length : end
    })
    const value = (t: number) => {
      const sharing = members.filter((_, k) => common[k]! >= t).map((k) => ragged.rewards[k]!)
      return sharing.reduce((total, r) => total + r, 0) / sharing.length
    }
    return tokens.map((_, j) => ragged.rewards[i]! - value(0) + value(j + 1) - value(j))
  })
  // Two roundings to float32, of numbers below 2.
  expect(tokenAdvantage!.length).toBe(expected.length)
  expected.forEach((a, t) => expect(Math.abs(tokenAdvantage![t]! - a)).toBeLessThan(2 ** -23))
})

edge('tempo', 'what branching adds telescopes to one more advantage of a rollout that is unlike the others', () => {
  const { tokenAdvantage } = prepareStep(tempo(), example)
  const outcome = [0.75, -0.25, -0.25, -0.25].map((r) => r / (0.5 + 1e-6))
  outcome.forEach((base, i) => {
    const row = tokenAdvantage!.subarray(example.sequenceStart[i], example.sequenceStart[i + 1])
    expect(row.reduce((total, a) => total + a - base, 0)).toBeCloseTo(base, 6)
  })
})

edge('tempo', 'without common prefixes only the first token differs from GRPO', () => {
  const { tokenAdvantage } = prepareStep(tempo({ scale: 'none' }), batchOf([[1, 2], [3, 4]], [1, 0])) // biome-ignore format: short
  expect(Array.from(tokenAdvantage!)).toEqual([1, 0.5, -1, -0.5])
})

edge('tempo', 'a group of one, and equal rewards, have advantage 0', () => {
  const one = prepareStep(tempo(), batchOf([[1, 2], [3]], [1, 0.3], [0, 1, 2])) // biome-ignore format: short
  expect(Array.from(one.tokenAdvantage!)).toEqual([0, 0, 0])
  const equal = prepareStep(tempo(), batchOf([[1, 2], [1, 3], [1, 3, 2]], [0.1, 0.1, 0.1])) // biome-ignore format: short
  expect(Array.from(equal.tokenAdvantage!)).toEqual([0, 0, 0, 0, 0, 0, 0])
})

edge('tempo', 'a rejected rollout has advantage 0 and changes no value', () => {
  const all = batchOf([[1, 2], [1, 3], [1, 3]], [1, 0, 9]) // biome-ignore format: short
  const without = prepareStep(tempo(), batchOf([[1, 2], [1, 3]], [1, 0])) // biome-ignore format: short
  const { tokenAdvantage } = prepareStep(tempo(), { ...all, rolloutMask: [1, 1, 0] })
  expect(Array.from(tokenAdvantage!)).toEqual([...without.tokenAdvantage!, 0, 0])
})

edge('tempo', 'everything masked', () => learnsNothing(tempo(), { token: fixture.mask, rewards: [1, 0] }))

edge('tempo', 'without tokens', () => {
  const { token, ...rest } = example
  expect(() => prepareStep(tempo(), rest)).toThrow('tempo: token is missing from the batch, expected integer[T]')
})
