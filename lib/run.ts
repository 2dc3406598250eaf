// The one way from a public function to a kernel: looks at what only JavaScript knows (kinds of values, names), sizes and
// allocates the outputs, and hands everything to the C interface, which checks the rest before anything is written.
import {
  type ArrayInput,
  allocate,
  type DType,
  describe,
  dtypes,
  type HostArray,
  hostArray,
  isDeviceArray,
  lengthOf,
  sizeOf,
} from './array.js'
import { grpoError, nativeError } from './errors.js'
import { type NativeError, native, operationNumbers } from './native.js'
import type { OperationName } from './ops.js'
import { type ArraySpec, type OptionSpec, signatures } from './spec.js'
import type { CallOptions, InputsOf, OptionsOf, OutputsOf } from './types.js'

/** A call that is ready to run, on this thread or on another. */
export interface Call<Result> {
  now(): Result
  later(signal: AbortSignal | undefined): Promise<Result>
}

type Axes = Map<string, number>
type Bag = Record<string, unknown>

const commonOptions = ['out', 'stream', 'signal', 'stride']

/** Throws unless `bag` is an object whose own names are all allowed. */
export function checkNames(operation: string, bag: unknown, allowed: readonly string[], what: string): Bag {
  if (typeof bag !== 'object' || bag === null || ArrayBuffer.isView(bag) || Array.isArray(bag)) {
    throw grpoError('kind', operation, '', `takes an object of ${what}s, got ${describe(bag)}`)
  }
  for (const name of Object.keys(bag)) {
    if (!allowed.includes(name)) {
      throw grpoError(
        'unknown',
        operation,
        name,
        `is no ${what} of this operation; it has ${allowed.join(', ') || 'none'}`,
      )
    }
  }
  return bag as Bag
}

