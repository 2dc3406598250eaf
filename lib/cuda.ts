import { type DType, elementBytes } from './addon/dtypes.js'
import { grpoError } from './addon/errors.js'
import { type DeviceInfo, native } from './addon/native.js'
import {
  checkDtype,
  checkShape,
  checkStride,
  describe,
  detached,
  type HostArray,
  hostArray,
  sizeOf,
} from './arrays/array.js'
import { checkDevice, checkStream, cudaFunctions, cudaLibrary, must } from './arrays/cuda_library.js'
import {
  borrowed,
  type DeviceArray,
  devicesInUse,
  emptyArray,
  finished,
  isDeviceArray,
  trimmed,
  uploaded,
  used,
} from './arrays/device_memory.js'
import type { ArrayInput } from './arrays/input.js'
import { checkNames } from './call/run.js'

export type { DeviceArray, DeviceInfo }

/** Where a new device array lies. */
export interface DeviceOptions {
  /** The number of a GPU, from 0. */
  device?: number
  /** The cudaStream_t on which it is made; default: the package's own stream of the device. */
  stream?: bigint
}

/** Memory that belongs to another library. */
export interface BorrowedMemory<D extends DType = DType> {
  /** Its address on the device. */
  pointer: bigint
  dtype: D
  shape: readonly number[]
  /** The device on which it lies; by default that is found out. */
  device?: number
  /** The stream on which its owner works with it: what is enqueued there comes before each use by this package. */
  stream?: bigint
  /** Elements from one row, an entry of the first axis, to the next; default: nothing lies between them. */
  stride?: number | undefined
}

type Dtypes = { Float32Array: 'f32'; Int32Array: 'i32'; Uint8Array: 'u8'; Float64Array: 'f64'; Float16Array: 'f16' }
type DtypeOf<X> =
  X extends HostArray<infer D>
    ? D
    : X extends { readonly [Symbol.toStringTag]: infer Name extends keyof Dtypes }
      ? Dtypes[Name]
      : DType

function place(operation: string, options: DeviceOptions): { device: number; stream: bigint } {
  cudaFunctions(operation)
  checkNames(operation, options, ['device', 'stream'], 'option')
  const device = checkDevice(operation, options.device ?? 0)
  return { device, stream: checkStream(operation, options.stream, device, 'the array shall lie') }
}

/**
 * The GPUs of this machine. The library of CUDA kernels is loaded when one of these is first used; without it, or without a
 * GPU, everything else still works, and `reason` says what is missing.
 */
