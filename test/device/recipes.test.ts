// Steps whose policy and columns lie on a device, of every method and preset: the host's numbers, what is read back, and
// what is given back.
import { afterEach, describe, expect, test, vi } from 'vitest'
import { makeOf, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch, logp as exampleLogp } from '../../examples/recipes/example_batch.js'
import { native } from '../../lib/addon/native.js'
import { parseOption } from '../../lib/addon/signatures.js'
import { DeviceArray as DeviceMemory, isDeviceArray } from '../../lib/arrays/device_memory.js'
import { array, cuda, type DeviceArray, type HostArray } from '../../lib/index.js'
import {
  type AnyRecipe,
  optimizationStep,
  prepareStep,
  presets,
  recipes,
  withCorrection,
} from '../../lib/recipes/index.js'
import * as promises from '../../lib/recipes/promises.js'
import { parseColumn, rangeOf } from '../../lib/recipes/step/columns.js'
import { without } from '../../lib/recipes/step/properties.js'
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
  array(
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => numbers.normal()),
    shape,
  )
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
  return Object.fromEntries(
    Object.entries(batch).map(([name, x]) => [name, name in names ? upload(x as Float32Array) : x]),
  )
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
  const metrics = Object.entries(actual.metrics as object) // while its arrays are there
  expect(Object.keys(actual.metrics as object)).toEqual(Object.keys(expected.metrics as object))
  for (const [name, x] of metrics) near(x, (expected.metrics as Record<string, number>)[name], name)
  for (const [name, x] of Object.entries(actual)) {
    if (name === 'weights' || name === 'metrics' || x === undefined) continue
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

/** The functions that wait for a device. */
const waits = ['download', 'downloadAsync', 'waitAsync'] as const

test('as promises everything that is declared is fetched ahead: nothing is read at once', async () => {
  for (const name of ofTokens) {
    const recipe = recipeOf(name)
    const batch = placed(recipe, batchOf(recipe))
    const download = vi.spyOn(native.cuda, 'download')
    const prepared = await promises.prepareStep(recipe, { ...batch, logits: upload(logits) } as never)
    made.push(...arraysIn(await prepared.loss({ logits: upload(logits) })))
    prepared.dispose()
    expect(download, name).not.toHaveBeenCalled()
    vi.restoreAllMocks()
  }
})

test('a method that reads nothing never waits for the device', () => {
  const silent = ofTokens.filter(
    (name) => prepareStep(recipeOf(name), batchOf(recipeOf(name)) as never).reads.length === 0,
  )
  expect(silent.length).toBeGreaterThanOrEqual(44)
  for (const name of silent) {
    const recipe = recipeOf(name)
    const batch = placed(recipe, batchOf(recipe))
    const spies = waits.map((wait) => vi.spyOn(native.cuda, wait))
    const prepared = prepareStep(recipe, batch as never)
    for (let update = 0; update < 2; update++) made.push(...arraysIn(prepared.loss({ logits: upload(logits) })))
    prepared.dispose()
    for (const spy of spies) expect(spy, name).not.toHaveBeenCalled()
    vi.restoreAllMocks()
  }
})

// ---- what is given back -----------------------------------------------------------------------------------------------

/** But for metrics, which would be computed. */
const arraysIn = (done: object): DeviceArray[] => Object.values(without(done, 'metrics' as never)).filter(isDeviceArray) // biome-ignore format: one rule

/** Addresses of device memory that is held; after `fails` calls of the library one fails. */
function watchMemory(fails = Infinity): Set<bigint> {
  const held = new Set<bigint>()
  let calls = 0
  const failure = { status: -6, argument: '', problem: 'out of memory', cudaCode: 'cudaErrorMemoryAllocation' }
  const { allocate, release } = native.cuda
  vi.spyOn(native.cuda, 'allocate').mockImplementation((...given) => {
    if (++calls === fails) return failure as never
    const pointer = allocate(...given)
    held.add(pointer as bigint)
    return pointer
  })
  vi.spyOn(native.cuda, 'release').mockImplementation((...given) => {
    held.delete(given[3])
    return release(...given)
  })
  return held
}

/** Methods of each kind: fused, with weights, with a selection, with a loss of their own, with terms of their own. */
const kinds: [string, AnyRecipe][] = [
  ['dapo', recipes.dapo()],
  ['dcpo', recipes.dcpo()],
  ['d3s', recipes.d3s()],
  ['ipo', recipes.ipo()],
  ['klCov', recipes.klCov()],
  ['simpo', recipes.simpo()],
  ['nemo with k2', presets.nemo({ klType: 'k2' })],
  ['trl', presets.trl()],
  ['importance weights', withCorrection(recipes.dapo(), { importance: { mode: 'token_truncate' } })],
  ['corrections', withCorrection(recipes.grpo(), { importance: { mode: 'token_truncate' }, offPolicy: 0.1 })],
]

describe.each(kinds)('memory of %s', (_, recipe) => {
  const given = () => {
    const there = upload(logits)
    return { batch: placed(recipe, batchOf(recipe)), policy: { logits: there } }
  }
  test('all but the results is freed', async () => {
    const { batch, policy } = given()
    const held = watchMemory()
    const prepared = prepareStep(recipe, { ...batch, ...policy } as never)
    const results = [prepared.loss(policy), prepared.loss(policy)].flatMap(arraysIn)
    prepared.dispose()
    prepared.dispose()
    expect(held.size).toBe(results.length)
    for (const x of results) x.dispose()
    expect(held.size).toBe(0)

    const step = optimizationStep(recipe, { ...batch, ...policy } as never)
    step.dispose()
    const after = arraysIn(step)
    expect(held.size).toBe(after.length)
    for (const x of after) x.dispose()

    const later = await promises.optimizationStep(recipe, { ...batch, ...policy } as never)
    const last = arraysIn(later)
    expect(held.size).toBe(last.length)
    for (const x of last) x.dispose()
    expect(held.size).toBe(0)
  })

  test('out of memory at any point: everything is freed, and the next step runs', async () => {
    const { batch, policy } = given()
    const expected = hostOf(optimizationStep(recipe, { ...batch, ...policy } as never).loss)
    for (let fails = 1; ; fails++) {
      const held = watchMemory(fails)
      let error: unknown
      try {
        const done = fails % 2 === 0 ? optimizationStep(recipe, { ...batch, ...policy } as never) : await promises.optimizationStep(recipe, { ...batch, ...policy } as never) // biome-ignore format: one step
        made.push(...arraysIn(done))
      } catch (thrown) {
        error = thrown
      }
      vi.restoreAllMocks()
      if (error === undefined) {
        expect(fails).toBeGreaterThan(3)
        break
      }
      expect((error as { code: string }).code).toBe('ERR_GRPO_MEMORY')
      expect(held.size, `after failure ${fails}`).toBe(0)
      expect(hostOf(optimizationStep(recipe, { ...batch, ...policy } as never).loss)).toEqual(expected)
    }
  })

  test('aborted between any two kernels', async () => {
    const { batch, policy } = given()
    for (let stop = 0; ; stop++) {
      const held = watchMemory()
      const controller = new AbortController()
      let runs = 0
      const { run } = native
      vi.spyOn(native, 'run').mockImplementation((...parameters) => {
        if (runs++ === stop) controller.abort()
        return run(...parameters)
      })
      let done: object | undefined
      let error: unknown
      try {
        done = await promises.optimizationStep(recipe, { ...batch, ...policy } as never, undefined, { signal: controller.signal }) // biome-ignore format: one step
      } catch (thrown) {
        error = thrown
      }
      vi.restoreAllMocks()
      if (done !== undefined) {
        made.push(...arraysIn(done))
        break
      }
      expect((error as Error).name).toBe('AbortError')
      expect(held.size, `at kernel ${stop}`).toBe(0)
    }
  })
})
