// The arrays of a call: what they must be before a kernel may see them, and on which side they lie.

import type { DType } from '../addon/dtypes.js'
import { grpoError } from '../addon/errors.js'
import { native } from '../addon/native.js'
import type { ArraySpec } from '../addon/signatures.js'
import {
  checkNoStride,
  describe,
  detached,
  extentOf,
  type HostArray,
  hostArray,
  lengthOf,
  rowSize,
  sizeOf,
} from '../arrays/array.js'
import { checkStream } from '../arrays/cuda_library.js'
import { type DeviceArray, isDeviceArray, lengthOnDevice, live, strideOnDevice } from '../arrays/device_memory.js'
import { integersOf, isWide } from '../arrays/integers.js'
import type { Plan } from './plan.js'

export type Placed = HostArray | DeviceArray

/** Values in an array's memory, which may be more than its shape has. */
const lengthIn = (x: Placed): number => (isDeviceArray(x) ? lengthOnDevice(x) : lengthOf(x.data))

const strideIn = (x: Placed): number | undefined => (isDeviceArray(x) ? strideOnDevice(x) : x.stride)

/** Whether an input holds whole numbers alone, and comes in a container of which a copy is taken. */
export const isCopied = ({ dtypes }: ArraySpec, value: unknown): boolean =>
  dtypes.length === 1 && dtypes[0] === 'i32' && (Array.isArray(value) || isWide(value))

const countOf = (ids: unknown) => (Array.isArray(ids) ? ids.length : lengthOf(ids as BigInt64Array))

/** The mask of these ids, if it can be looked at now: one on a device is not read for that. */
const maskOf = (mask: Placed | undefined, ids: unknown): Uint8Array | undefined =>
  mask !== undefined && !isDeviceArray(mask) && mask.dtype === 'u8' && lengthOf(mask.data) === countOf(ids)
    ? (mask.data as Uint8Array)
    : undefined

/**
 * An input or an output as a caller passed it.
 *
 * @param mask  of ids: those that are copied are not looked at where it is 0, as a kernel does not look at others there
 */
export function read(
  operation: string,
  spec: ArraySpec,
  value: unknown,
  strided: boolean,
  isInput: boolean,
  mask?: Placed,
): Placed | undefined {
  const { name, dtypes } = spec
  if (value === undefined || value === null) return undefined
  if (isDeviceArray(value)) {
    live(operation, name, value)
    if (!strided) checkDense(operation, name, value)
    return value
  }
  const x =
    isInput && isCopied(spec, value)
      ? (integersOf(operation, name, value, spec.ids ? maskOf(mask, value) : undefined) as HostArray)
      : hostArray(operation, name, value, strided, dtypes)
  if (lengthOf(x.data) === 0 && native.isDetached(x.data.buffer)) throw grpoError('value', operation, name, detached)
  return x
}

export function checkDense(operation: string, name: string, x: Placed): void {
  checkNoStride(operation, name, x.shape, strideIn(x))
  const length = lengthIn(x)
  const needs = sizeOf(x.shape)
  // Memory of another library is said to be Infinity long.
  if (length === needs || length === Number.POSITIVE_INFINITY) return
  const wants = `its shape [${x.shape.join(', ')}] needs ${needs}`
  throw grpoError('shape', operation, name, `holds ${length} values, but ${wants}`)
}

export const sameMemory = (x: Placed, y: Placed): boolean =>
  isDeviceArray(x) || isDeviceArray(y)
    ? isDeviceArray(x) && isDeviceArray(y) && x.pointer === y.pointer && x.device === y.device
    : x.data.buffer === y.data.buffer && x.data.byteOffset === y.data.byteOffset

/**
 * Elements from one row of an array to the next, 0 where nothing lies between them.
 *
 * @param option  the operation's option `stride`, which may stand for the array's own
 */
export function strideOf(operation: string, name: string, x: Placed, option: unknown): number {
  const length = lengthIn(x)
  const own = strideIn(x)
  const stride = option === undefined ? own : option
  if (stride === undefined) {
    if (length === sizeOf(x.shape) || length === Number.POSITIVE_INFINITY) return 0
    throw grpoError(
      'shape',
      operation,
      name,
      `holds ${length} values, more than its shape needs, and no stride is given`,
    )
  }
  if (typeof stride !== 'number')
    throw grpoError('kind', operation, 'stride', `is ${describe(stride)}, expected a number`)
  const row = rowSize(x.shape)
  if (!Number.isSafeInteger(stride) || stride < row) {
    throw grpoError('option', operation, 'stride', `is ${stride}, expected at least the ${row} columns of ${name}`)
  }
  if (own !== undefined && stride !== own) {
    throw grpoError('option', operation, 'stride', `is ${stride}, but the rows of ${name} lie ${own} apart`)
  }
  const least = extentOf(x.shape, stride)
  if (length < least) {
    const [rows] = x.shape
    throw grpoError('shape', operation, name, `holds ${length} values, but ${rows} rows ${stride} apart need ${least}`)
  }
  return stride
}

/** An input or output of a call: an array, or the shape of an output that the call makes. */
export interface Slot {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly stride: number
  readonly x: Placed | undefined
}

/** i32 inputs may stay on the host, and so may three numbers (f64: statistics), which are copied for the call. */
const mayStay = (spec: ArraySpec, x: HostArray, isInput: boolean): boolean =>
  isInput && (x.dtype === 'i32' || spec.dtypes[0] === 'f64')

const onDevice = (slot: Slot | undefined) => isDeviceArray(slot?.x)

/** The device of a call, if any of its arrays lies on one. @throws TypeError naming two arrays that lie apart */
function deviceOf(operation: string, specs: readonly ArraySpec[], slots: Slots, inputs: number): number | undefined {
  const at = slots.findIndex(onDevice)
  if (at < 0) return undefined
  const { device } = (slots[at] as Slot).x as DeviceArray
  slots.forEach((slot, i) => {
    const x = slot?.x
    const spec = specs[i] as ArraySpec
    if (x === undefined || (isDeviceArray(x) ? x.device === device : mayStay(spec, x, i < inputs))) return
    const where = isDeviceArray(x) ? `lies on device ${x.device}` : 'lies on the host'
    const rule = isDeviceArray(x) ? '' : '; only i32 inputs may stay on the host'
    const problem = `${where}, but ${(specs[at] as ArraySpec).name} lies on device ${device}${rule}`
    throw grpoError('device', operation, spec.name, problem)
  })
  return device
}

/** Inputs, then outputs, by their places; undefined: not given. */
export type Slots = (Slot | undefined)[]

export interface Side {
  readonly device: number
  readonly stream: bigint
}

/** Where a call runs; undefined: on the CPU. */
export function sideOf(
  { name, arrays, signature }: Plan,
  slots: Slots,
  stream: unknown,
  given: number | undefined,
): Side | undefined {
  const device = deviceOf(name, arrays, slots, signature.inputs.length) ?? given
  return device === undefined ? undefined : { device, stream: checkStream(name, stream, device) }
}
