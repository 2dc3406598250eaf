import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { fipo } from '../../../lib/recipes/methods/fipo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const batch = { ...fixture, advantage }
const weights = (options: Parameters<typeof fipo>[0], given: object = batch) =>
  optimizationStep(fipo(options), given as typeof batch).weights

golden('fipo', 'loss and gradient', (check) => {
  const step = optimizationStep(fipo(), batch)
  check.float32(step.loss, 0.2148863728, 7) // the losses of the tokens are 7 times larger
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.48, 0.1254578013, 0.1382857143])
})

golden('fipo', 'the sums over the future, and the influence', (check) => {
  check.float32(unmasked(weights({}).weight!), [1, 1, 1, 1.2, 1.2, 1.0977557618, 1.1])
  const open = unmasked(weights({ width: 0 }).weight!)
  check.float32(open.map(Math.log), [-0.0050808598, -0.3490321354, -0.3566749439, 0.9585575245, 1.3440323094, 0.0932678792, 0.0953101798]) // biome-ignore format: short
})

golden('fipo', 'the discount', (check) => {
  // One token of log-ratio log 2 at the end of a rollout of 33: F at its start is log 2 / 2.
  const one = (t: number, x: number) => Float32Array.from({ length: 33 }, (_, u) => (u === t ? x : 0))
  const long = { logp: one(32, Math.log(2)), oldLogp: one(0, 0), sequenceStart: [0, 33], groupStart: [0, 1], advantage: [1] } // biome-ignore format: short
  const { weight } = weights({ width: 1 }, long)
  check.float32(Math.log(weight![0]!), Math.log(2) / 2)
  check.float32(Math.log(weight![31]!) / Math.log(2), 0.9785720621)
})

edge('fipo', 'the interval of the influence: to both sides, or to 10', () => {
  const both = weights({ highOnly: false }).weight!
  expect([both[1], both[2]]).toEqual([Math.fround(0.8), Math.fround(0.8)])
  const logp = fixture.logp.map((x, t) => (t === 4 || t === 5 ? Math.log(9) + fixture.oldLogp[t]! : x))
  expect(weights({ width: 0 }, { ...batch, logp }).weight![4]).toBe(10)
})

edge('fipo', 'a negative token beyond the safety ratio is not amplified', () => {
  expect(weights({ safety: 3 }).weight![5]).toBe(1)
  expect(weights({ safety: 3 }, { ...batch, advantage: [1.5, 0.8] }).weight![5]).toBe(Math.fround(1.2))
})

edge('fipo', 'ratios beyond the dual clip do not enter the future', () => {
  const { weight } = weights({ dualClip: 3, clipHigh: 0.28, width: 0 })
  // d of token 5 is log 3.5: only those of tokens 6 and 7 are left, discounted.
  expect(Math.log(weight![5]!)).toBeCloseTo(0.9785720621 * 0.0932678792, 6)
})

edge('fipo', 'a rollout with two dual-clipped tokens leaves the loss and its denominator', () => {
  const logp = Float32Array.from(fixture.logp)
  logp[6] = fixture.oldLogp[6]! + 2
  const given = { ...batch, logp }
  const step = optimizationStep(fipo({ dualClip: 3 }), given)
  expect(Array.from(step.weights.mask!)).toEqual([1, 1, 1, 0, 0, 0, 0, 0])
  expect(step.gradLogp!.data[2]).toBeCloseTo((-1.5 * 0.7) / 3, 6)
  const kept = optimizationStep(fipo({ dualClip: 3, dropRollouts: false }), given)
  expect(kept.gradLogp!.data[2]).toBeCloseTo((-1.5 * 0.7) / 7, 6)
  // One such token drops nothing, nor do two of positive advantage.
  expect(weights({ dualClip: 3 }).mask!.slice(4)).toEqual(Uint8Array.of(1, 1, 1, 1))
  expect(weights({ dualClip: 3 }, { ...given, advantage: [1, 1] }).mask!.slice(4)).toEqual(Uint8Array.of(1, 1, 1, 1))
})

edge('fipo', 'a masked token adds nothing, but the discount passes through it', () => {
  const mask = [1, 1, 1, 0, 1, 1, 0, 1]
  const logp = fixture.logp.map((x, t) => (mask[t] ? x : Number.NaN))
  const { weight } = weights({ width: 0 }, { ...batch, mask, logp })
  expect(Math.log(weight![5]!)).toBeCloseTo(Math.log(3.5) + 0.9785720621 ** 2 * Math.log(1.1), 6)
})

edge('fipo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  const one = optimizationStep(fipo(), { ...fixture, rewards: [1, 0] })
  const equal = optimizationStep(fipo(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  const masked = optimizationStep(fipo(), { ...batch, mask: new Uint8Array(8) })
  for (const step of [one, equal, masked]) {
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('fipo', 'ragged groups, and advantages of tokens', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  expect(Array.from(optimizationStep(fipo(), ragged).gradLogp!.data.slice(4))).toEqual([0, 0, 0, 0])
  const tokenAdvantage = Float32Array.of(1, 1, 1, 0, -1, -1, 1, 1)
  const { weight } = weights({ safety: 3 }, { ...fixture, tokenAdvantage })
  expect([weight![4], weight![5]]).toEqual([Math.fround(1.2), 1])
})

edge('fipo', 'log-probabilities that are missing', () => {
  const { oldLogp, ...rest } = fixture
  expect(() => optimizationStep(fipo(), { ...rest, advantage })).toThrow('fipo: oldLogp is missing from the batch')
  expect(() => prepareStep(fipo(), { ...rest, rewards: [1, 0] })).not.toThrow()
})
