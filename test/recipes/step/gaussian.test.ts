// A Gaussian policy in a step: what stands as its log-probability, and the gradient with respect to its mean against central
// differences in float64.
import { describe, expect, test } from 'vitest'
import { array } from '../../../lib/index.js'
import { optimizationStep, prepareStep, recipes } from '../../../lib/recipes/index.js'
import { recipe } from '../../../lib/recipes/step/recipe.js'
import { random } from '../../support/random.js'

const paper = { title: 'a method of these tests' }
const plain = recipe({ name: 'plain', paper, source: 'inferred', equation: '' }, () => ({ gaussian: 'logp' }))
const normalised = recipe({ name: 'normalised', paper, source: 'inferred', equation: '' }, () => ({ gaussian: 'log_ratio' })) // biome-ignore format: short

const [T, D] = [6, 3]
const { normals, uniforms } = random(5)
const oldMean = normals(T * D)
const noise = normals(T * D)
const std = uniforms(T, 0.1, 0.4)
const x = oldMean.map((m, i) => m + std[Math.floor(i / D)]! * noise[i]!)
const mean = oldMean.map((m) => m + 0.02 * normals(1)[0]!)
const refMean = oldMean.map((m) => m + 0.05 * normals(1)[0]!)
const rows = (data: Float32Array) => array(data, [T, D])
const mask = [1, 1, 0, 1, 1, 1]
const batch = {
  x: rows(x),
  mean: rows(mean),
  std,
  oldMean: rows(oldMean),
  refMean: rows(refMean),
  sequenceStart: [0, 2, 6],
  groupStart: [0, 2],
  advantage: [1.5, -0.7],
  mask,
}

const density = (m: ArrayLike<number>, t: number) => {
  let total = 0
  for (let i = t * D; i < t * D + D; i++) total -= (x[i]! - m[i]!) ** 2 / (2 * std[t]! ** 2)
  return total / D - Math.log(std[t]!) - Math.log(2 * Math.PI) / 2
}
const squares = (a: ArrayLike<number>, b: ArrayLike<number>, t: number) => {
  let total = 0
  for (let i = t * D; i < t * D + D; i++) total += (a[i]! - b[i]!) ** 2
  return total / D
}
const logRatio = (m: ArrayLike<number>, t: number) =>
  std[t]! * (density(m, t) - density(oldMean, t) + squares(m, oldMean, t) / (2 * std[t]! ** 2))
const oldLogp = Float32Array.from(std, (_, t) => density(oldMean, t))

/** The unclipped loss, averaged over unmasked steps, in float64. */
const loss = (m: ArrayLike<number>, ratio: (m: ArrayLike<number>, t: number) => number, klCoef = 0) =>
  mask.reduce((total, counts, t) => {
    const kl = squares(m, refMean, t) / (2 * std[t]! ** 2)
    return total + (counts * (klCoef * kl - batch.advantage[t < 2 ? 0 : 1]! * Math.exp(ratio(m, t)))) / 5
  }, 0)

function expectGradient(actual: ArrayLike<number>, value: (m: ArrayLike<number>) => number): void {
  const h = 1e-5
  const expected = Array.from(mean, (_, i) => {
    const moved = (by: number) => Float64Array.from(mean, (m, k) => (k === i ? m + by : m))
    return (value(moved(h)) - value(moved(-h))) / (2 * h)
  })
  const largest = Math.max(...expected.map(Math.abs))
  expect(actual.length).toBe(expected.length)
  // Four roundings to float32: of the log-probability or KL, its gradient, and those of the mean.
  expected.forEach((e, i) => expect(Math.abs(actual[i]! - e) / largest).toBeLessThan(4 * 2 ** -24))
}
const unclipped = { clipLow: null, clipHigh: null }

describe('logp', () => {
  const ratio = (m: ArrayLike<number>, t: number) => density(m, t) - oldLogp[t]!
  const run = (klCoef: number) =>
    optimizationStep(plain(), { ...batch, oldLogp }, undefined, { objective: { ...unclipped, klCoef } })

  test('the log-density, averaged over dimensions', () => {
    const { logp } = run(0)
    mask.forEach((counts, t) => expect(logp![t]).toBeCloseTo(counts ? density(mean, t) : 0, 5))
  })
  test('loss and gradient', () => {
    const step = run(0)
    expect(step.loss).toBeCloseTo(loss(mean, ratio), 6)
    expect(step.gradMean!.shape).toEqual([T, D])
    expect(step.gradLogp).toBeUndefined()
    expectGradient(step.gradMean!.data, (m) => loss(m, ratio))
  })
  test('the exact KL to the reference, with its gradient', () => {
    const step = run(0.3)
    expect(step.loss).toBeCloseTo(loss(mean, ratio, 0.3), 5)
    expectGradient(step.gradMean!.data, (m) => loss(m, ratio, 0.3))
  })
  test('a KL takes the aggregate and the normalizer of the objective', () => {
    const options = { ...unclipped, klCoef: 0.3, aggregate: 'sequence_sum', normalizer: 4 } as const
    const step = optimizationStep(plain(), { ...batch, oldLogp }, undefined, { objective: options })
    expect(step.loss).toBeCloseTo((loss(mean, ratio, 0.3) * 5) / 4, 5)
    expectGradient(step.gradMean!.data, (m) => (loss(m, ratio, 0.3) * 5) / 4)
  })
  test('a method of tokens takes it too', () => {
    const step = optimizationStep(recipes.grpo({ klCoef: 0 }), { ...batch, oldLogp })
    expect(step.gradMean!.data.some((g) => g !== 0)).toBe(true)
  })
})

