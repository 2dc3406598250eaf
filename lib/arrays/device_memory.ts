// Device arrays, and the order of the work on them: an array remembers its last use, and other streams wait for that.
/// <reference lib="esnext.disposable" preserve="true" />
// The line above goes into the declarations: Symbol.dispose is not in every user's `lib`.
import { type DType, elementBytes } from '../addon/dtypes.js'
import { grpoError } from '../addon/errors.js'
import { native } from '../addon/native.js'
import { waitingForDevice } from '../addon/turns.js'
import { allocate, extentOf, type HostArray, lengthOf, sizeOf, withStride } from './array.js'
import { cudaFunctions, must } from './cuda_library.js'

/** The work that was enqueued on a stream up to some moment. */
interface Mark {
  readonly stream: bigint
  /** undefined: all that is enqueued on the stream by the time that somebody waits. */
  readonly event: bigint | undefined
  /** Arrays that remember it; after the last one the event is destroyed. */
  users: number
}

/** The package's own stream, which is never destroyed and needs no event. */
const own: Mark = { stream: 0n, event: undefined, users: 1 }

/** Memory of a GPU, and what is known of the work on it. */
interface Memory {
  readonly device: number
  readonly pointer: bigint
  /** Elements; Infinity for memory of another library, which has at least those of its shape. */
  readonly length: number
  /** Elements from one row, an entry of the first axis, to the next; undefined: nothing lies between them. */
  readonly stride: number | undefined
  /** What to release; undefined for memory of another library. */
  readonly bytes: number | undefined
  /** The stream of the owner of borrowed memory. */
  readonly home: Mark | undefined
  /** The last work on it; undefined: none. */
  mark: Mark | undefined
  /** Reads under way, which `dispose` lets end. */
  readers: number
  disposed: boolean
}

let memoryOf: (x: DeviceArray) => Memory
let make: <D extends DType>(memory: Memory, dtype: D, shape: readonly number[]) => DeviceArray<D>
export let isDeviceArray: (x: unknown) => x is DeviceArray

/**
 * An array in the memory of a GPU, row-major, and dense but for a stride between its rows. Made by `cuda.upload`,
 * `cuda.empty`, `cuda.wrap` and operations.
 */
export class DeviceArray<D extends DType = DType> {
  readonly #memory: Memory
  readonly dtype: D
  readonly shape: readonly number[]
  static {
    memoryOf = (x) => x.#memory
    make = (memory, dtype, shape) => new DeviceArray(memory, dtype, shape)
    isDeviceArray = (x): x is DeviceArray => typeof x === 'object' && x !== null && #memory in x
  }

  private constructor(memory: Memory, dtype: D, shape: readonly number[]) {
    this.#memory = memory
    this.dtype = dtype
    this.shape = Object.freeze([...shape])
  }

  /** Its address; 0n where there are no values. @throws TypeError if the array has been disposed of */
  get pointer(): bigint {
    return live('pointer', 'array', this).pointer
  }

  /** The GPU's number. */
  get device(): number {
    return this.#memory.device
  }

  /**
   * The values, once the work on the array is done: waits on another thread. Until then nothing may write to it.
   *
   * @throws TypeError (as a rejection) if the array has been disposed; CudaError if the work before it failed
   */
  async read(): Promise<HostArray<D>> {
    const memory = live('read', 'array', this)
    const host = hostFor(this)
    await download(memory, host)
    return host
  }

  /** As read, on this thread. */
  readSync(): HostArray<D> {
    const memory = live('readSync', 'array', this)
    const host = hostFor(this)
    if (memory.pointer === 0n) return host
    waitFor('readSync', [this], 0n)
    must('readSync', 'array', native.cuda.download(memory.device, memory.pointer, host.data, 0n))
    return host
  }

