import { expect } from 'vitest'
import { array } from '../../../lib/index.js'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { tempFlow } from '../../../lib/recipes/methods/temp_flow.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const stepStd = tempFlow().sample.stepStd([0.9, 0.6, 0.3, 0])
// Three trajectories of the three steps, of which the last is shorter, and another prompt with one.
const std = Float32Array.from([...stepStd, ...stepStd, ...stepStd.slice(0, 2), ...stepStd])
const T = std.length
const example = {
  std,
  dt: Array(T).fill(0.3),
  stepReward: [1, 0, 3, 0, 0, 1, 2, 3, 5, 6, 7],
  sequenceStart: [0, 3, 6, 8, 11],
  groupStart: [0, 3, 4],
  logp: new Float32Array(T),
  oldLogp: new Float32Array(T),
}
const run = (options: Parameters<typeof tempFlow>[0] = {}, batch: object = {}) =>
  optimizationStep(tempFlow({ klCoef: 0, ...options }), { ...example, ...batch })
const three = (x: ArrayLike<number>) => Array.from(x).slice(0, 3)

golden('tempFlow', 'standard deviations of the steps', (check) => {
  check.float64(stepStd, [1.150217370761, 0.469574275275, 0.25099800796])
})

golden('tempFlow', 'noise-aware weights', (check) => {
  check.float32(three(run().weights.weight!), [1.844489627635, 0.75300973726, 0.402500635105])
  check.float32(three(run({ weighting: 'std' }).weights.weight!), [2.587989084212, 1.056542119369, 0.564745517911])
})

golden('tempFlow', 'loss and gradient with weight 1', (check) => {
  const recipe = tempFlow({ clipLow: 0.2, clipHigh: 0.2, klCoef: 0 })
  const columns = { std: new Float32Array(8).fill(0.5), stepReward: new Float32Array(8) }
  const step = optimizationStep(recipe, { ...fixture, ...columns, advantage })
  check.float32(step.loss, 0.11, 12) // the tokens' losses are 12 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('tempFlow', 'the recommended weight is sigma; a level of 1 has the second level below', () => {
  const sigma = [0.9, 0.6, 0.3].map((level) => 2.25 * 0.7 * Math.sqrt(level / (1 - level)))
  const { weight } = run({ weighting: 'sigma' }).weights
  expect(three(weight!)).toEqual(sigma.map((s) => expect.closeTo(s, 5)))
  const [first] = tempFlow().sample.stepStd([1, 0.75, 0], 0.9)
  expect(first).toBeCloseTo(0.9 * Math.sqrt(1 / 0.25) * Math.sqrt(0.25), 12)
})

edge('tempFlow', 'advantages within the steps of one number and prompt; ragged trajectories', () => {
  const { tokenAdvantage } = run()
  const normalised = (...x: number[]) => {
    const mean = x.reduce((sum, v) => sum + v, 0) / x.length
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length
    return x.map((v) => expect.closeTo((v - mean) / (Math.sqrt(variance) + 1e-4), 5))
  }
  const at = (...list: number[]) => list.map((t) => tokenAdvantage![t])
  expect(at(0, 3, 6)).toEqual(normalised(1, 0, 2))
  expect(at(1, 4, 7)).toEqual(normalised(0, 0, 3))
  expect(at(2, 5)).toEqual(normalised(3, 1))
  expect(at(8, 9, 10)).toEqual([0, 0, 0])
})

edge('tempFlow', 'steps that are numbered', () => {
  const step = [0, 1, 2, 2, 1, 0, 0, 1, 0, 1, 2]
  const { tokenAdvantage, weights } = run({}, { step, std: std.map((_, t) => stepStd[step[t]!]!) })
  // The steps 2 of the first two trajectories have rewards 3 and 0.
  expect([tokenAdvantage![2], tokenAdvantage![3]]).toEqual([1, -1].map((a) => expect.closeTo(a, 3)))
  expect(weights.weight![3]).toBeCloseTo(0.402500635105, 6)
})

edge('tempFlow', 'trajectories without any advantage are left out', () => {
  expect(Array.from(run().rollouts)).toEqual([1, 1, 1, 0])
  const equal = run({}, { stepReward: Array(T).fill(0.1) })
  expect(Array.from(equal.rollouts)).toEqual([0, 0, 0, 0])
  expect(equal.loss).toBe(0)
})

edge('tempFlow', 'masked steps and rejected trajectories enter no statistic', () => {
  const mask = Array.from(std, (_, t) => Number(t !== 6))
  const { tokenAdvantage } = run({}, { mask, rolloutMask: [1, 1, 1, 0] })
  expect([0, 3, 6].map((t) => tokenAdvantage![t])).toEqual([1, -1, 0].map((a) => expect.closeTo(a, 3)))
})