describe('log_ratio', () => {
  const run = (klCoef: number, more: object = {}) =>
    optimizationStep(normalised(), { ...batch, ...more }, undefined, { objective: { ...unclipped, klCoef } })

  test('is the normalised log-ratio, whatever oldLogp is', () => {
    const { logp, loss: value } = run(0, { oldLogp: new Float32Array(T).fill(-9) })
    mask.forEach((counts, t) => expect(logp![t]).toBeCloseTo(counts ? logRatio(mean, t) : 0, 5))
    expect(value).toBe(run(0).loss)
  })
  test('loss and gradient', () => {
    const step = run(0.3)
    expect(step.loss).toBeCloseTo(loss(mean, logRatio, 0.3), 5)
    expectGradient(step.gradMean!.data, (m) => loss(m, logRatio, 0.3))
  })
  test('log-probabilities that are given stay what they are', () => {
    const { mean: _, ...rest } = batch
    const step = optimizationStep(normalised(), { ...rest, logp: oldLogp, oldLogp })
    expect(step.logp).toBe(oldLogp)
  })
})

test('what a method masks beyond its selection enters neither the loss nor the KL', () => {
  const description = { name: 'masking', paper, source: 'inferred', equation: '' } as const
  const masking = recipe(description, () => ({ weights: () => ({ mask: Uint8Array.of(1, 1, 1, 1, 1, 0) }) }))
  const options = { objective: { ...unclipped, klCoef: 0.3 } }
  const masked = optimizationStep(plain(), { ...batch, oldLogp, mask: [1, 1, 0, 1, 1, 0] }, undefined, options)
  const step = optimizationStep(masking(), { ...batch, oldLogp }, undefined, options)
  expect(step.loss).toBe(masked.loss)
  expect(step.gradMean!.data).toEqual(masked.gradMean!.data)
})

test('the policy of every update anew', () => {
  const prepared = prepareStep(normalised(), batch)
  const { x, std, oldMean } = batch
  const first = prepared.loss({ x, std, oldMean, mean: oldMean })
  expect(Array.from(first.logp!)).toEqual([0, 0, 0, 0, 0, 0])
  expect(first.loss).not.toBe(prepared.loss({ x, std, oldMean, mean: batch.mean }).loss)
})

test('writes its gradient into memory of the caller', () => {
  const memory = new Float32Array(T * D)
  const out = { gradMean: rows(memory) }
  const step = optimizationStep(normalised(), batch, undefined, { out, objective: { klCoef: 0.1 } })
  expect(step.gradMean!.data).toBe(memory)
  expect(memory.some((g) => g !== 0)).toBe(true)
})

test('a reference mean that does not fit: nothing is written', () => {
  const memory = new Float32Array(T * D).fill(7)
  const options = { out: { gradMean: rows(memory) }, objective: { klCoef: 0.1 } }
  const wrong = { ...batch, refMean: array(refMean.slice(D), [T - 1, D]) }
  expect(() => optimizationStep(normalised(), wrong, undefined, options)).toThrow(
    'gaussianKl: refMean has shape [5, 3]',
  )
  expect(memory).toEqual(new Float32Array(T * D).fill(7))
})

test('a gradient that is not wanted', () => {
  const { loss } = optimizationStep(normalised(), batch, undefined, { objective: { klCoef: 0.1 } })
  const step = optimizationStep(normalised(), batch, undefined, { out: { gradMean: null }, objective: { klCoef: 0.1 } })
  expect(step.gradMean).toBeUndefined()
  expect(step.loss).toBe(loss)
})

test('what is missing or too much', () => {
  const refused = (more: object, text: string, objective = {}) =>
    expect(() => optimizationStep(normalised(), { ...batch, ...more }, undefined, { objective })).toThrow(text)
  refused({ x: undefined }, 'normalised: x is missing, expected f32[T,D]: what was sampled at each step')
  refused({ std: undefined }, 'normalised: std is missing, expected f32[T]')
  refused(
    { oldMean: undefined },
    'normalised: oldMean is missing, expected f32[T,D]: the mean of the policy that sampled',
  )
  refused({ refMean: undefined }, 'normalised: refMean is missing, expected f32[T,D]', { klCoef: 1 })
  const ratio = { refMean: undefined, refLogp: oldLogp }
  refused(ratio, 'normalised: refMean is missing, expected f32[T,D]', { klCoef: 1 })
  for (const klCoef of [Number.NaN, Infinity, 1e39, '1'])
    refused({}, `normalised: klCoef is ${klCoef === '1' ? '"1"' : klCoef}, expected a finite number`, { klCoef })
  refused({ logp: oldLogp }, 'normalised: mean is given beside logp: the policy is one of logp, logits, hidden, mean')
})
