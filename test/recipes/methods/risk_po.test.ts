import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { riskPo } from '../../../lib/recipes/methods/risk_po.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = { rewards: [1, 0, 1, 0, 1, 1, 0, 0], groupStart: [0, 4, 8] }
type Chosen = Parameters<typeof riskPo>[0]
const advantagesOf = (options: Chosen, given: Parameters<typeof prepareStep>[1] = batch) =>
  Array.from(prepareStep(riskPo(options), given).advantage!)
const both = (x: number[]) => [...x, ...x]
const plain = { credit: 'uniform', normalize: false } as const
const [high, middle, low] = [0.653195376084, 0.326597688042, -2.20452704587]

golden('riskPo', 'quantiles of the papers', (check) => {
  const { low, high } = prepareStep(riskPo(), batch).state!.data.quantiles!
  check.float64([low, high], [0.6, 1.4])
})

golden('riskPo', 'range and tail', (check) => {
  const rvar = [1.33333111111, 0.666665555557, 0.666665555557, 0]
  check.float64(advantagesOf({ ...plain, omega: 0 }), both(rvar))
  check.float64(advantagesOf(plain), both([0.533332444446, 0.266666222223, 0.266666222223, -1.79999100004]))
  // A large weight leaves the tail alone.
  check.float64(advantagesOf({ ...plain, omega: 1e12 }), both([0, 0, 0, -2.99998500007]))
})

golden('riskPo', 'divided by the standard deviation', (check) => {
  check.float64(advantagesOf({ credit: 'uniform' }), both([high, middle, middle, low]))
  const natural = { credit: 'uniform', naturalBaseline: true } as const
  check.float64(advantagesOf(natural), both([0, -0.326597688042, -0.326597688042, -2.85772242196]))
})

golden('riskPo', 'credit by the standard deviation of the question', (check) => {
  const first = [1.13136561906, 0.565682809532, 0.565682809532, -3.81834623654]
  check.float64(advantagesOf({ credit: 'std' }).slice(0, 4), first)
})

const tracked = (low: number, high: number, { options } = riskPo()) => ({
  ...{ method: 'riskPo', version: 1, options },
  data: { quantiles: { low, high } },
})

golden('riskPo', 'a tracking step', (check) => {
  check.float64(prepareStep(riskPo(), batch, tracked(1, 2)).state!.data.quantiles!.low, 0.995)
})

