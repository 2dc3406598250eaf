import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { zoRank } from '../../../lib/recipes/methods/zo_rank.js'
import { close } from '../../support/compare.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = { rank: [1, -1, 0, -1, 2], groupStart: [0, 5] } // best first: 2, 0, 4

golden('zoRank', 'rank weights', (check) => {
  const { advantage } = prepareStep(zoRank(), batch)
  check.float64(advantage!, [0.2222222222, -0.3333333333, 0.4444444444, -0.3333333333, 0])
  const weights = prepareStep(zoRank({ perEdge: false }), batch).advantage!
  check.float64(weights, [2, -3, 4, -3, 0])
  check.float64(
    Array.from(weights).reduce((a, b) => a + b),
    0,
  )
  check.float64(weights[0]! / advantage![0]!, 9) // |E|
})

golden('zoRank', 'rank weights of the code', (check) => {
  const weights = prepareStep(zoRank({ form: 'code', perEdge: false }), batch).advantage!
  check.float64(weights, [3, -3, 5, -3, 1])
  check.float64(
    Array.from(weights).reduce((a, b) => a + b),
    3,
  )
})

edge('zoRank', 'the weights are those of the edges of the ranking, one by one', () => {
  for (let m = 1; m <= 6; m++) {
    for (let k = 0; k <= m; k++) {
      const rank = Array.from({ length: m }, (_, i) => (i < k ? i : -1))
      const degree = rank.map(() => 0)
      for (let i = 0; i < k; i++)
        for (let j = i + 1; j < m; j++) [degree[i], degree[j]] = [degree[i]! + 1, degree[j]! - 1]
      const { advantage } = prepareStep(zoRank({ perEdge: false }), { rank, groupStart: [0, m] })
      expect(Array.from(advantage!)).toEqual(degree)
    }
  }
})

edge('zoRank', 'for Gaussian perturbations the gradient is the paper’s estimate', () => {
  // x + mu xi[i] with log-density -|x[i] - theta|^2 / (2 mu^2): d logp / d theta at theta = x is xi[i] / mu.
  const r = random(3)
  const [D, mu] = [4, 0.1]
  const xi = Array.from({ length: 5 }, () => Array.from({ length: D }, () => 2 * r.uniform() - 1))
  const logp = Float32Array.from(xi, (x) => -x.reduce((s, v) => s + v * v, 0) / 2)
  const step = optimizationStep(zoRank(), { ...batch, sequenceStart: [0, 1, 2, 3, 4, 5], logp })
  const best = [2, 0, 4, 1, 3]
  const edges = [0, 1, 2].flatMap((i) => best.slice(i + 1).map((j) => [best[i]!, j] as const))
  const estimate = Array.from({ length: D }, (_, d) => edges.reduce((s, [i, j]) => s + xi[j]![d]! - xi[i]![d]!, 0) / 9)
  const chained = Array.from({ length: D }, (_, d) => xi.reduce((s, x, i) => s + step.gradLogp!.data[i]! * x[d]!, 0))
  close(
    chained.map((g) => g / mu),
    estimate.map((g) => g / mu),
    2 ** -20,
  )
})

edge('zoRank', 'a group of one, and a group without ranks, have advantage 0; ragged groups', () => {
  const given = { rank: [0, -1, -1, 0, 1, -1], groupStart: [0, 1, 3, 6] }
  expect(Array.from(prepareStep(zoRank(), given).advantage!)).toEqual([0, 0, 0, 2 / 3, 0, -2 / 3])
})

edge('zoRank', 'a rejected rollout is not among those that are compared', () => {
  const given = { rank: [0, -1, -1], groupStart: [0, 3], rolloutMask: [1, 0, 1] }
  expect(Array.from(prepareStep(zoRank(), given).advantage!)).toEqual([1, 0, -1])
  // The others move up where it was ranked.
  const ranked = { rank: [2, 0, -1, 1], groupStart: [0, 4], rolloutMask: [1, 0, 1, 1] }
  const without = { rank: [1, -1, 0], groupStart: [0, 3] }
  const [a, b, c] = Array.from(prepareStep(zoRank(), without).advantage!)
  expect(Array.from(prepareStep(zoRank(), ranked).advantage!)).toEqual([a, 0, b, c])
  const twice = { ...ranked, rank: [2, 0, -1, 2] }
  expect(() => prepareStep(zoRank(), twice)).toThrow('zoRank: rank of group 0 is no ranking, expected 0 to 2 once each')
})

edge('zoRank', 'no loss without groups, and everything masked', () => {
  const empty = { rank: [], groupStart: [0], sequenceStart: [0], logp: new Float32Array(0) }
  expect(optimizationStep(zoRank(), empty).loss).toBe(0)
  learnsNothing(zoRank(), { ...fixture, rank: [0, 1], groupStart: [0, 2] })
})

edge('zoRank', 'what is no ranking is refused', () => {
  const step = (rank: unknown) => () => prepareStep(zoRank(), { rank, groupStart: [0, 3] } as never)
  for (const wrong of [
    [0, 0, -1],
    [1, 2, -1],
    [0, -2, -1],
  ]) {
    expect(step(wrong)).toThrow('zoRank: rank of group 0 is no ranking, expected 0 to 1 once each')
  }
  expect(step(undefined)).toThrow('zoRank: rank is missing from the batch, expected integer[N]')
})
