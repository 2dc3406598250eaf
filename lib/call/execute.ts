// A call whose arrays have been looked at, on its way to the addon: on the CPU at once or on another thread, on a GPU
// enqueued.
import type { TypedArray } from '../addon/dtypes.js'
import { dtypes, elementBytes } from '../addon/dtypes.js'
import { grpoError, nativeError } from '../addon/errors.js'
import { type NativeError, native } from '../addon/native.js'
import { onAbort, onHost, throwIfAborted } from '../addon/turns.js'
import { detached, extentOf, type HostArray, lengthOf, sizeOf } from '../arrays/array.js'
import { cudaFunctions, cudaLibrary } from '../arrays/cuda_library.js'
import {
  type DeviceArray,
  emptyArray,
  finished,
  isDeviceArray,
  live,
  uploaded,
  used,
  waitFor,
} from '../arrays/device_memory.js'
import type { OperationName } from '../ops.js'
import type { Call, KernelPath } from './calls.js'
import type { Placed, Side, Slot } from './placed.js'
import { numbersPerArray, type Plan, roomFor } from './plan.js'

type Bag = Record<string, unknown>

/** The numbers of a call, as native/node/addon.cc reads them. What stands at an array that is not given is not read. */
function pack(
  slots: readonly (Slot | undefined)[],
  numbers: readonly number[],
  device: (slot: Slot) => number,
  packed: Float64Array = roomFor(slots.length, numbers.length),
): Float64Array {
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i]
    if (slot === undefined) continue
    const at = numbersPerArray * i
    packed[at] = dtypes.indexOf(slot.dtype)
    packed[at + 1] = slot.shape.length
    for (let axis = 0; axis < slot.shape.length; axis++) packed[at + 2 + axis] = slot.shape[axis] as number
    packed[at + 6] = slot.stride
    packed[at + 7] = device(slot)
  }
  for (let i = 0; i < numbers.length; i++) packed[numbersPerArray * slots.length + i] = numbers[i] as number
  return packed
}

// Again at the last moment: a getter among the arguments, or whoever ran while the call waited, may have moved memory.
function memory(operation: string, { name, stride }: Slot, x: Placed): TypedArray | bigint {
  if (isDeviceArray(x)) {
    live(operation, name, x)
    return x.pointer
  }
  return onHostStill(operation, name, stride, x)
}

function onHostStill(operation: string, name: string, stride: number, { shape, data }: HostArray): TypedArray {
  if (lengthOf(data) >= extentOf(shape, stride)) return data
  throw grpoError('value', operation, name, detached)
}

/** Throws for memory that could be given back while another thread works on it. Shared memory only grows. */
export function checkFixed(operation: string, name: string, { data }: HostArray): void {
  if ((data.buffer as { resizable?: boolean }).resizable !== true) return
  const problem = 'lies in a resizable ArrayBuffer, which could shrink under the call; expected one of fixed length'
  throw grpoError('value', operation, name, problem)
}

function pathOf(name: OperationName, told: NativeError | Required<KernelPath>): KernelPath {
  if ('status' in told) throw nativeError(name, told)
  const { kernel, reason } = told
  return reason === '' ? { kernel } : { kernel, reason }
}

const onHostAlone = () => -1

export function onCpu(
  { name, number, room }: Plan,
  slots: readonly (Slot | undefined)[],
  numbers: readonly number[],
  outputs: Bag,
): Call<Bag> {
  const arrays = () => slots.map((slot) => slot && onHostStill(name, slot.name, slot.stride, slot.x as HostArray))
  const finish = (error: NativeError | undefined): Bag => {
    if (error !== undefined) throw nativeError(name, error)
    return outputs
  }
  return {
    now: () => finish(native.run(number, pack(slots, numbers, onHostAlone, room), undefined, ...arrays())),
    later: async (signal) => {
      const packed = pack(slots, numbers, onHostAlone)
      for (const slot of slots) if (slot !== undefined) checkFixed(name, slot.name, slot.x as HostArray)
      return finish(await queued(signal, () => native.runAsync(number, packed, undefined, ...arrays())))
    },
    path: () => pathOf(name, native.explain(number, pack(slots, numbers, onHostAlone), undefined, ...arrays())),
  }
}

