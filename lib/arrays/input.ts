import type { DataOf, DType } from '../addon/dtypes.js'
import type { HostArray } from './array.js'
import type { DeviceArray } from './device_memory.js'

/** What an input takes: a plain typed array (one axis), a host array, or a device array. */
export type ArrayInput<D extends DType = DType> = PlainArray<D> | HostArray<D> | DeviceArray
type PlainArray<D extends DType> = D extends 'bf16' | 'f16' ? never : DataOf[D]