edge('tempFlow', 'the KL is that of Gaussians', () => {
  const rows = (value: number) => array(new Float32Array(2 * T).fill(value), [T, 2])
  const policy = { logp: undefined, x: rows(0.1), mean: rows(0.2), oldMean: rows(0.2), refMean: rows(0.5) }
  const { loss } = run({ klCoef: 1 }, { ...policy, stepReward: [...Array(3).fill(1), ...Array(8).fill(0)], oldLogp: undefined }) // biome-ignore format: short
  const without = run({}, { ...policy, stepReward: [...Array(3).fill(1), ...Array(8).fill(0)], oldLogp: undefined })
  const kept = std.subarray(0, 8)
  const kl = kept.reduce((sum, s) => sum + 0.3 ** 2 / (2 * s * s), 0) / 8
  expect(loss - without.loss).toBeCloseTo(kl, 5)
})

edge('tempFlow', 'everything masked', () => {
  learnsNothing(tempFlow(), { stepReward: fixture.mask, std: new Float32Array(8).fill(1) })
})

edge('tempFlow', 'without rewards of steps; without the lengths of steps', () => {
  const { stepReward, ...rest } = example
  expect(() => prepareStep(tempFlow(), rest as never)).toThrow('tempFlow: stepReward is missing from the batch, expected number[T]') // biome-ignore format: short
  expect(() => run({ weighting: 'sigma' }, { dt: undefined })).toThrow(
    'tempFlow: dt is missing from the batch, expected number[T] for weighting sigma',
  )
})

edge('tempFlow', 'what lies under the mask, or was rejected, reaches no weight', () => {
  const dirty = Float32Array.from(std)
  const dt = Array<number>(T).fill(0.3)
  for (const t of [6, 9]) [dirty[t], dt[t]] = [Number.NaN, -1]
  const mask = Array.from(std, (_, t) => Number(t !== 6))
  const batch = { mask, rolloutMask: [1, 1, 1, 0] }
  for (const weighting of ['mean_one', 'std', 'sigma'] as const) {
    const clean = run({ weighting }, batch)
    const step = run({ weighting }, { ...batch, std: dirty, dt })
    expect(step.weights).toEqual(clean.weights)
    expect(step.gradLogp).toEqual(clean.gradLogp)
    expect(step.loss).toBe(clean.loss)
    expect(Number.isFinite(step.loss)).toBe(true)
  }
  for (const wrong of [-1, 0, Number.NaN]) {
    dt[6] = wrong
    expect(() => run({ weighting: 'sigma' }, { dt })).toThrow(`tempFlow: dt has ${wrong} at 6, expected above 0`)
  }
})

edge('tempFlow', 'one step number at a time has its weight from the schedule; without it the weight is 1', () => {
  const single = {
    std: new Float32Array(4).fill(stepStd[0]!),
    step: [0, 0, 0, 0],
    stepReward: [1, 0, 3, 2],
    dt: undefined,
    sequenceStart: [0, 1, 2, 3, 4],
    groupStart: [0, 4],
    logp: new Float32Array(4),
    oldLogp: new Float32Array(4),
  }
  expect(run({}, single).weights.weight).toEqual(new Float32Array(4).fill(1))
  const { weight } = run({}, { ...single, schedule: stepStd }).weights
  expect(Array.from(weight!)).toEqual(Array(4).fill(expect.closeTo(1.844489627635, 6)))
  const refused = (schedule: number[], text: string) => expect(() => run({}, { ...single, schedule })).toThrow(text)
  refused([], 'tempFlow: schedule is empty, expected standard deviations, above 0')
  refused([1, Number.NaN], 'tempFlow: schedule has NaN at 1, expected standard deviations, above 0')
})

edge('tempFlow', 'trajectories with two deviations for a step number count with their mean', () => {
  const two = { stepReward: [1, 0, 0, 1], sequenceStart: [0, 2, 4], groupStart: [0, 2], dt: undefined, std: Float32Array.of(0.5, 2, 1.5, 4) } // biome-ignore format: short
  const logp = new Float32Array(4)
  // The steps 0 and 1 have 1 and 3, whose mean is 2.
  expect(Array.from(run({}, { ...two, logp, oldLogp: logp }).weights.weight!)).toEqual([0.25, 1, 0.75, 2])
})

edge('tempFlow', 'std as a host array, which the policy takes too', () => {
  expect(run({}, { std: array(std, [T]) }).weights).toEqual(run().weights)
})