export function onGpu(
  name: OperationName,
  { device, stream }: Side,
  slots: readonly (Slot | undefined)[],
  numbers: readonly number[],
  given: Bag,
): Call<Bag> {
  cudaFunctions(name)
  const index = cudaLibrary().numbers.get(name) as number

  /** Whether a slot is a new output, or numbers on the host of which the call makes a copy. */
  const mustBeMade = ({ name: at, x }: Slot) =>
    x === undefined || (!isDeviceArray(x) && x.dtype === 'f64' && given[at] !== x)

  /** Enqueues the call. The new outputs are returned twice: they are the caller's, unless the work is of no use. */
  const start = (): { outputs: Bag; made: DeviceArray[] } => {
    const outputs = { ...given }
    const made: DeviceArray[] = []
    const copies: DeviceArray[] = []
    try {
      const placed = slots.map((slot): Placed | undefined => {
        if (slot === undefined) return undefined
        const { name: at, dtype, shape, x } = slot
        if (x === undefined) {
          const output = emptyArray(name, at, device, dtype, shape, stream)
          made.push(output)
          outputs[at] = output
          return output
        }
        if (!mustBeMade(slot)) return x
        copies.push(uploaded(name, at, device, x as HostArray, stream))
        return copies.at(-1)
      })
      const arrays = slots.map((slot, i) => slot && memory(name, slot, placed[i] as Placed))
      const onDevice = placed.filter(isDeviceArray)
      waitFor(name, onDevice, stream)
      const places = new Map(slots.map((slot, i) => [slot, isDeviceArray(placed[i]) ? device : -1]))
      const packed = pack(slots, numbers, (slot) => places.get(slot) as number)
      const error = native.run(index, packed, stream, ...arrays)
      used(name, onDevice, stream)
      if (error !== undefined) throw nativeError(name, error)
      return { outputs, made }
    } catch (error) {
      for (const x of made) x.dispose()
      throw error
    } finally {
      for (const x of copies) x.dispose()
    }
  }
  /** The same with addresses in place of new outputs, which nobody reads: as far apart as the outputs are long. */
  const explain = (): KernelPath => {
    let free = 2n ** 48n
    const arrays = slots.map((slot) => {
      if (slot === undefined || !mustBeMade(slot)) return slot && memory(name, slot, slot.x as Placed)
      const address = free
      free += BigInt(Math.ceil((sizeOf(slot.shape) * elementBytes(slot.dtype)) / 256) * 256)
      return address
    })
    const places = new Map(slots.map((slot, i) => [slot, typeof arrays[i] === 'bigint' ? device : -1]))
    const packed = pack(slots, numbers, (slot) => places.get(slot) as number)
    return pathOf(name, native.explain(index, packed, stream, ...arrays))
  }

  return {
    path: explain,
    now: () => start().outputs,
    later: async (signal) => {
      throwIfAborted(signal)
      const { outputs, made } = start()
      try {
        await finished(name, device, stream)
        throwIfAborted(signal)
        return outputs
      } catch (error) {
        for (const x of made) x.dispose()
        throw error
      }
    },
  }
}

async function queued(
  signal: AbortSignal | undefined,
  start: () => { promise: Promise<NativeError | undefined>; cancel(): void },
): Promise<NativeError | undefined> {
  return onHost(signal, async () => {
    const { promise, cancel } = start()
    const goOn = onAbort(signal, cancel)
    try {
      const error = await promise // the kernel has stopped touching the arrays, also after an abort
      throwIfAborted(signal)
      return error
    } finally {
      goOn()
    }
  })
}
