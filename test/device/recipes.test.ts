// Steps whose policy and columns lie on a device, of every method and preset: the host's numbers, what is read back, and
// what is given back.
import { afterEach, describe, expect, test, vi } from 'vitest'
import { names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch, logp as exampleLogp } from '../../examples/recipes/example_batch.js'
import { native } from '../../lib/addon/native.js'
import { isDeviceArray } from '../../lib/arrays/device_memory.js'
import { array, cuda, type DeviceArray, type HostArray } from '../../lib/index.js'
import { type AnyRecipe, prepareStep } from '../../lib/recipes/index.js'
import * as promises from '../../lib/recipes/promises.js'
import { parseColumn } from '../../lib/recipes/step/columns.js'
import { random } from '../support/random.js'

type Bag = Record<string, unknown>
const made: DeviceArray[] = []
afterEach(() => {
  vi.restoreAllMocks()
  for (const x of made.splice(0)) x.dispose()
})

const upload = (x: HostArray | Float32Array | Int32Array | Uint8Array) => {
  const there = cuda.upload(x)
  made.push(there)
  return there
}

const T = exampleLogp.length
const V = 5
const D = 3
const numbers = random(11)
const values = (...shape: number[]) =>
  array(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => numbers.normal()), shape)
const logits = values(T, V)
const hidden = values(T, D)
const head = values(V, D)

const tokenColumns: Readonly<Record<string, 'f32' | 'i32' | 'u8'>> = {
  token: 'i32',
  mask: 'u8',
  oldLogp: 'f32',
  refLogp: 'f32',
  rolloutLogp: 'f32',
  entropy: 'f32',
}
const containers = { f32: Float32Array, i32: Int32Array, u8: Uint8Array }

/** Columns of tokens that a method may have on a device: those of every method, and its own. */
function columnsOf(recipe: AnyRecipe): Readonly<Record<string, 'f32' | 'i32' | 'u8'>> {
  const own = Object.entries(recipe.description.columns ?? {}).flatMap(([name, text]) => {
    const { kind, axes } = parseColumn(name, text)
    const dtype = { f32: 'f32', number: 'f32', integer: 'i32', flag: 'u8' }[kind as 'f32']
    return axes[0] === 'T' && dtype !== undefined ? [[name, dtype as 'f32']] : []
  })
  return { ...tokenColumns, ...Object.fromEntries(own) }
}

/** The batch without a policy, in numbers that float32 holds; the last token but one is masked. */
function batchOf(recipe: AnyRecipe): Bag {
  const { logp, x, mean, std, oldMean, refMean, ...batch } = exampleBatch(recipe)
  const mask = Uint8Array.from({ length: T }, (_, t) => (t === T - 2 ? 0 : 1))
  const all: Bag = { ...batch, mask: (batch.mask as Uint8Array) ?? mask }
  for (const [name, dtype] of Object.entries(columnsOf(recipe))) {
    const list = all[name]
    if (list !== undefined) all[name] = containers[dtype].from((isArray(list) ? list.data : list) as number[])
  }
  return all
}
const isArray = (x: unknown): x is HostArray => typeof x === 'object' && x !== null && 'data' in x

/** The same with its columns of tokens on the device. */
function placed(recipe: AnyRecipe, batch: Bag): Bag {
  const names = columnsOf(recipe)
  return Object.fromEntries(Object.entries(batch).map(([name, x]) => [name, name in names ? upload(x as Float32Array) : x]))
}

const isGaussian = (recipe: AnyRecipe) => recipe.description.example?.mean !== undefined
const all = [...names, ...presetNames]
const withLoss = all.filter((name) => recipeOf(name).objective !== null)
const ofTokens = withLoss.filter((name) => !isGaussian(recipeOf(name)))

const hostOf = (x: unknown): ArrayLike<number> =>
  typeof x === 'number' ? [x] : isDeviceArray(x) ? (x.readSync().data as Float32Array) : (x as HostArray<'f32'>).data

/** Within 1e-5 of the largest of the values. */
function near(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [hostOf(actual), hostOf(expected)]
  expect(a.length, what).toBe(b.length)
  const size = Array.from(b).reduce((most, x) => Math.max(most, Math.abs(x)), 1e-30)
  for (let i = 0; i < b.length; i++) expect(Math.abs((a[i] as number) - (b[i] as number)), `${what} at ${i}`).toBeLessThanOrEqual(1e-5 * Math.max(size, 1e-3)) // biome-ignore format: one text
}

type Done = Record<string, unknown>
const gradientsIn = (done: Done) => Object.keys(done).filter((name) => name.startsWith('grad'))

function same(actual: Done, expected: Done): void {
  near(actual.loss, expected.loss, 'loss')
  expect(gradientsIn(actual)).toEqual(gradientsIn(expected))
  for (const name of gradientsIn(expected)) near(actual[name], expected[name], name)
  for (const [name, x] of Object.entries(actual)) {
    if (name === 'weights' || x === undefined) continue
    expect(isDeviceArray(x), `${name} lies on the device`).toBe(true)
    made.push(x as DeviceArray)
  }
}

const policies = {
  logits: { host: { logits }, device: () => ({ logits: upload(logits) }) },
  hidden: { host: { hidden, head }, device: () => ({ hidden: upload(hidden), head: upload(head) }) },
}

describe.each(Object.keys(policies) as (keyof typeof policies)[])('%s on a device, the host’s numbers', (kind) => {
  test.each(ofTokens)('%s', async (name) => {
    const recipe = recipeOf(name)
    const batch = batchOf(recipe)
    const expected = prepareStep(recipe, batch as never).loss(policies[kind].host) as unknown as Done
    const prepared = prepareStep(recipe, placed(recipe, batch) as never)
    same(prepared.loss(policies[kind].device()) as unknown as Done, expected)
    same(prepared.loss(policies[kind].device()) as unknown as Done, expected)
    prepared.dispose()
    const later = await promises.prepareStep(recipe, placed(recipe, batch) as never)
    same((await later.loss(policies[kind].device())) as unknown as Done, expected)
    later.dispose()
  })
})