golden('riskPo', 'loss and gradient', (check) => {
  const step = optimizationStep(riskPo(), { ...fixture, advantage, rewards: [1, 0] })
  // The mean of the token losses is 1.353 before their signs cancel.
  check.float32(step.loss, 0.11, 1.353 / 0.11)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('riskPo', 'credit by the score, and by the excess over the question', () => {
  const uniform = advantagesOf({ credit: 'uniform' })
  expect(advantagesOf({ credit: 'score' })).toEqual(uniform.map((a, i) => a * (batch.rewards[i] ? 0.5 : 1.5)))
  // The excesses are 1/2 where the reward is 1, else -1/2: in the papers 1 and 4 they add up to ±1, in the others to 0.
  const halves = uniform.map((a) => a / 2)
  expect(advantagesOf({})).toEqual(halves)
  // Unequal means: 1 - 1/4 and 0 - 3/4 in the first paper add up to 0; 0 - 1/4 and 1 - 3/4 in the second to 0; and so on.
  const given = { rewards: [1, 0, 0, 0, 1, 1, 1, 0], groupStart: [0, 4, 8] }
  const whole = advantagesOf({ credit: 'uniform' }, given)
  const excess = given.rewards.map((r, i) => r - (i < 4 ? 0.25 : 0.75))
  const expected = whole.map((a, i) => {
    const sum = excess[i % 4]! + excess[(i % 4) + 4]!
    return sum === 0 ? a / 2 : (a * excess[i]!) / sum
  })
  expect(advantagesOf({}, given)).toEqual(expected)
  expect(expected.some((a, i) => a !== whole[i]! / 2)).toBe(true)
})

edge('riskPo', 'credit shares of a paper add up to its advantage', () => {
  const given = { rewards: [0.25, 0.5, 0, 1, 0.75, 0.5, 0.25, 0.125], groupStart: [0, 4, 8] }
  const whole = advantagesOf({ credit: 'uniform' }, given)
  const shares = advantagesOf({}, given)
  for (let k = 0; k < 4; k++) expect(shares[k]! + shares[k + 4]!).toBeCloseTo(whole[k]!, 12)
})

edge('riskPo', 'the upper tail in place of the lower', () => {
  const upper = [0.6 / 0.200001, 0, 0, 0]
  const range = [0.8, 0.4, 0.4, 0].map((x) => x / 0.600001)
  advantagesOf({ ...plain, riskSeeking: true })
    .slice(0, 4)
    .forEach((a, k) => expect(a).toBeCloseTo((1.5 * upper[k]! + range[k]!) / 2.5, 9))
})

edge('riskPo', 'with the natural baseline no paper is above 0', () => {
  const given = { rewards: [3, 1, 4, 1, 5, 9, 2, 6], groupStart: [0, 4, 8] }
  expect(advantagesOf({ credit: 'uniform', naturalBaseline: true }, given).every((a) => a <= 0)).toBe(true)
})

edge('riskPo', 'quantiles: tracked ones, those of the bundle, or half of each', () => {
  const cvar = (quantiles: 'tracked' | 'bundle' | 'mix') => {
    const recipe = riskPo({ ...plain, omega: 1e12, quantiles })
    return prepareStep(recipe, batch, tracked(1.2, 2, recipe)).advantage![3]! * 0.200001
  }
  expect(cvar('tracked')).toBeCloseTo(-1.2, 9)
  expect(cvar('bundle')).toBeCloseTo(-0.6, 9)
  expect(cvar('mix')).toBeCloseTo(-0.9, 9)
})

edge('riskPo', 'tracked quantiles settle where the level is', () => {
  const recipe = riskPo({ trackingRate: 0.05 })
  const given = { rewards: Array.from({ length: 100 }, (_, k) => k / 100), groupStart: [0, 100] }
  let state = prepareStep(recipe, batch).state!
  for (let step = 0; step < 300; step++) state = prepareStep(recipe, given, fromJSON(recipe, toJSON(state))).state!
  // One step moves a quantile by at most 0.05 times 0.8.
  expect(Math.abs(state.data.quantiles!.low - 0.2)).toBeLessThan(0.04)
  expect(Math.abs(state.data.quantiles!.high - 0.8)).toBeLessThan(0.04)
})

edge('riskPo', 'bundles of consecutive questions, ragged: what is in no paper is not trained on', () => {
  const given = {
    rewards: [1, 0, 9, 1, 1, 0, 1, 5],
    groupStart: [0, 3, 5, 8],
    rolloutMask: [1, 1, 1, 1, 1, 0, 1, 1],
  }
  const prepared = prepareStep(riskPo({ bundle: 2, credit: 'uniform', quantiles: 'bundle' }), given)
  expect(Array.from(prepared.rollouts)).toEqual([1, 1, 0, 1, 1, 0, 1, 1])
  const a = prepared.advantage!
  expect([a[0], a[1], a[2], a[5]]).toEqual([a[3], a[4], 0, 0])
  expect(a[6]! < 0 && a[7]! > 0).toBe(true)
})

edge('riskPo', 'one paper, or papers that score all the same, or none at all', () => {
  expect(advantagesOf({}, { rewards: [1, 0], groupStart: [0, 1, 2] })).toEqual([0, 0])
  expect(advantagesOf({}, { rewards: [1, 1, 1, 1], groupStart: [0, 2, 4] })).toEqual([0, 0, 0, 0])
  const far = prepareStep(
    riskPo(plain),
    { rewards: [0, 0, 0, 0], groupStart: [0, 2, 4] },
    tracked(0.6, 1.4, riskPo(plain)),
  )
  expect(far.advantage![0]).toBeCloseTo((-1.5 * 0.6) / 0.200001 / 2.5, 12)
  const none = prepareStep(riskPo(), { rewards: [1, 1], groupStart: [0, 0, 2] })
  expect([Array.from(none.advantage!), Array.from(none.rollouts), none.state!.data.quantiles]).toEqual([[0, 0], [0, 0], null]) // biome-ignore format: short
})

edge('riskPo', 'everything masked', () => learnsNothing(riskPo(), { rewards: [0, 1] }))
edge('riskPo', 'a missing column', () => {
  expect(() => prepareStep(riskPo(), { groupStart: [0, 1] })).toThrow('riskPo: rewards is missing from the batch')
})

edge('riskPo', 'a batch with advantages of its own and without rewards leaves the quantiles', () => {
  const given = { advantage: [1, -1, 0], groupStart: [0, 2, 3] }
  const prepared = prepareStep(riskPo(), given, tracked(0.6, 1.4))
  expect(prepared.state).toEqual(tracked(0.6, 1.4))
  expect(Array.from(prepared.rollouts)).toEqual([1, 0, 1])
})

edge('riskPo', 'levels that cross are refused', () => {
  expect(() => riskPo({ lower: 0.9 })).toThrow('riskPo: lower is 0.9, expected at most upper, which is 0.8')
})

edge('riskPo', 'without eps, levels that leave 0 / 0 are refused', () => {
  expect(() => riskPo({ lower: 0, eps: 0 })).toThrow(
    'riskPo: eps is 0, expected a number > 0: the lower tail has level 0',
  )
  expect(() => riskPo({ upper: 1, eps: 0, riskSeeking: true })).toThrow('riskPo: eps is 0, expected a number > 0: the upper tail has level 0') // biome-ignore format: short
  expect(() => riskPo({ lower: 0.5, upper: 0.5, eps: 0 })).toThrow('upper and lower are equal')
  // The tail that is not looked at may have level 0.
  expect(() => riskPo({ upper: 1, eps: 0 })).not.toThrow()
  expect(() => riskPo({ lower: 0, eps: 0, riskSeeking: true })).not.toThrow()
  expect(() => riskPo({ lower: 0 })).not.toThrow()
})
