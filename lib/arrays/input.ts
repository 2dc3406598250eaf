import type { DataOf, DType, Float16Values } from '../addon/dtypes.js'
import type { HostArray } from './array.js'
import type { DeviceArray } from './device_memory.js'

/**
 * What an input takes: a plain typed array (one axis), a host array, or a device array. Where an input holds i32 and
 * nothing else (ids, rows, offsets), a BigInt64Array or a list of numbers too, of which 32-bit copies are taken; what a
 * mask on the host leaves out of ids and rows may be anything.
 */
export type ArrayInput<D extends DType = DType> =
  | PlainArray<D>
  | HostArray<D>
  | DeviceArray
  | ([D] extends ['i32'] ? BigInt64Array | readonly number[] : never)
type PlainArray<D extends DType> = D extends 'bf16' ? never : D extends 'f16' ? Float16Values : DataOf[D]
