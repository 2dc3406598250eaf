// Micro-batches of every method: the loss and the gradient of the whole, the same bits however the batch is divided.
import { describe, expect, test } from 'vitest'
import { names, presetNames, recipeOf } from '../../../examples/recipes/describe.js'
import { exampleBatch, logp as exampleLogp } from '../../../examples/recipes/example_batch.js'
import { array, type HostArray } from '../../../lib/index.js'
import { type AnyRecipe, type MicroBatch, type Policy, prepareStep, recipes } from '../../../lib/recipes/index.js'
import * as promises from '../../../lib/recipes/promises.js'
import { random } from '../../support/random.js'

const numbers = random(17)
const T = exampleLogp.length
const [V, D] = [5, 3]
const logits = numbers.normals(T * V)
const hidden = numbers.normals(T * D)
const head = array(numbers.normals(V * D), [V, D])
const headBias = numbers.normals(V)

const all = { rows: [0, T], tokens: [0, T] } as const
const three: MicroBatch[] = [
  { rows: [0, 5], tokens: [0, 5] },
  { rows: [5, 5], tokens: [5, 5] },
  { rows: [5, T], tokens: [5, T] },
]
const rowsOf = (x: Float32Array, [from, to]: MicroBatch['rows'], width: number) =>
  array(x.slice(from * width, to * width), [to - from, width])
const ofLogits = ({ rows }: MicroBatch) => ({ logits: rowsOf(logits, rows, V) })
const ofHidden = ({ rows }: MicroBatch) => ({ hidden: rowsOf(hidden, rows, D), head, headBias })

interface Run {
  readonly loss: number
  readonly stats: ArrayLike<number> | undefined
  readonly gradients: Record<string, number[]>
}

/** Gradients of rows one after the other, sums over rows as they are at the end. */
function run<P extends Policy>(recipe: AnyRecipe, parts: readonly MicroBatch[], forward: (part: MicroBatch) => P): Run {
  const { logp, x, mean, std, oldMean, refMean, ...batch } = exampleBatch(recipe)
  const mask = Uint8Array.from({ length: T }, (_, t) => (t === 3 ? 0 : 1))
  const iterator = prepareStep(recipe, { mask, ...batch } as never).microBatches(parts, forward)
  const gradients: Record<string, number[]> = {}
  for (;;) {
    const next = iterator.next()
    if (next.done) return { loss: next.value.loss, stats: next.value.stats?.data, gradients }
    for (const [name, given] of Object.entries(next.value)) {
      if (name === 'part') continue
      const values = Array.from((given as HostArray<'f32'>).data)
      const isSum = name === 'gradHead' || name === 'gradHeadBias'
      gradients[name] = isSum ? values : [...(gradients[name] ?? []), ...values]
    }
  }
}

const isGaussian = (recipe: AnyRecipe) => recipe.description.example?.mean !== undefined
const methods = [...names, ...presetNames].filter((name) => recipeOf(name).objective !== null && !isGaussian(recipeOf(name))) // biome-ignore format: one list

const near = (actual: number[] | undefined, expected: number[], size: number) => {
  expect(actual?.length).toBe(expected.length)
  expected.forEach((x, i) => expect(Math.abs((actual?.[i] as number) - x)).toBeLessThanOrEqual(2e-6 * size))
}

describe.each(methods)('%s', (name) => {
  const recipe = recipeOf(name)
  const { logp, ...batch } = exampleBatch(recipe)
  const mask = Uint8Array.from({ length: T }, (_, t) => (t === 3 ? 0 : 1))
  const prepared = () => prepareStep(recipe, { mask, ...batch } as never)

  test('from logits', () => {
    const whole = prepared().loss(ofLogits(all))
    const once = run(recipe, [all], ofLogits)
    const parts = run(recipe, three, ofLogits)
    expect(parts).toEqual(once)
    const expected = Array.from(whole.gradLogits.data as Float32Array)
    const size = Math.max(...expected.map(Math.abs), 1e-3)
    near(parts.gradients.gradLogits, expected, size)
    near([parts.loss], [whole.loss], Math.max(Math.abs(whole.loss), size))
  })

  test('from hidden states', () => {
    const whole = prepared().loss(ofHidden(all)) as unknown as Record<string, HostArray<'f32'>> & { loss: number }
    const once = run(recipe, [all], ofHidden)
    const parts = run(recipe, three, ofHidden)
    expect(parts.loss).toBe(once.loss)
    expect(parts.gradients.gradHidden).toEqual(once.gradients.gradHidden)
    expect(Object.keys(parts.gradients).sort()).toEqual(['gradHead', 'gradHeadBias', 'gradHidden'])
    for (const gradient of ['gradHidden', 'gradHead', 'gradHeadBias'] as const) {
      const expected = Array.from((whole[gradient] as HostArray<'f32'>).data)
      near(parts.gradients[gradient], expected, Math.max(...expected.map(Math.abs), 1e-3))
    }
  })
})

const mask = Uint8Array.from({ length: T }, (_, t) => (t === 3 ? 0 : 1))
const { logp: _, ...example }: Record<string, unknown> = { ...exampleBatch(recipes.dapo()), mask }
const prepared = () => prepareStep(recipes.dapo(), example as never)
const drain = (iterator: Generator) => [...iterator]

