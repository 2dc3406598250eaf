// Micro-batches whose policy lies on a device: the host's numbers, and what is given back, also when nobody wants the rest.
import { afterEach, expect, test, vi } from 'vitest'
import { native } from '../../lib/addon/native.js'
import { isDeviceArray } from '../../lib/arrays/device_memory.js'
import { array, cuda, type DeviceArray, type HostArray } from '../../lib/index.js'
import { type AnyRecipe, type MicroBatch, type Policy, prepareStep, presets, recipes } from '../../lib/recipes/index.js'
import { without } from '../../lib/recipes/step/properties.js'
import { random } from '../support/random.js'

const made: DeviceArray[] = []
afterEach(() => {
  vi.restoreAllMocks()
  for (const x of made.splice(0)) x.dispose()
})
const upload = <X extends Parameters<typeof cuda.upload>[0]>(x: X) => {
  const there = cuda.upload(x)
  made.push(there)
  return there
}

const numbers = random(23)
const [T, V, D] = [9, 7, 4]
const logits = numbers.normals(T * V)
const hidden = numbers.normals(T * D)
const head = array(numbers.normals(V * D), [V, D])
const batch = {
  rewards: [1, 0, 0.5, 0.2],
  groupStart: [0, 2, 4],
  sequenceStart: [0, 2, 4, 7, 9],
  token: Int32Array.from({ length: T }, () => numbers.integer(V)),
  mask: Uint8Array.of(1, 1, 1, 0, 1, 1, 1, 1, 1),
  oldLogp: numbers.normals(T, 0.1, -2),
  rolloutLogp: numbers.normals(T, 0.1, -2),
  progress: 0,
}
const parts: MicroBatch[] = [
  { rows: [0, 4], tokens: [0, 4] },
  { rows: [4, T], tokens: [4, T] },
]
const rowsOf = (x: Float32Array, [from, to]: MicroBatch['rows'], width: number) =>
  array(x.slice(from * width, to * width), [to - from, width])
const onHost = {
  logits: ({ rows }: MicroBatch): Policy => ({ logits: rowsOf(logits, rows, V) }),
  hidden: ({ rows }: MicroBatch): Policy => ({ hidden: rowsOf(hidden, rows, D), head }),
}
const headThere = () => upload(head)
const onDevice = (): typeof onHost => {
  const there = headThere()
  return {
    logits: ({ rows }) => ({ logits: upload(rowsOf(logits, rows, V)) }),
    hidden: ({ rows }) => ({ hidden: upload(rowsOf(hidden, rows, D)), head: there }),
  }
}

function valuesOf(x: unknown): number[] {
  if (typeof x === 'number') return [x]
  if (x instanceof Float32Array) return Array.from(x)
  return Array.from((isDeviceArray(x) ? x.readSync() : (x as HostArray)).data)
}

/** Everything that comes, by name: the loss at the end. */
function numbersOf(iterator: Generator<object, object>): Record<string, number[]> {
  const found: Record<string, number[]> = {}
  const note = (result: object) => {
    for (const [name, x] of Object.entries(without(result, 'metrics' as never))) {
      if (name === 'part' || name === 'weights' || x === undefined) continue
      found[name] = [...(found[name] ?? []), ...valuesOf(x)]
      if (isDeviceArray(x)) made.push(x)
    }
  }
  for (;;) {
    const next = iterator.next()
    note(next.value)
    if (next.done) return found
  }
}

const methods: [string, AnyRecipe][] = [
  ['dapo', recipes.dapo()],
  ['gspo', recipes.gspo()],
  ['d3s', recipes.d3s()],
  ['klCov', recipes.klCov()],
  ['trl', presets.trl({ entropyCoef: 0.01 })],
]
const kinds = ['logits', 'hidden'] as const
const cases = methods.flatMap(([name, recipe]) => kinds.map((kind) => [name, kind, recipe] as const))

test.each(cases)('%s, %s', (_, kind, recipe) => {
  const entropy = numbers.uniforms(T, 0.1, 2)
  const { token, mask, oldLogp, rolloutLogp, ...host } = { ...batch, entropy }
  const columns = {
    token: upload(token),
    mask: upload(mask),
    oldLogp: upload(oldLogp),
    rolloutLogp: upload(rolloutLogp),
  }
  const expected = numbersOf(prepareStep(recipe, { ...batch, entropy } as never).microBatches(parts, onHost[kind]))
  const prepared = prepareStep(recipe, { ...host, ...columns } as never)
  const actual = numbersOf(prepared.microBatches(parts, onDevice()[kind]))
  prepared.dispose()
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort())
  for (const [name, list] of Object.entries(expected)) {
    const size = Math.max(...list.map(Math.abs), 1e-3)
    list.forEach((x, i) => expect(Math.abs((actual[name]?.[i] as number) - x), `${name} at ${i}`).toBeLessThanOrEqual(1e-5 * size)) // biome-ignore format: one rule
  }
})

/** Device memory that is held. */
function watch(): Set<unknown> {
  const held = new Set<unknown>()
  const { allocate, release } = native.cuda
  vi.spyOn(native.cuda, 'allocate').mockImplementation((...given) => {
    const pointer = allocate(...given)
    held.add(pointer)
    return pointer
  })
  vi.spyOn(native.cuda, 'release').mockImplementation((...given) => {
    held.delete(given[3])
    return release(...given)
  })
  return held
}

test.each(kinds)('all but the results is freed, and with them everything where the rest is not wanted: %s', (kind) => {
  const forward = onDevice()[kind]
  const policies = new Map(parts.map((part) => [part, forward(part)]))
  const held = watch()
  const prepared = prepareStep(recipes.dapo(), batch)
  const begin = () => prepared.microBatches(parts, (part) => policies.get(part) as Policy)
  const iterator = begin()
  const results = new Set<DeviceArray>()
  for (let next = iterator.next(); ; next = iterator.next()) {
    for (const x of Object.values(without(next.value, 'metrics' as never))) if (isDeviceArray(x)) results.add(x)
    if (next.done) break
  }
  prepared.dispose()
  // Of each part gradLogits, or gradHidden and one gradHead; loss, stats, logp and entropy.
  expect(results.size).toBe(kind === 'logits' ? 6 : 7)
  expect(held.size).toBe(results.size)
  for (const x of results) x.dispose()
  expect(held.size).toBe(0)

  const again = prepareStep(recipes.dapo(), batch)
  for (const { part: _, ...gradients } of again.microBatches(parts, (part) => policies.get(part) as Policy)) {
    for (const x of Object.values(gradients)) (x as unknown as DeviceArray).dispose()
    break
  }
  again.dispose()
  expect(held.size).toBe(0)
})

test('parts on two sides are refused', () => {
  const there = onDevice()
  const forward = (part: MicroBatch) => (part.tokens[0] === 0 ? onHost : there).logits(part)
  const step = () => [...prepareStep(recipes.dapo(), batch).microBatches(parts, forward)]
  expect(step).toThrow('dapo: forward gives logits that lies elsewhere than before')
})
