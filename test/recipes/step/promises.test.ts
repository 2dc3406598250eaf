// Steps as promises on the host: the same bits, off the main thread, stopped by a signal.
import { describe, expect, test } from 'vitest'
import { names, presetNames, recipeOf } from '../../../examples/recipes/describe.js'
import { exampleBatch } from '../../../examples/recipes/example_batch.js'
import { array } from '../../../lib/index.js'
import { type AnyRecipe, optimizationStep, prepareStep, recipes } from '../../../lib/recipes/index.js'
import * as promises from '../../../lib/recipes/promises.js'
import { random } from '../../support/random.js'

type Bag = Record<string, unknown>
const bits = (x: unknown): string =>
  JSON.stringify(x, (_, value) => {
    if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')
    return typeof value === 'number' ? (Object.is(value, -0) ? '-0' : String(value)) : value
  })

describe('every method: the bits of the step at once', () => {
  test.each([...names, ...presetNames])('%s', async (name) => {
    const recipe: AnyRecipe = recipeOf(name)
    const batch = exampleBatch(recipe) as never
    if (recipe.objective === null) {
      expect(bits(await promises.prepareStep(recipe, batch))).toBe(bits(prepareStep(recipe, batch)))
      return
    }
    expect(bits(await promises.optimizationStep(recipe, batch))).toBe(bits(optimizationStep(recipe, batch)))
  })
})

const numbers = random(5)
/** A batch whose loss takes long: many rows of many logits. */
function large(rows: number, vocabulary: number) {
  const T = rows
  const logits = array(numbers.normals(rows * vocabulary), [rows, vocabulary])
  const token = Int32Array.from({ length: T }, () => numbers.integer(vocabulary))
  const oldLogp = numbers.normals(T, 0.1, -8)
  const batch = {
    rewards: [1, 0, 0, 1],
    groupStart: [0, 4],
    sequenceStart: [0, T / 4, T / 2, (3 * T) / 4, T],
    token,
    oldLogp,
  }
  return { batch, policy: { logits } }
}

test('the event loop ticks during a long step, of a fused loss and of a loss of the method’s own', async () => {
  const { batch, policy } = large(2048, 8192)
  for (const recipe of [recipes.dapo(), recipes.klCov()]) {
    const begin = performance.now()
    let last = begin
    let longest = 0
    const timer = setInterval(() => {
      const now = performance.now()
      longest = Math.max(longest, now - last)
      last = now
    }, 1)
    const done = await promises.optimizationStep(recipe as AnyRecipe, { ...batch, ...policy } as never)
    clearInterval(timer)
    const took = performance.now() - begin
    expect(Number.isFinite(done.loss)).toBe(true)
    longest = Math.max(longest, performance.now() - last)
    expect(longest, `of ${took} ms`).toBeLessThan(took / 2)
  }
})

describe('signal', () => {
  test('an aborted one stops a step before it starts, with its reason', async () => {
    const { batch, policy } = large(4, 8)
    const reason = new Error('enough')
    const signal = AbortSignal.abort(reason)
    await expect(promises.prepareStep(recipes.dapo(), batch, undefined, { signal })).rejects.toBe(reason)
    await expect(
      promises.optimizationStep(recipes.dapo(), { ...batch, ...policy }, undefined, { signal }),
    ).rejects.toBe(reason)
    const prepared = await promises.prepareStep(recipes.dapo(), batch)
    await expect(prepared.loss(policy, { signal })).rejects.toBe(reason)
    expect((await prepared.loss(policy)).loss).toBe(prepareStep(recipes.dapo(), batch).loss(policy).loss)
  })

  test('one that aborts during a kernel stops the step, and the next one runs', async () => {
    const { batch, policy } = large(2048, 8192)
    const prepared = await promises.prepareStep(recipes.klCov(), batch)
    const controller = new AbortController()
    const stopped = prepared.loss(policy, { signal: controller.signal })
    setTimeout(() => controller.abort(), 1)
    await expect(stopped).rejects.toThrow(/abort/i)
    expect(Number.isFinite((await prepared.loss(policy)).loss)).toBe(true)
  })

  test('what is no signal is refused, as is one where nothing can be stopped', async () => {
    const { batch, policy } = large(4, 8)
    const signal = { aborted: false } as AbortSignal
    await expect(promises.prepareStep(recipes.dapo(), batch, undefined, { signal })).rejects.toThrow('dapo: signal is a plain object, expected an AbortSignal') // biome-ignore format: one sentence
    const prepared = await promises.prepareStep(recipes.dapo(), batch)
    await expect(prepared.loss(policy, { signal })).rejects.toThrow('dapo: signal is a plain object, expected an AbortSignal') // biome-ignore format: one sentence
    expect(() => prepareStep(recipes.dapo(), batch, undefined, { signal } as Bag)).toThrow('dapo: signal is no option of a step') // biome-ignore format: one sentence
  })
})

test('an error of the batch or the policy rejects, and does not throw', async () => {
  const { batch } = large(4, 8)
  await expect(promises.prepareStep(recipes.dapo(), { ...batch, rewards: undefined } as never)).rejects.toThrow('dapo: rewards is missing') // biome-ignore format: one sentence
  const prepared = await promises.prepareStep(recipes.dapo(), batch)
  await expect(prepared.loss({})).rejects.toThrow('dapo: policy is missing')
})
