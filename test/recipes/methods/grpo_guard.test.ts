import { expect } from 'vitest'
import { array } from '../../../lib/index.js'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { grpoGuard } from '../../../lib/recipes/methods/grpo_guard.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const row = (...x: number[]) => array(Float32Array.from(x), [1, 3])
const [oldMean, mean] = [row(0.1, -0.2, 0.3), row(0.12, -0.25, 0.33)]
const std = Float32Array.of(0.14)
// oldMean + std [0.5, -1, 0.25]
const x = row(0.17, -0.34, 0.335)
const example = { x, mean, std, oldMean, sequenceStart: [0, 1], groupStart: [0, 1], dt: [0.04], time: [0.8] }
const stepOf = (options: Parameters<typeof grpoGuard>[0], batch: object = {}) =>
  optimizationStep(grpoGuard(options), { ...example, oldLogp: Float32Array.of(0), advantage: [1], ...batch })
const logp = (m: typeof mean) => stepOf({ ratioNorm: false }, { mean: m }).logp![0]!

golden('grpoGuard', 'log-densities, log-ratio and bias', (check) => {
  check.float32([logp(oldMean), logp(mean)], [0.8284243231681604, 0.956825683712378])
  const logRatio = logp(mean) - logp(oldMean)
  const normalised = stepOf({}).logp![0]!
  // The log-densities are 8 times as large as their difference, and 32 times as large as the bias.
  check.float32(logRatio, 0.12840136054421758, 8)
  check.float32(normalised / 0.14 - logRatio, 0.032312925170068035, 32)
  check.float32(Math.exp(logRatio), 1.137009261784828)
})

golden('grpoGuard', 'the normalised ratio', (check) => {
  // It is mean_d((x - oldMean) (mean - oldMean)) / std, of differences ten times as small as the means.
  const normalised = stepOf({}).logp![0]!
  check.float32(normalised, 0.0225, 10)
  check.float32(Math.exp(normalised), 1.0227550341644458)
})

golden('grpoGuard', 'losses at a clip range of 2e-6', (check) => {
  check.float32(stepOf({}).loss, -25.00005)
  check.float32(stepOf({}, { advantage: [-1] }).loss, 25.568875854111145)
})

golden('grpoGuard', 'scales of a step', (check) => {
  check.float32(stepOf({}).weights.weight!, 25)
  check.float32(stepOf({ stepScale: 'dance' }).weights.weight!, 26.53125)
})

golden('grpoGuard', 'loss and gradient from log-probabilities', (check) => {
  const recipe = grpoGuard({ stepScale: 'none', clipLow: 0.2, clipHigh: 0.2 })
  const step = optimizationStep(recipe, { ...fixture, advantage })
  check.float32(step.loss, 0.11, 12) // the tokens' losses are 12 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('grpoGuard', 'the gradient of the normalised ratio with respect to the mean', () => {
  // -A delta ratio (x - oldMean) / (D std) = 25 ratio noise / 3 for A = -1
  const { gradMean } = stepOf({}, { advantage: [-1] })
  const expected = [0.5, -1, 0.25].map((noise) => (25 * 1.0227550341644458 * noise) / 3)
  expect(Array.from(gradMean!.data)).toEqual(expected.map((g) => expect.closeTo(g, 4)))
  // Above the interval a gain has no gradient.
  expect(Array.from(stepOf({}).gradMean!.data, Math.abs)).toEqual([0, 0, 0])
})

edge('grpoGuard', 'advantages: population deviation, within 5; a group of one and equal rewards 0', () => {
  const groups = { rewards: [1, 0, 3, 0.1, 0.1, 0.1], groupStart: [0, 2, 3, 6] }
  const { advantage } = prepareStep(grpoGuard(), groups)
  const a = 0.5 / (0.5 + 1e-4)
  expect(Array.from(advantage!)).toEqual([expect.closeTo(a, 6), expect.closeTo(-a, 6), 0, 0, 0, 0])
  const rare = Array.from({ length: 40 }, (_, i) => Number(i === 0))
  expect(prepareStep(grpoGuard(), { rewards: rare, groupStart: [0, 40] }).advantage![0]).toBe(5)
})

edge('grpoGuard', 'without normalisation the ratio is the plain one', () => {
  const oldLogp = Float32Array.of(logp(oldMean))
  const { loss } = stepOf({ ratioNorm: false, stepScale: 'none', clipHigh: 0.5 }, { oldLogp })
  expect(loss).toBeCloseTo(-1.137009261784828, 5)
})

edge('grpoGuard', 'everything masked', () => {
  const step = stepOf({}, { mask: [0] })
  expect(step.loss).toBe(0)
  expect(Array.from(step.gradMean!.data)).toEqual([0, 0, 0])
  learnsNothing(grpoGuard(), { rewards: [1, 0], dt: Array(8).fill(1) })
})

edge('grpoGuard', 'columns that a scale needs', () => {
  const refused = (options: Parameters<typeof grpoGuard>[0], batch: object, text: string) =>
    expect(() => stepOf(options, batch)).toThrow(text)
  refused({}, { dt: undefined }, 'grpoGuard: dt is missing from the batch, expected number[T] for stepScale flow')
  refused({ stepScale: 'dance' }, { time: undefined }, 'grpoGuard: time is missing from the batch')
  refused({}, { dt: [0] }, 'grpoGuard: dt has 0 at 0, expected above 0')
  refused({}, { dt: [1, 1] }, 'grpoGuard: dt has 2 values, expected 1')
  refused({}, { oldMean: undefined }, 'grpoGuard: oldMean is missing, expected f32[T,D]')
})

edge('grpoGuard', 'what lies under the mask, or was rejected, is not looked at', () => {
  const given = { rewards: [1, 0, 0.5], groupStart: [0, 3], mask: [1, 1, 1, 0, 1, 1, 1, 1, 1], rolloutMask: [1, 1, 0] }
  const batch = { ...fixture, ...given, sequenceStart: [0, 4, 8, 9], refLogp: undefined, rolloutLogp: undefined }
  const wide = { logp: Float32Array.of(...fixture.logp, -1), oldLogp: Float32Array.of(...fixture.oldLogp, -1) }
  const column = (under: number) => [0.2, 0.2, 0.2, under, 0.4, 0.4, 0.4, 0.4, under]
  const weight = (under: number) => {
    const columns = { dt: column(under), time: column(under) }
    const step = optimizationStep(grpoGuard({ stepScale: 'dance' }), { ...batch, ...wide, ...columns } as never)
    expect(Number.isFinite(step.loss)).toBe(true)
    return step.weights.weight!
  }
  expect(weight(Number.NaN)).toEqual(weight(0.2))
  expect(weight(0)[3]).toBe(0)
})

edge('grpoGuard', 'a policy that is given as log-probabilities has the plain ratio in either case', () => {
  const loss = (ratioNorm: boolean) =>
    optimizationStep(grpoGuard({ ratioNorm, stepScale: 'none' }), { ...fixture, advantage }).loss
  expect(loss(true)).toBe(loss(false))
})
