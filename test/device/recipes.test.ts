// Steps whose policy and columns lie on a device, of every method and preset: the host's numbers, what is read back, and
// what is given back.
import { afterEach, describe, expect, test, vi } from 'vitest'
import { makeOf, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch, logp as exampleLogp } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import { rangeOf } from '../../lib/recipes/step/columns.js'
import { native } from '../../lib/addon/native.js'
import { DeviceArray as DeviceMemory, isDeviceArray } from '../../lib/arrays/device_memory.js'
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

/** Other values of an option than its default. */
function othersOf(name: string, text: string): unknown[] {
  const { kind, choices, fallback, nullable } = parseOption(name, text)
  const none = nullable ? [null] : []
  if (kind === 'boolean') return [!fallback]
  if (kind === 'enum') return [...none, ...choices].filter((choice) => choice !== fallback)
  const holds = rangeOf(text.replace(/^\w+\?? ?(= \S+)? ?/, ''))
  return [...none, ...[0, 0.3, 1, 2].filter((x) => holds(x) && x !== fallback)]
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

// ---- what is read -----------------------------------------------------------------------------------------------------

/** The names of what is read from the device, at once, while `run` runs: columns of the batch, or logp and entropy. */
function readIn<Result>(batch: Bag, run: () => Result): { result: Result; names: Set<string> } {
  const nameOf = new Map(Object.entries(batch).map(([name, x]) => [x, name]))
  const names = new Set<string>()
  const readSync = DeviceMemory.prototype.readSync
  const spy = vi.spyOn(DeviceMemory.prototype, 'readSync').mockImplementation(function (this: DeviceArray) {
    names.add(nameOf.get(this) ?? 'policy')
    return readSync.call(this)
  })
  try {
    return { result: run(), names }
  } finally {
    spy.mockRestore()
  }
}

/** A method with its defaults, and with another value of each of its options, where its example takes that. */
function variantsOf(name: string): { recipe: AnyRecipe; options: Bag }[] {
  const options = Object.entries(recipeOf(name).description.options ?? {})
  const changed = options.flatMap(([option, [text]]) => othersOf(option, text).map((value) => ({ [option]: value })))
  return [{}, ...changed].flatMap((given) => {
    try {
      const recipe = makeOf(name)(given)
      const prepared = prepareStep(recipe, batchOf(recipe) as never)
      if (recipe.objective !== null) prepared.loss({ logits } as never)
      return [{ recipe, options: given }]
    } catch {
      return [] // refused
    }
  })
}

/** What `reads` says, of what this batch has: the policy's logp and entropy under one name. */
function declared(names: readonly string[] = [], batch: Bag): Set<string> {
  const ofPolicy = (name: string) => name === 'logp' || (name === 'entropy' && !(name in batch))
  return new Set(names.flatMap((name) => (ofPolicy(name) ? ['policy'] : name in batch ? [name] : [])))
}
const sorted = (names: Iterable<string>) => [...new Set(names)].sort()

describe('a method reads on the host what it says, and nothing else', () => {
  test.each(all.filter((name) => !isGaussian(recipeOf(name))))('%s', (name) => {
    for (const { recipe, options } of variantsOf(name)) {
      const batch = placed(recipe, batchOf(recipe))
      const what = JSON.stringify(options)
      const { step = [], update = [] } = recipe.reads ?? {}
      const silent = { ...recipe, reads: undefined } as AnyRecipe
      const first = readIn(batch, () => prepareStep(silent, { ...batch, logits: upload(logits) } as never))
      expect(sorted(first.names), `prepareStep, ${what}`).toEqual(sorted(declared(step, batch)))
      if (recipe.objective === null) continue
      const { result: prepared, names } = readIn(batch, () => prepareStep(silent, batchOf(recipe) as never))
      expect(sorted(names)).toEqual([])
      prepared.dispose()
      const second = readIn(batch, () => first.result.loss({ logits: upload(logits) }))
      const seen = sorted([...first.names, ...second.names])
      expect(seen, `loss, ${what}`).toEqual(sorted([...declared(step, batch), ...declared(update, batch)]))
      first.result.dispose()
      for (const x of made.splice(0)) x.dispose()
    }
  })
})
