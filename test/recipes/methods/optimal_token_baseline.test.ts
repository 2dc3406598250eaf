import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { optimalTokenBaseline } from '../../../lib/recipes/methods/optimal_token_baseline.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const log = (...p: number[]) => Float32Array.from(p, Math.log)
// Three rollouts of 2, 3 and 1 tokens; per token 1 - 2 p + squares is 0.5, 1; 0.25, 0.5, 0.75; 1.
const batch = {
  rewards: [1, 0, -2],
  groupStart: [0, 3],
  sequenceStart: [0, 2, 5, 6],
  oldLogp: log(0.5, 0.25, 0.5, 0.5, 0.25, 0.25),
  squares: Float32Array.of(0.5, 0.5, 0.25, 0.5, 0.25, 0.5),
}

golden('optimalTokenBaseline', 'baselines by hand: the mean of the returns weighted by the energy so far', (check) => {
  // W = [0.5, 1.5], [0.25, 0.75, 1.5], [1]; the third token of the second rollout has no baseline.
  const baseline = [(0.5 * 1 - 2 * 1) / 1.75, (1.5 * 1) / 2.25]
  const expected = [1 - baseline[0]!, 1 - baseline[1]!, -baseline[0]!, -baseline[1]!, 0, -2 - baseline[0]!]
  check.float32(prepareStep(optimalTokenBaseline(), batch).tokenAdvantage!, expected)
})

golden('optimalTokenBaseline', 'the squared norm of the gradient.2 is 1 - 2 p + squares', (check) => {
  const [p, squares] = [0.1828214548, 0.6174169763]
  const two = { rewards: [1, 0], groupStart: [0, 2], sequenceStart: [0, 1, 2], oldLogp: log(p, 0.5) }
  const { tokenAdvantage } = prepareStep(optimalTokenBaseline(), { ...two, squares: Float32Array.of(squares, 0.5) })
  const [weight, other] = [1.2517740667, 0.5]
  check.float32(tokenAdvantage!, [1 - weight / (weight + other), -weight / (weight + other)])
})

edge('optimalTokenBaseline', 'no other baseline has smaller squares, weighted by the energy', () => {
  const { tokenAdvantage } = prepareStep(optimalTokenBaseline(), batch)
  const baseline = batch.rewards[0]! - tokenAdvantage![0]!
  const loss = (b: number) => 0.5 * (1 - b) ** 2 + 0.25 * b ** 2 + (-2 - b) ** 2 // of the first tokens
  for (const step of [-1e-3, 1e-3]) expect(loss(baseline + step)).toBeGreaterThan(loss(baseline))
})

edge('optimalTokenBaseline', 'the longest rollout past the others: its reward, or nothing', () => {
  const tail = (zeroTail: boolean) => {
    const given = { ...batch, rewards: [1, 3, -2] }
    return prepareStep(optimalTokenBaseline({ zeroTail }), given).tokenAdvantage![4]!
  }
  expect(tail(true)).toBe(3)
  expect(tail(false)).toBeCloseTo(0, 6)
})

edge('optimalTokenBaseline', 'two that are longest have a common baseline to the end', () => {
  const { tokenAdvantage } = prepareStep(optimalTokenBaseline(), {
    rewards: [1, 0],
    groupStart: [0, 2],
    sequenceStart: [0, 1, 2],
    oldLogp: log(0.5, 0.5),
    squares: Float32Array.of(0.5, 0.5),
  })
  expect(tokenAdvantage![0]).toBeCloseTo(0.5, 6)
})

edge('optimalTokenBaseline', 'a group of one, and rejections that leave one: the reward', () => {
  const one = { ...batch, groupStart: [0, 1, 2, 3] }
  expect(Array.from(prepareStep(optimalTokenBaseline(), one).tokenAdvantage!)).toEqual([1, 1, 0, 0, 0, -2])
  const rejected = prepareStep(optimalTokenBaseline(), { ...batch, rolloutMask: [1, 0, 0] }).tokenAdvantage!
  expect(Array.from(rejected)).toEqual([1, 1, 0, 0, 0, 0])
})

edge('optimalTokenBaseline', 'equal rewards', () => {
  const { tokenAdvantage } = prepareStep(optimalTokenBaseline(), { ...batch, rewards: [0.1, 0.1, 0.1] })
  for (const t of [0, 1, 2, 3, 5]) expect(tokenAdvantage![t]).toBeCloseTo(0, 8)
  expect(tokenAdvantage![4]).toBe(Math.fround(0.1))
})

edge('optimalTokenBaseline', 'masked tokens hold no place: with them, the advantages are those without', () => {
  const masked = {
    ...batch,
    sequenceStart: [0, 3, 6, 8],
    mask: [1, 0, 1, 1, 1, 1, 0, 1],
    oldLogp: log(0.5, 1, 0.25, 0.5, 0.5, 0.25, 1, 0.25).fill(Number.NaN, 1, 2),
    squares: Float32Array.of(0.5, 9, 0.5, 0.25, 0.5, 0.25, 9, 0.5),
  }
  const padded = prepareStep(optimalTokenBaseline(), masked).tokenAdvantage!
  expect(padded.filter((_, t) => masked.mask[t])).toEqual(prepareStep(optimalTokenBaseline(), batch).tokenAdvantage)
  expect([padded[1], padded[6]]).toEqual([0, 0])
})

edge('optimalTokenBaseline', 'importance weights enter squared', () => {
  const importance = Float32Array.of(2, 2, 1, 1, 1, 1)
  const { tokenAdvantage } = prepareStep(optimalTokenBaseline(), { ...batch, importance })
  expect(tokenAdvantage![2]).toBeCloseTo(0, 6) // W of the first tokens: 2, 0.25, 1
})

edge('optimalTokenBaseline', 'certain tokens have no weight, and no baseline', () => {
  const certain = { ...batch, oldLogp: new Float32Array(6), squares: new Float32Array(6).fill(1) }
  for (const eps of [1e-8, 0]) {
    const { tokenAdvantage } = prepareStep(optimalTokenBaseline({ eps }), certain)
    expect(Array.from(tokenAdvantage!)).toEqual([1, 1, 0, 0, 0, -2])
  }
})

edge('optimalTokenBaseline', 'everything masked: loss 0, gradients 0', () => {
  const given = { ...fixture, rewards: [1, 0], squares: new Float32Array(8), mask: new Uint8Array(8) }
  const step = optimizationStep(optimalTokenBaseline(), given)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('optimalTokenBaseline', 'a batch without the squares', () => {
  const { squares, ...rest } = batch
  expect(() => prepareStep(optimalTokenBaseline(), rest as never)).toThrow(/squares is missing from the batch, expected f32\[T\]/) // biome-ignore format: one text
})