function checkCommon(operation: string, { signal, stream }: Bag): void {
  const { aborted, addEventListener } = (signal ?? { aborted: false, addEventListener: checkCommon }) as Bag
  if (typeof aborted !== 'boolean' || typeof addEventListener !== 'function') {
    throw grpoError('kind', operation, 'signal', `is ${describe(signal)}, expected an AbortSignal`)
  }
  if (typeof (stream ?? 0n) !== 'bigint') {
    throw grpoError('kind', operation, 'stream', `is ${describe(stream)}, expected a bigint`)
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason
}

/** The number that stands for an option in the C struct. */
function optionNumber(operation: string, spec: OptionSpec, given: unknown): number {
  const value = given === undefined ? spec.fallback : given
  const refuse = (kind: 'kind' | 'option', expected: string) =>
    grpoError(kind, operation, spec.name, `is ${describe(value)}, expected ${expected}`)
  const orNull = spec.nullable ? ' or null' : ''
  if (value === null && spec.nullable) return Number.NaN
  if (value === undefined) throw grpoError('missing', operation, spec.name, `is missing, expected ${spec.spec}`)
  if (spec.kind === 'enum') {
    const list = `one of ${spec.choices.join(', ')}${orNull}`
    if (typeof value !== 'string') throw refuse('kind', list)
    const index = spec.choices.indexOf(value)
    if (index < 0) throw refuse('option', list)
    return index
  }
  if (spec.kind === 'boolean') {
    if (typeof value !== 'boolean') throw refuse('kind', 'true or false')
    return value ? 1 : 0
  }
  if (typeof value !== 'number') throw refuse('kind', `a number${orNull}`)
  if (spec.kind === 'integer' && !Number.isSafeInteger(value)) throw refuse('option', `a whole number${orNull}`)
  if (!Number.isFinite(value)) throw refuse('option', `a finite number${orNull}`)
  // No integer option is negative: one may size an array, and -1 stands for null in the C struct.
  if (spec.kind === 'integer' && value < 0) throw refuse('option', `at least 0${orNull}`)
  return value
}

/** Gives the axes of an array that have no size yet the array's sizes. Contradictions are the C checker's to report. */
function bind(axes: Axes, spec: ArraySpec, shape: readonly number[]): void {
  spec.axes.forEach(({ letter, plus }, i) => {
    const size = i < shape.length ? (shape[i] as number) - plus : 1
    if (letter !== '' && !axes.has(letter)) axes.set(letter, Math.max(0, size))
  })
}

function shapeOf(axes: Axes, spec: ArraySpec, rankOf: (name: string) => number | undefined): number[] {
  const rank = (spec.like !== undefined ? rankOf(spec.like) : undefined) ?? spec.axes.length
  return spec.axes
    .filter(({ maybe }, i) => !maybe || i < rank)
    .map(({ letter, plus }) => (letter === '' ? plus : (axes.get(letter) ?? 0) + plus))
}

const detached = 'is detached: its memory has been transferred elsewhere'

function read(operation: string, name: string, value: unknown, strided: boolean): HostArray | undefined {
  if (value === undefined || value === null) return undefined
  if (isDeviceArray(value)) throw grpoError('device', operation, name, 'lies on a GPU, but there is no CUDA library')
  const x = hostArray(operation, name, value, strided)
  if (lengthOf(x.data) === 0 && native.isDetached(x.data.buffer)) throw grpoError('value', operation, name, detached)
  return x
}

const sameMemory = (x: HostArray, y: HostArray): boolean =>
  x.data.buffer === y.data.buffer && x.data.byteOffset === y.data.byteOffset

/** Values from the first to the last that a call may touch. */
function needed(x: HostArray, stride: number | undefined): number {
  const [rows = 0, columns = 0] = x.shape
  return stride === undefined || stride === 0 ? sizeOf(x.shape) : rows === 0 ? 0 : (rows - 1) * stride + columns
}

function checkStride(operation: string, name: string, x: HostArray, stride: unknown): number {
  const length = lengthOf(x.data)
  if (stride === undefined) {
    if (length === sizeOf(x.shape)) return 0
    throw grpoError(
      'shape',
      operation,
      name,
      `holds ${length} values, more than its shape needs, and no stride is given`,
    )
  }
  const [rows = 0, columns = 0] = x.shape
  if (typeof stride !== 'number')
    throw grpoError('kind', operation, 'stride', `is ${describe(stride)}, expected a number`)
  if (!Number.isSafeInteger(stride) || stride < columns) {
    throw grpoError('option', operation, 'stride', `is ${stride}, expected at least the ${columns} columns of ${name}`)
  }
  const least = needed(x, stride)
  if (length < least) {
    throw grpoError('shape', operation, name, `holds ${length} values, but ${rows} rows ${stride} apart need ${least}`)
  }
  return stride
}

/**
 * Prepares a call of an operation.
 *
 * @param sizes  axes that only outputs have, where no option or offset gives them
 */
export function call<Name extends OperationName>(
  name: Name,
  inputs: InputsOf<Name>,
  options: OptionsOf<Name> & CallOptions,
  sizes: Record<string, number> = {},
): Call<OutputsOf<Name>> {
  const signature = signatures[name]
  const inputNames = signature.inputs.map((spec) => spec.name)
  const optionNames = signature.options.map((spec) => spec.name)
  const givenInputs = checkNames(name, inputs, inputNames, 'input')
  const strided = signature.inputs.some((spec) => spec.strided)
  const common = strided ? commonOptions : commonOptions.slice(0, 3)
  const givenOptions = checkNames(name, options ?? {}, [...optionNames, ...common], 'option')
  checkCommon(name, givenOptions)
  const out = checkNames(
    name,
    givenOptions.out ?? {},
    signature.outputs.map((spec) => spec.name),
    'output',
  )

  const axes: Axes = new Map(Object.entries(sizes))
  const arrays = new Map<string, HostArray>()
  const strides = new Map<HostArray, number>()
  for (const spec of signature.inputs) {
    const x = read(name, spec.name, givenInputs[spec.name], spec.strided)
    if (x === undefined) continue
    if (spec.strided) strides.set(x, checkStride(name, spec.name, x, givenOptions.stride))
    arrays.set(spec.name, x)
    bind(axes, spec, x.shape)
  }
  const numbers = signature.options.map((spec) => {
    const value = optionNumber(name, spec, givenOptions[spec.name])
    if (spec.axis !== undefined) axes.set(spec.axis, value)
    return value
  })
  for (const spec of signature.inputs) {
    if (spec.offsets === undefined || axes.has(spec.offsets)) continue
    const data = arrays.get(spec.name)?.data
    axes.set(spec.offsets, Math.max(0, data?.[lengthOf(data) - 1] ?? 0))
  }

  const outputs: Bag = {}
  const all = signature.inputs.map((spec) => arrays.get(spec.name))
  for (const spec of signature.outputs) {
    const given = out[spec.name]
    const wanted = given !== null && (spec.condition === undefined || arrays.has(spec.condition))
    if (!wanted && given !== undefined && given !== null) {
      throw grpoError('missing', name, spec.condition as string, `is missing, but out has ${spec.name}`)
    }
    const own = wanted ? read(name, spec.name, given, spec.over !== undefined) : undefined
    if (own !== undefined && spec.over !== undefined) {
      // Rows lie apart, and the array is longer than its shape, only where the gradient is written over the logits.
      const model = arrays.get(spec.over)
      if (model !== undefined && sameMemory(own, model)) {
        strides.set(own, checkStride(name, spec.name, own, givenOptions.stride))
      } else hostArray(name, spec.name, own, false)
    }
    const shape = () => shapeOf(axes, spec, (like) => arrays.get(like)?.shape.length)
    const x = wanted ? (own ?? allocate(name, spec.name, dtypeOf(spec, arrays), shape())) : undefined
    if (x !== undefined) outputs[spec.name] = own !== undefined && 'data' in (given as object) ? given : x
    all.push(x)
  }
  const packed = new Float64Array(7 * all.length + numbers.length)
  all.forEach((x, i) => {
    if (x === undefined) return
    packed.set([dtypes.indexOf(x.dtype), x.shape.length, ...x.shape], 7 * i)
    packed[7 * i + 6] = strides.get(x) ?? 0
  })
  packed.set(numbers, 7 * all.length)

  const index = operationNumbers.get(name) as number
  const names = [...inputNames, ...signature.outputs.map((spec) => spec.name)]
  // Again at the last moment: a getter among the arguments, or whoever ran while the call waited, may have moved memory.
  const memory = () =>
    all.map((x, i) => {
      if (x === undefined || lengthOf(x.data) >= needed(x, strides.get(x))) return x?.data
      throw grpoError('value', name, names[i] as string, detached)
    })
  const finish = (error: NativeError | undefined): OutputsOf<Name> => {
    if (error !== undefined) throw nativeError(name, error.status, error.argument, error.problem)
    return outputs as OutputsOf<Name>
  }
  return {
    now: () => finish(native.run(index, memory(), packed)),
    later: (signal) => queued(signal, () => native.runAsync(index, memory(), packed)).then(finish),
  }
}

function dtypeOf(spec: ArraySpec, arrays: ReadonlyMap<string, HostArray>): DType {
  return (spec.like !== undefined ? arrays.get(spec.like)?.dtype : spec.dtypes[0]) ?? 'f32'
}

/** A call followed by plain JavaScript on its result. */
export const map = <A, B>(first: Call<A>, then: (result: A) => B): Call<B> => ({
  now: () => then(first.now()),
  later: (signal) => first.later(signal).then(then),
})

/** A call that depends on the result of another. */
export const chain = <A, B>(first: Call<A>, next: (result: A) => Call<B>): Call<B> => ({
  now: () => next(first.now()).now(),
  later: async (signal) => next(await first.later(signal)).later(signal),
})

/** A result that needs no kernel. */
export const value = <A>(compute: () => A): Call<A> => ({ now: compute, later: async () => compute() })

/** A public function: called, it computes; its `later` returns a promise and computes on another thread. */
export interface Operation<Arguments extends unknown[], Result> {
  (...parameters: Arguments): Result
  /** @internal grpo-kernels/promises */
  readonly later: (...parameters: Arguments) => Promise<Result>
}

export function operation<Arguments extends unknown[], Result>(
  prepare: (...parameters: Arguments) => Call<Result>,
): Operation<Arguments, Result> {
  const later = async (...parameters: Arguments): Promise<Result> => {
    const { signal } = (parameters[1] ?? {}) as CallOptions
    const call = prepare(...parameters)
    throwIfAborted(signal)
    return call.later(signal)
  }
  return Object.assign((...parameters: Arguments) => prepare(...parameters).now(), { later })
}

// One listener per signal, however many calls it stops: from the eleventh on Node would warn of a leak.
const stops = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls `stop` when the signal aborts; returns the function that takes it back. */
function onAbort(signal: AbortSignal | undefined, stop: () => void): () => void {
  if (signal === undefined) return () => undefined
  let all = stops.get(signal)
  if (all === undefined) {
    const added = new Set<() => void>()
    signal.addEventListener('abort', () => {
      for (const one of [...added]) one()
    })
    stops.set(signal, added)
    all = added
  }
  all.add(stop)
  return () => all.delete(stop)
}

// At most two calls at a time run on libuv's pool, so that its other threads stay free for files and name look-ups; each
// call uses all cores anyway. The others wait here, in the order that they came.
const limit = 2
let running = 0
const waiting: (() => void)[] = []

function turn(signal: AbortSignal | undefined): Promise<void> {
  if (running < limit) {
    running++
    return Promise.resolve()
  }
  return new Promise((resolve, reject) => {
    const enter = () => {
      stay()
      resolve()
    }
    const stay = onAbort(signal, () => {
      stay()
      waiting.splice(waiting.indexOf(enter), 1)
      reject(signal?.reason)
    })
    waiting.push(enter)
  })
}

function leaveTurn(): void {
  const next = waiting.shift()
  if (next !== undefined) next()
  else running--
}

async function queued(
  signal: AbortSignal | undefined,
  start: () => { promise: Promise<NativeError | undefined>; cancel(): void },
): Promise<NativeError | undefined> {
  throwIfAborted(signal)
  await turn(signal)
  let goOn = () => {}
  try {
    throwIfAborted(signal)
    const { promise, cancel } = start()
    goOn = onAbort(signal, cancel)
    const error = await promise // the kernel has stopped touching the arrays, also after an abort
    throwIfAborted(signal)
    return error
  } finally {
    goOn()
    leaveTurn()
  }
}

/** Bytes that a call reads and writes when every array crosses memory once, for the benchmark. */
export const bytesOf = (arrays: object): number =>
  Object.values(arrays as Record<string, ArrayInput | undefined>).reduce((sum, x) => {
    if (x === undefined || isDeviceArray(x)) return sum
    return sum + hostArray('bytesOf', 'array', x, true).data.byteLength
  }, 0)