export const cuda = {
  /** Whether device arrays can be made. */
  get available(): boolean {
    return cudaLibrary().count > 0
  },
  /** Why there is no usable GPU; undefined if there is one. */
  get reason(): string | undefined {
    return cudaLibrary().reason || undefined
  },
  /** The GPUs, by number. */
  get devices(): readonly DeviceInfo[] {
    const numbers = Array.from({ length: cudaLibrary().count }, (_, device) => device)
    return numbers.map((device) => Object.freeze(must('cuda.devices', '', native.cuda.device(device))))
  },

  /**
   * A copy of a host array on a GPU. The host array may be changed as soon as this returns.
   *
   * @param host  a typed array (one axis) or array(data, shape); with all its memory, where it holds more than its shape
   * @throws TypeError without a GPU; RangeError for a device that does not exist; CudaError if the memory does not suffice
   */
  upload<X extends ArrayInput>(host: X, options: DeviceOptions = {}): DeviceArray<DtypeOf<X>> {
    const { device, stream } = place('cuda.upload', options)
    if (isDeviceArray(host)) throw grpoError('device', 'cuda.upload', 'host', 'lies on a GPU, expected a host array')
    const x = hostArray('cuda.upload', 'host', host, true)
    if (native.isDetached(x.data.buffer)) throw grpoError('value', 'cuda.upload', 'host', detached)
    return uploaded('cuda.upload', 'host', device, x, stream) as DeviceArray as DeviceArray<DtypeOf<X>>
  },

  /**
   * A device array for an operation's `out`; it holds whatever the memory held.
   *
   * @throws as upload
   */
  empty<D extends DType>(dtype: D, shape: readonly number[], options: DeviceOptions = {}): DeviceArray<D> {
    const { device, stream } = place('cuda.empty', options)
    checkDtype('cuda.empty', 'array', dtype)
    checkShape('cuda.empty', 'array', shape)
    const x = emptyArray('cuda.empty', 'array', device, dtype, shape, stream)
    used('cuda.empty', [x], stream) // an event: the stream may be gone when the array is
    return x
  },

  /**
   * Memory of another library as a device array, without a copy. It must hold the whole shape, which cannot be looked up,
   * and stay until the work on it is done; `dispose` does not free it. Its owner orders the work on it: what else uses it
   * has to come before the call on the call's stream, or on `stream`, or be waited for. The package's own uses of one
   * wrapped array are ordered among themselves. Its rows may lie apart (`stride`), as those of `array`.
   *
   * @throws TypeError without a GPU, or if the pointer is another device's or the host's; RangeError if it is not aligned to
   *         the dtype
   */
  wrap<D extends DType>(memory: BorrowedMemory<D>): DeviceArray<D> {
    const operation = 'cuda.wrap'
    cudaFunctions(operation)
    checkNames(operation, memory, ['pointer', 'dtype', 'shape', 'device', 'stream', 'stride'], 'field')
    const { pointer, dtype, shape, device, stream, stride } = memory
    if (typeof pointer !== 'bigint') {
      throw grpoError('kind', operation, 'pointer', `is ${describe(pointer)}, expected a bigint`)
    }
    if (pointer < 0n || pointer >= 2n ** 64n) {
      throw grpoError('value', operation, 'pointer', `is ${pointer}n, expected an address of 64 bits`)
    }
    checkDtype(operation, 'memory', dtype)
    checkShape(operation, 'memory', shape)
    checkStride(operation, 'memory', shape, stride)
    const width = elementBytes(dtype)
    if (pointer % BigInt(width) !== 0n) {
      throw grpoError(
        'value',
        operation,
        'pointer',
        `is ${pointer}n, expected a multiple of ${width}, as ${dtype} needs`,
      )
    }
    const given = device === undefined ? undefined : checkDevice(operation, device)
    const actual = sizeOf(shape) === 0 ? (given ?? 0) : deviceOf(operation, pointer, given)
    const owners = stream === undefined ? undefined : checkStream(operation, stream, actual, 'the memory lies')
    return borrowed(actual, pointer, dtype, shape, owners, stride)
  },

  /**
   * Waits, on another thread, for what operations have enqueued on the package's own stream.
   *
   * @param device  default: every device that arrays have been on
   */
  async synchronize(device?: number): Promise<void> {
    const devices = device === undefined ? [...devicesInUse] : [checkDevice('cuda.synchronize', device)]
    await Promise.all(devices.map((each) => finished('cuda.synchronize', each, 0n)))
  },

  /**
   * Gives device memory back that the package holds and no array uses: that of arrays that were disposed of, and of calls
   * that are done. It is kept for the next call otherwise, in a pool of the package's own. Waits, on another thread, for
   * the package's own stream; what work on a caller's stream has yet to release stays.
   *
   * @param device  default: every device that arrays have been on
   */
  async trim(device?: number): Promise<void> {
    const devices = device === undefined ? [...devicesInUse] : [checkDevice('cuda.trim', device)]
    await Promise.all(devices.map((each) => trimmed('cuda.trim', each)))
  },
}

function deviceOf(operation: string, pointer: bigint, expected: number | undefined): number {
  const actual = must(operation, 'pointer', cudaFunctions(operation).deviceOfMemory(pointer))
  if (actual < 0) throw grpoError('device', operation, 'pointer', `is ${pointer}n, which is no memory of a GPU`)
  if (expected === undefined || expected === actual) return actual
  throw grpoError('device', operation, 'pointer', `lies on device ${actual}, expected device ${expected}`)
}

/**
 * The values of an array, wherever it lies: those of a host array are not copied.
 *
 * @example
 * import { cuda, readSync } from 'grpo-kernels'
 *
 * const x = new Float32Array([1, 2])
 * const given = cuda.available ? cuda.upload(x) : x
 * console.log(readSync(given).data)
 */
export const readSync = (x: ArrayInput): HostArray =>
  isDeviceArray(x) ? x.readSync() : hostArray('readSync', 'x', x, true)

/** As readSync, without waiting on the main thread for a device array. */
export const read = async (x: ArrayInput): Promise<HostArray> =>
  isDeviceArray(x) ? x.read() : hostArray('read', 'x', x, true)

/** Frees a device array's memory; a host array is left to the garbage collector. */
export function dispose(x: ArrayInput): void {
  if (isDeviceArray(x)) x.dispose()
  else hostArray('dispose', 'x', x, true)
}
