import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { spo } from '../../../lib/recipes/methods/spo.js'
import { random } from '../../support/random.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const prompts = ['p', 'q', 'r', 's']
const { uniform } = random(17)
const scores = (successes: number) => Array.from({ length: 8 }, (_, k) => (k < successes ? 1 : -1))
const first = Object.fromEntries([6, 2, 0, 8].map((S, i) => [prompts[i]!, scores(S)]))
const coded = spo({ smoothing: true })
const start = coded.sample.start(first, uniform)
const batch = { rewards: [1, 1, 0, 1], prompt: prompts, drift: [0, 0.006, 0.03, 0.2] }
type State = typeof start.data
const valuesOf = (state: State) => prompts.map((p) => state.prompts[p]!.alpha / (state.prompts[p]!.alpha + state.prompts[p]!.beta)) // biome-ignore format: short

golden('spo', 'first beliefs', (check) => {
  const alpha = prompts.map((p) => start.data.prompts[p]!.alpha)
  check.float64(alpha, [5.77777777778, 2.22222222222, 0.444444444444, 7.55555555556])
  check.float64(valuesOf(start.data), [0.722222222222, 0.277777777778, 0.0555555555556, 0.944444444444])
})

golden('spo', 'advantages over the batch', (check) => {
  const { advantage } = prepareStep(coded, batch, start)
  check.float32(advantage!, [0.0807572829609, 1.37287381034, -0.88833011257, -0.565300980726])
  const raw = batch.rewards.map((r, i) => r - valuesOf(start.data)[i]!)
  const mean = raw.reduce((a, b) => a + b) / 4
  // The mean and standard deviation before the normalisation follow from two of the advantages.
  const std = (raw[0]! - raw[1]!) / (advantage![0]! - advantage![1]!)
  check.float32([raw[0]! - std * advantage![0]!, std], [0.25, 0.343966215204])
  check.float64(mean, 0.25)
})

golden('spo', 'sampling weights', (check) => {
  const weights = coded.sample.weights(start.data, prompts)
  check.float64(weights, [0.497903208239, 0.497903208239, 0.279061423645, 0.279061423645])
})

golden('spo', 'discounts and values after the update', (check) => {
  const after = prepareStep(coded, batch, start).state!.data
  const counts = (state: State) => prompts.map((p) => state.prompts[p]!.alpha + state.prompts[p]!.beta)
  const rho = counts(after).map((n, i) => (n - 1) / counts(start.data)[i]!)
  check.float64(rho, [0.96, 0.933032991537, 0.875, 0.875])
  check.float64(valuesOf(after), [0.754224270353, 0.363103829517, 0.0486111111111, 0.951388888889])
})

