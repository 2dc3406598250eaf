// The operations on device arrays in place of host arrays: the same functions, which upload the host arrays that they
// are given, compute on the device, and read the results back. i32 arrays stay on the host, as they may. In the runs on
// device arrays vitest.config.mts puts them in the place of lib/index.js and lib/promises.js, whatever those export.
import type { TypedArray } from '../../lib/addon/dtypes.js'
import type { Operation } from '../../lib/call/run.js'
import * as run from '../../lib/call/run.js'
import * as lib from '../../lib/index.js'

type Bag = Record<string, unknown>
type Host = lib.HostArray

const isObject = (x: unknown): x is Bag => typeof x === 'object' && x !== null && !ArrayBuffer.isView(x)
const isDevice = (x: unknown): x is lib.DeviceArray => isObject(x) && typeof x.pointer === 'bigint'

/** The host array that a value is, if it is a valid one. */
function hostOf(value: unknown): Host | undefined {
  try {
    if (ArrayBuffer.isView(value)) return lib.array(value as Float32Array)
    if (isObject(value) && ArrayBuffer.isView(value.data)) {
      const { data, shape, dtype, stride } = value as unknown as Host & { data: TypedArray }
      return lib.array(data, shape, dtype, { stride })
    }
  } catch {} // not valid: the operation shall say so
  return undefined
}

/** The arrays of one call on the device; what shares memory on the host does there. */
class Uploads {
  private readonly memories = new Map<ArrayBufferLike, { whole: Host; memory: lib.DeviceArray }>()
  private readonly made: { host: Host; view: lib.DeviceArray }[] = []

  of(value: unknown, integersToo = false): unknown {
    const host = hostOf(value)
    if (host === undefined || (host.dtype === 'i32' && !integersToo)) return value
    const { dtype, shape, data, stride } = host
    const known = this.made.find(({ host: other }) => {
      const same = other.data.buffer === data.buffer && other.data.byteOffset === data.byteOffset
      return same && other.dtype === dtype && other.shape.join() === shape.join() && other.stride === stride
    })
    if (known !== undefined) return known.view
    const { memory } = this.memoryOf(host)
    const pointer = memory.pointer + BigInt(data.byteOffset)
    const view = lib.cuda.wrap({ pointer, dtype, shape, device: memory.device, stride })
    this.made.push({ host, view })
    return view
  }

  private memoryOf({ data, dtype }: Host) {
    const known = this.memories.get(data.buffer)
    if (known !== undefined) return known
    const all = new (data.constructor as new (buffer: ArrayBufferLike) => TypedArray)(data.buffer)
    const whole = lib.array(all, [all.length], dtype)
    const made = { whole, memory: lib.cuda.upload(whole) }
    this.memories.set(data.buffer, made)
    return made
  }

  /** Copies what the device wrote back into the memory that stands for it. */
  back(value: unknown): void {
    const made = this.memories.get(hostOf(value)?.data.buffer as ArrayBufferLike)
    made?.whole.data.set(made.memory.readSync().data as never)
  }

  dispose(): void {
    for (const { view } of this.made) view.dispose()
    for (const { memory } of this.memories.values()) memory.dispose()
  }
}

/** Where all inputs are i32, the first one goes to the device, and with it the call. */
function inputsOf(inputs: unknown, uploads: Uploads): unknown {
  if (Array.isArray(inputs)) return inputs.map((part) => inputsOf(part, uploads))
  if (hostOf(inputs) !== undefined) return uploads.of(inputs, true)
  if (!isObject(inputs)) return inputs
  const entries = Object.entries(inputs)
  const arrays = entries.filter(([, x]) => hostOf(x) !== undefined)
  const first = arrays.every(([, x]) => hostOf(x)?.dtype === 'i32') ? arrays[0]?.[0] : undefined
  return Object.fromEntries(entries.map(([name, x]) => [name, uploads.of(x, name === first)]))
}

function prepare(parameters: unknown[], uploads: Uploads): { given: unknown[]; out: Bag } {
  const [inputs, options, ...rest] = parameters
  const out = isObject(options) && isObject(options.out) ? options.out : {}
  const onDevice = Object.fromEntries(Object.entries(out).map(([name, x]) => [name, uploads.of(x, true)]))
  const changed = Object.keys(out).length > 0 ? { ...(options as Bag), out: onDevice } : options
  return { given: [inputsOf(inputs, uploads), changed, ...rest].slice(0, parameters.length), out }
}

function read(result: unknown, out: Bag, uploads: Uploads): unknown {
  if (isDevice(result)) {
    const host = result.readSync()
    result.dispose()
    return host
  }
  if (!isObject(result) || !Object.values(result).some(isDevice)) return result
  return Object.fromEntries(
    Object.entries(result).map(([name, x]) => {
      if (!isDevice(x)) return [name, x]
      if (out[name] === undefined) return [name, read(x, {}, uploads)]
      uploads.back(out[name])
      return [name, ArrayBuffer.isView(out[name]) ? hostOf(out[name]) : out[name]]
    }),
  )
}

/** The operation on device arrays, with the types that it has on host arrays. */
export function onDevice<Arguments extends unknown[], Result, Extra>(
  operation: Operation<Arguments, Result> & Extra,
): Operation<Arguments, Result> & Extra {
  const now = (...parameters: Arguments): Result => {
    const uploads = new Uploads()
    try {
      const { given, out } = prepare(parameters, uploads)
      return read((operation as (...given: unknown[]) => unknown)(...given), out, uploads) as Result
    } finally {
      uploads.dispose()
    }
  }
  const later = async (...parameters: Arguments): Promise<Result> => {
    const uploads = new Uploads()
    try {
      const { given, out } = prepare(parameters, uploads)
      const result = await (operation.later as (...given: unknown[]) => Promise<unknown>)(...given)
      return read(result, out, uploads) as Result
    } finally {
      uploads.dispose()
    }
  }
  const path = (...parameters: Arguments) => {
    const uploads = new Uploads()
    try {
      return (operation.path as (...given: unknown[]) => run.KernelPath)(...prepare(parameters, uploads).given)
    } finally {
      uploads.dispose()
    }
  }
  return Object.assign(now, { ...operation, path, later: Object.assign(later, { path }) }) as never
}

/** lib/call/run.js's `call`, on device arrays. */
export const call = ((name: never, inputs: never, options: never, sizes: never) => {
  let signal: AbortSignal | undefined
  const compute = (given: unknown, changed: unknown) => run.call(name, given as never, changed as never, sizes)
  const operation = Object.assign((given: unknown, changed: unknown) => compute(given, changed).now(), {
    later: (given: unknown, changed: unknown) => compute(given, changed).later(signal),
    path: (given: unknown, changed: unknown) => compute(given, changed).path(),
  })
  const wrapped = onDevice(operation as never) as unknown as Operation<[unknown, unknown], unknown>
  return {
    now: () => wrapped(inputs, options),
    later: (given?: AbortSignal) => {
      signal = given
      return wrapped.later(inputs, options)
    },
    path: () => wrapped.path(inputs, options),
  }
}) as unknown as typeof run.call

type Later = { later: (...parameters: unknown[]) => Promise<unknown> }
const hasLater = (x: unknown): x is Later => typeof x === 'function' && 'later' in x

/** What lib/promises.js has of an operation: its promise, with those of what belongs to it (linearPolicyLoss.plan). */
export const promised = (operation: Later): Later['later'] =>
  Object.assign(
    operation.later,
    Object.fromEntries(Object.entries(operation).flatMap(([name, x]) => (hasLater(x) ? [[name, x.later]] : []))),
  )