  /** Frees the memory, after the work that uses it; another library's is let go. A second call does nothing. */
  dispose(): void {
    const memory = this.#memory
    registry.unregister(memory)
    end(memory)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

// Garbage is a safety net: the collector does not see how little memory a GPU has left.
let warned = false
const registry = new FinalizationRegistry((memory: Memory) => {
  end(memory)
  if (warned || memory.bytes === undefined) return
  warned = true
  const text = 'A DeviceArray was collected that had not been disposed of: its memory was held for longer than needed.'
  process.emitWarning(text, { code: 'GRPO_KERNELS_DISPOSE', detail: 'Use dispose(), or `using`. This is said once.' })
})

/** The devices that arrays have been on. */
export const devicesInUse = new Set<number>()

function known<D extends DType>(memory: Memory, dtype: D, shape: readonly number[]): DeviceArray<D> {
  const x = make(memory, dtype, shape)
  devicesInUse.add(memory.device)
  registry.register(x, memory, memory)
  return x
}

/** Elements in an array's memory. */
export const lengthOnDevice = (x: DeviceArray): number => memoryOf(x).length

/** Elements from one row to the next; undefined: nothing lies between them. */
export const strideOnDevice = (x: DeviceArray): number | undefined => memoryOf(x).stride

/** Throws if the array has been disposed. */
export function live(operation: string, name: string, x: DeviceArray): Memory {
  const memory = memoryOf(x)
  if (memory.disposed) throw grpoError('device', operation, name, 'has been disposed')
  return memory
}

function hostFor<D extends DType>(x: DeviceArray<D>): HostArray<D> {
  const { length, stride } = memoryOf(x)
  const extent = extentOf(x.shape, stride)
  const shape = [...x.shape]
  const host = allocate('read', 'x', x.dtype, [length === Infinity ? extent : length])
  return withStride({ ...host, shape }, stride)
}

async function download(memory: Memory, host: HostArray): Promise<void> {
  if (memory.pointer === 0n) return
  waitForMarks('read', memory.device, 0n, [memory.mark, memory.home])
  memory.readers++
  try {
    const { device, pointer } = memory
    const copy = () => native.cuda.downloadAsync(device, pointer, host.data, 0n)
    must('read', 'array', await waitingForDevice(undefined, copy))
  } finally {
    memory.readers--
    if (memory.disposed) free(memory)
  }
}

function end(memory: Memory): void {
  if (memory.disposed) return
  memory.disposed = true
  free(memory)
}

/** Gives memory back in order: what is enqueued so far still has it. */
function free(memory: Memory): void {
  if (memory.readers > 0) return
  const { device, pointer, bytes } = memory
  try {
    if (bytes !== undefined && pointer !== 0n) {
      waitForMarks('dispose', device, 0n, [memory.mark])
      native.cuda.release(device, bytes, 0n, pointer)
    }
    setMark(memory, undefined)
  } catch {
    // A GPU that has failed fails here too. It is no news: every call that computes says so.
  }
}

function setMark(memory: Memory, mark: Mark | undefined): void {
  const before = memory.mark
  if (mark !== undefined) mark.users++
  memory.mark = mark
  if (before === undefined) return
  before.users--
  if (before.users === 0 && before.event !== undefined) native.cuda.destroyEvent(before.event)
}

function waitForMarks(operation: string, device: number, stream: bigint, marks: Iterable<Mark | undefined>): void {
  for (const mark of new Set(marks)) {
    if (mark === undefined) continue
    if (mark.event !== undefined) {
      // Also where it is the same stream: it may be another one at the address of a stream that was destroyed.
      must(operation, 'stream', native.cuda.wait(device, stream, mark.event))
    } else if (mark.stream !== stream) {
      const event = must(operation, 'stream', native.cuda.record(device, mark.stream))
      const result = native.cuda.wait(device, stream, event)
      native.cuda.destroyEvent(event)
      must(operation, 'stream', result)
    }
  }
}

/** Lets what is enqueued on the stream from now on come after all work on these arrays, which lie on one device. */
export function waitFor(operation: string, arrays: readonly DeviceArray[], stream: bigint): void {
  const [first] = arrays
  if (first === undefined) return
  const marks = arrays.map(memoryOf).flatMap(({ mark, home }) => [mark, home])
  waitForMarks(operation, first.device, stream, marks)
}

/** Notes that what was just enqueued on the stream uses these arrays. */
export function used(operation: string, arrays: readonly DeviceArray[], stream: bigint): void {
  const [first] = arrays
  if (first === undefined) return
  // An event for a caller's stream, which may be gone when somebody has to wait; the package's own stream stays.
  const event = stream === 0n ? undefined : must(operation, 'stream', native.cuda.record(first.device, stream))
  const mark = event === undefined ? own : { stream, event, users: 0 }
  for (const x of arrays) setMark(memoryOf(x), mark)
}

/** A promise for the end of what is enqueued on the stream so far. */
export async function finished(operation: string, device: number, stream: bigint): Promise<void> {
  const event = must(operation, '', native.cuda.record(device, stream))
  try {
    must(operation, '', await waitingForDevice(undefined, () => native.cuda.waitAsync(event)))
  } finally {
    native.cuda.destroyEvent(event)
  }
}

/** Gives back what the library of a device keeps, after the work on its own stream. */
export async function trimmed(operation: string, device: number): Promise<void> {
  must(operation, '', await waitingForDevice(undefined, () => native.cuda.trimAsync(device)))
}

/**
 * A new array, whose values are whatever the memory held.
 *
 * @param length  elements, where rows lie apart
 * @throws CudaError if the device has not that much memory left
 */
export function emptyArray<D extends DType>(
  operation: string,
  name: string,
  device: number,
  dtype: D,
  shape: readonly number[],
  stream: bigint,
  length = sizeOf(shape),
  stride?: number,
): DeviceArray<D> {
  const bytes = length * elementBytes(dtype)
  const functions = cudaFunctions(operation)
  const pointer = bytes === 0 ? 0n : must(operation, name, functions.allocate(device, bytes, stream))
  const mark = stream === 0n ? own : { stream, event: undefined, users: 1 }
  const memory = { device, pointer, length, stride, bytes, home: undefined, mark, readers: 0, disposed: false }
  return known(memory, dtype, shape)
}

/** A copy of a host array on a device. */
export function uploaded<D extends DType>(
  operation: string,
  name: string,
  device: number,
  host: HostArray<D>,
  stream: bigint,
): DeviceArray<D> {
  const length = lengthOf(host.data)
  const x = emptyArray(operation, name, device, host.dtype, host.shape, stream, length, host.stride)
  if (x.pointer === 0n) return x
  try {
    must(operation, name, native.cuda.upload(device, x.pointer, host.data, stream))
    used(operation, [x], stream)
    return x
  } catch (error) {
    x.dispose()
    throw error
  }
}

/** Copies a host array over one on a device, which has as many values. */
export function overwrite(operation: string, name: string, x: DeviceArray, host: HostArray, stream: bigint): void {
  const { device, pointer } = live(operation, name, x)
  if (pointer === 0n) return
  waitFor(operation, [x], stream)
  must(operation, name, native.cuda.upload(device, pointer, host.data, stream))
  used(operation, [x], stream)
}

/** Memory of another library as an array. */
export function borrowed<D extends DType>(
  device: number,
  pointer: bigint,
  dtype: D,
  shape: readonly number[],
  stream: bigint | undefined,
  stride: number | undefined,
): DeviceArray<D> {
  const home = stream === undefined ? undefined : { stream, event: undefined, users: 1 }
  const memory = { device, pointer, length: Infinity, stride, bytes: undefined, home, readers: 0, disposed: false }
  return known({ ...memory, mark: undefined }, dtype, shape)
}

/** The same memory with other axes of as many values. It is the array's own: only the array is disposed of. */
export const reshaped = <D extends DType>(x: DeviceArray<D>, shape: readonly number[]): DeviceArray<D> =>
  make(memoryOf(x), x.dtype, shape)

/**
 * Values from `begin` on as an array, in the memory of x and for as long. What is enqueued on it is in order with what is
 * enqueued on x where both are on one stream; to be disposed of, which frees nothing but what is known of that order.
 */
export function within<D extends DType>(x: DeviceArray<D>, begin: number, shape: readonly number[]): DeviceArray<D> {
  const { device, pointer } = memoryOf(x)
  const length = sizeOf(shape)
  const at = length === 0 ? 0n : pointer + BigInt(begin * elementBytes(x.dtype))
  const shared = { stride: undefined, bytes: undefined, home: undefined, mark: undefined, readers: 0, disposed: false }
  return make({ device, pointer: at, length, ...shared }, x.dtype, shape)
}

/** The last of an i32 array's values. Waits for the work on it. */
export function lastEntry(operation: string, name: string, x: DeviceArray): number {
  const count = sizeOf(x.shape)
  if (count === 0) return 0
  const data = new Int32Array(1)
  waitFor(operation, [x], 0n)
  const at = x.pointer + BigInt(data.BYTES_PER_ELEMENT * (count - 1))
  must(operation, name, native.cuda.download(x.device, at, data, 0n))
  return data[0] as number
}