golden('spo', 'loss and gradient', (check) => {
  const given = { ...fixture, advantage, rewards: [1, 0], prompt: ['p', 'q'], drift: [0, 0] }
  const step = optimizationStep(spo(), given)
  // The mean of the token losses is 1.37 before their signs cancel.
  check.float32(step.loss, 0.0928571429, 1.37 / 0.0928571429)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('spo', 'the paper’s first beliefs are the plain mean, with 1 / (1 - rhoMin) counts', () => {
  const { prompts: known } = spo().sample.start({ p: scores(6), none: [] }, uniform).data
  expect(known).toEqual({ p: { alpha: 6, beta: 2 }, none: { alpha: 0.5, beta: 0.5 } })
})

edge('spo', 'of more first scores than firstRollouts a part is drawn', () => {
  const { alpha, beta } = spo({ firstRollouts: 2 }).sample.start({ p: [1, 1, 1, 1, 1] }, uniform).data.prompts.p!
  expect([alpha, beta]).toEqual([8, 0])
  const share = Array.from({ length: 400 }, () => spo({ firstRollouts: 1 }).sample.start({ p: [1, 0, 0, 0] }, uniform).data.prompts.p!.alpha === 8) // biome-ignore format: one draw
  expect(share.filter(Boolean).length).toBeGreaterThan(70)
  expect(share.filter(Boolean).length).toBeLessThan(130)
})

edge('spo', 'the update is the moving average v + (R - v) / (rho N + 1)', () => {
  let state = start
  for (let step = 0; step < 20; step++) {
    const rewards = prompts.map(() => uniform())
    const drift = prompts.map(() => 0.02 * uniform())
    const after = prepareStep(coded, { rewards, prompt: prompts, drift }, state).state!
    prompts.forEach((p, i) => {
      const { alpha, beta } = state.data.prompts[p]!
      const rho = Math.min(Math.max(2 ** (-drift[i]! / 0.06), 0.875), 0.96)
      const [v, N] = [alpha / (alpha + beta), rho * (alpha + beta) + 1]
      expect(valuesOf(after.data)[i]).toBeCloseTo(v + (rewards[i]! - v) / N, 12)
      expect(after.data.prompts[p]!.alpha + after.data.prompts[p]!.beta).toBeCloseTo(N, 12)
    })
    state = after
  }
})

edge('spo', 'prompts are drawn without replacement, in proportion to their weights', () => {
  const { draw } = spo().sample
  const weights = [5, 0, 1, 3, 1]
  const seen = [0, 0, 0, 0, 0]
  const second = [0, 0, 0, 0, 0]
  for (let run = 0; run < 20000; run++) {
    const [a, b] = draw(weights, 2, uniform)
    seen[a!]!++
    if (a === 0) second[b!]!++
  }
  // Six standard deviations of a share in 20000 or 10000 draws.
  seen.forEach((n, i) => expect(Math.abs(n / 20000 - weights[i]! / 10)).toBeLessThan(0.022))
  const after = [0, 0, 0.2, 0.6, 0.2]
  second.forEach((n, i) => expect(Math.abs(n / seen[0]! - after[i]!)).toBeLessThan(0.03))
  expect(draw(weights, 5, uniform).toSorted()).toEqual([0, 1, 2, 3, 4])
  expect(draw(weights, 9, uniform).every((i) => i !== 1)).toBe(true)
  expect(new Set(draw([0, 0], 40, uniform))).toEqual(new Set([0, 1]))
})

edge('spo', 'the same random numbers give the same draws', () => {
  const draws = () => spo().sample.draw([1, 2, 3, 4], 3, random(4).uniform)
  expect(draws()).toEqual(draws())
})

edge('spo', 'gamma makes prompts with many counts rarer, and next is a distribution', () => {
  const state = { prompts: { p: { alpha: 2, beta: 2 }, q: { alpha: 8, beta: 8 } } }
  const [p, q] = spo({ gamma: 1, floor: 0 }).sample.weights(state, ['p', 'q'])
  expect(p! / q!).toBe(4)
  expect(spo().sample.weights(state, ['new'])).toEqual([0.55])
  const next = Object.values(prepareStep(coded, batch, start).sample)
  expect(next.length).toBe(4)
  expect(next.reduce((a, b) => a + b)).toBeCloseTo(1, 12)
})

edge('spo', 'a batch of one, or with equal rewards less values, has advantage 0', () => {
  const one = { rewards: [1], prompt: ['p'], drift: [0] }
  expect(Array.from(prepareStep(spo(), one).advantage!)).toEqual([0])
  const equal = { rewards: [1, 1, 1], prompt: ['p', 'q', 'r'], drift: [0, 0, 0] }
  expect(Array.from(prepareStep(spo(), equal).advantage!)).toEqual([0, 0, 0])
})

edge('spo', 'a rejected rollout enters neither the statistics nor the beliefs', () => {
  const rejected = prepareStep(spo(), { ...batch, rolloutMask: [1, 1, 0, 1] })
  const without = prepareStep(spo(), { rewards: [1, 1, 1], prompt: ['p', 'q', 's'], drift: [0, 0.006, 0.2] })
  expect(rejected.state).toEqual(without.state)
  expect(rejected.advantage![2]).toBe(0)
})

edge('spo', 'a prompt twice in a batch: the baseline is that before the step, the updates follow each other', () => {
  const twice = { rewards: [1, 0], prompt: [7, 7], drift: [0, 0] }
  const prepared = prepareStep(spo(), twice)
  expect(Array.from(prepared.advantage!)).toEqual([Math.SQRT1_2, -Math.SQRT1_2].map(Math.fround))
  const { alpha, beta } = prepared.state!.data.prompts['7']!
  expect(alpha).toBeCloseTo(0.96 * (0.96 * 0.5 + 1), 12)
  expect(beta).toBeCloseTo(0.96 * 0.96 * 0.5 + 1, 12)
})

edge('spo', 'a run that is saved, restored and continued gives the same bits; states are not changed in place', () => {
  const text = toJSON(start)
  const after = prepareStep(coded, batch, start).state!
  expect(toJSON(start)).toBe(text)
  const restored = fromJSON(coded, toJSON(after))
  expect(prepareStep(coded, batch, restored).state).toEqual(prepareStep(coded, batch, after).state)
})

edge('spo', 'everything masked', () => learnsNothing(spo(), { rewards: [1, 0], prompt: ['p', 'q'], drift: [0, 0] }))
edge('spo', 'a missing column, and what cannot be counted', () => {
  const { drift, ...rest } = batch
  expect(() => prepareStep(spo(), rest as never)).toThrow('spo: drift is missing from the batch, expected number[N]')
  for (const wrong of [2, -1, Number.NaN]) {
    expect(() => prepareStep(spo(), { ...batch, rewards: [1, wrong, 0, 0] })).toThrow(`spo: rewards has ${wrong} at 1, expected 0 to 1`) // biome-ignore format: a row
  }
  expect(() => prepareStep(spo(), { ...batch, drift: [0, 0, NaN, 0] })).toThrow('spo: drift has NaN at 2, expected')
})

edge('spo', 'a batch with advantages of its own and without rewards leaves the beliefs', () => {
  const { rewards, ...rest } = batch
  const prepared = prepareStep(coded, { ...rest, advantage: [1, 2, 3, 4] }, start)
  expect(prepared.state).toEqual(start)
})

edge('spo', 'weights take a state or its data', () => {
  expect(coded.sample.weights(start, prompts)).toEqual(coded.sample.weights(start.data, prompts))
})

edge('spo', 'bounds that cross, a negative one, and no prompt to draw', () => {
  expect(() => spo({ rhoMin: 0.97 })).toThrow('spo: rhoMin is 0.97, expected at most rhoMax, which is 0.96')
  expect(() => spo({ rhoMin: -0.5 })).toThrow('spo: rhoMin is -0.5, expected a finite number >= 0 < 1')
  expect(() => spo().sample.draw([], 1, uniform)).toThrow('spo: weights is empty')
  expect(spo().sample.draw([], 0, uniform)).toEqual([])
})