test('gradients go where out says: over the logits, and into gradHead, to which they are added', () => {
  const given = ofLogits(all)
  const out = (_: MicroBatch, { logits }: { logits: HostArray }) => ({ gradLogits: logits })
  const [first] = [...prepared().microBatches([all], () => given, { out })]
  expect(first?.gradLogits).toBe(given.logits)
  expect(Array.from(given.logits.data)).toEqual(run(recipes.dapo() as AnyRecipe, [all], ofLogits).gradients.gradLogits)

  const plain = Array.from(run(recipes.dapo() as AnyRecipe, three, ofHidden).gradients.gradHead as number[])
  const gradHead = array(new Float32Array(V * D).fill(2), [V, D])
  const gradHeadBias = new Float32Array(V).fill(-1)
  const sums = { out: { gradHead, gradHeadBias }, accumulate: true }
  drain(prepared().microBatches(three, ofHidden, sums))
  Array.from(gradHead.data).forEach((x, i) => expect(x).toBeCloseTo(2 + (plain[i] as number), 6))
  drain(prepared().microBatches(three, ofHidden, { out: { gradHead, gradHeadBias } }))
  expect(Array.from(gradHead.data)).toEqual(plain)
})

test('the options of the step hold, those given replace them', () => {
  const step = prepareStep(recipes.dapo(), example as never, undefined, {
    temperature: 0.5,
    objective: { normalizer: 3 },
  })
  const lossOf = (iterator: Generator<unknown, { loss: number }>) => {
    for (;;) {
      const next = iterator.next()
      if (next.done) return next.value.loss
    }
  }
  const expected = step.loss(ofLogits(all)).loss
  expect(lossOf(step.microBatches(three, ofLogits))).toBeCloseTo(expected, 6)
  const other = step.loss(ofLogits(all), { temperature: 2 }).loss
  expect(Math.abs(other - expected)).toBeGreaterThan(1e-3)
  expect(lossOf(step.microBatches(three, ofLogits, { temperature: 2 }))).toBeCloseTo(other, 6)
})

test('as promises, with a model that is one too, and a signal', async () => {
  const step = await promises.prepareStep(recipes.dapo(), example as never)
  const gradients: number[] = []
  const iterator = step.microBatches(three, async (part) => ofLogits(part))
  for await (const { gradLogits } of iterator) gradients.push(...(gradLogits.data as Float32Array))
  expect(gradients).toEqual(run(recipes.dapo() as AnyRecipe, three, ofLogits).gradients.gradLogits)

  const controller = new AbortController()
  const stopped = step.microBatches(three, async (part) => ofLogits(part), { signal: controller.signal })
  await stopped.next()
  controller.abort()
  await expect(stopped.next()).rejects.toThrow(/abort/i)
})

describe('bad input', () => {
  const refuses = (parts: unknown, forward: unknown, sentence: string) =>
    expect(() => drain(prepared().microBatches(parts as never, forward as never))).toThrow(sentence)
  const part = (...tokens: number[]) => ({ rows: tokens, tokens })
  test('parts that are no division of the tokens', () => {
    refuses(part(0, T), ofLogits, 'dapo: parts is a plain object, expected a list of { rows, tokens }')
    refuses([part(0, 5), part(6, T)], ofLogits, 'dapo: parts has tokens from 6 in 1, expected 5: each token is in one part, in their order') // biome-ignore format: one sentence
    refuses([part(0, 5), part(4, T)], ofLogits, 'dapo: parts has tokens from 4 in 1, expected 5')
    refuses([part(0, 5)], ofLogits, `dapo: parts ends with token 5, expected ${T} (T from sequenceStart)`)
    refuses([{ rows: [0, 1.5], tokens: [0, T] }], ofLogits, 'dapo: parts has a plain array of 2 as rows of 0, expected [from, to], whole numbers that do not fall') // biome-ignore format: one sentence
    refuses([{ rows: [0, T], tokens: [T, 0] }], ofLogits, 'as tokens of 0, expected [from, to]')
    refuses([null], ofLogits, 'dapo: parts has undefined as rows of 0')
  })
  test('a policy that has no logits, or another kind of one', () => {
    refuses(
      [all],
      () => ({ logp: new Float32Array(T) }),
      'dapo: forward gives logp, expected logits, or hidden and head',
    )
    refuses([all], () => ({}), 'dapo: forward gives no policy, expected logits, or hidden and head')
    const turns = (given: MicroBatch) => (given.tokens[0] === 0 ? ofLogits(given) : ofHidden(given))
    refuses([part(0, 5), part(5, T)], turns, 'dapo: forward gives hidden, but logits before')
    refuses([all], ({ rows }: MicroBatch) => ({ hidden: rowsOf(hidden, rows, D) }), 'dapo: head is missing, but hidden is given') // biome-ignore format: one sentence
    refuses([part(0, 5), part(5, T)], () => ({ logits: array(new Float32Array(V), [1, V]) }), 'tokenLogprob: ')
  })
  test('an option that none is', () => {
    const given = { inPlace: true } as never
    expect(() => prepared().microBatches([all], ofLogits, given)).toThrow('dapo: inPlace is no option of a step')
  })
})
