// Copies on the host of what lies on a device, for the points that look at it.
import type { HostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import type { Call } from '../../call/calls.js'
import { ran, type Steps } from './steps.js'

/** Reads all of these in one wait. */
const readAll = (arrays: readonly DeviceArray[]): Call<HostArray[]> => ({
  now: () => arrays.map((x) => x.readSync()),
  later: () => Promise.all(arrays.map((x) => x.read())),
  path: () => ({ kernel: 'copy' }),
})

/** Copies on the host of arrays on a device, each read once. */
export class HostCopies {
  readonly #copies = new Map<DeviceArray, HostArray>()

  /** The values; read now, if nobody has fetched them. */
  of(x: DeviceArray): HostArray['data'] {
    let copy = this.#copies.get(x)
    if (copy === undefined) {
      copy = x.readSync()
      this.#copies.set(x, copy)
    }
    return copy.data
  }

  /** Reads what is not here yet, ahead of the points that look at it. */
  *fetch(arrays: Iterable<unknown>): Steps<void> {
    const missing = [...new Set(arrays)].filter((x): x is DeviceArray => isDeviceArray(x) && !this.#copies.has(x))
    if (missing.length === 0) return
    const copies = yield* ran(readAll(missing))
    for (const [i, x] of missing.entries()) this.#copies.set(x, copies[i] as HostArray)
  }
}

/** The columns of a batch that lie on a device, by name. */
export interface ColumnsOnDevice {
  readonly arrays: ReadonlyMap<string, DeviceArray>
  readonly copies: HostCopies
}
/** By the context of a batch, see `origin`. */
export const columnsOfBatch = new WeakMap<object, ColumnsOnDevice>()
