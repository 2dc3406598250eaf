// Where the arrays of a step lie: columns on a device, their copies on the host for the points that look at them, and
// copies on the device of what the host has decided.
import { grpoError } from '../../addon/errors.js'
import { type HostArray, hostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray, uploaded } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import type { Call } from '../../call/calls.js'
import { type Context, origin } from './context.js'
import { ran, type Steps } from './steps.js'

// ---- from a device to the host --------------------------------------------------------------------------------------

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
const placed = new WeakMap<Context, ColumnsOnDevice>()
export const setColumnsOnDevice = (c: Context, columns: ColumnsOnDevice): unknown => placed.set(c, columns)
export const columnsOnDevice = (c: Context): ColumnsOnDevice => placed.get(origin(c)) as ColumnsOnDevice

/** Whether a point has put something else in the place of the batch's column. */
function isReplaced(c: Context, name: string): boolean {
  const batch = origin(c)
  for (let x = c; x !== batch; x = Object.getPrototypeOf(x)) if (Object.hasOwn(x, name)) return true
  return false
}

type TokenColumn = 'token' | 'mask' | 'oldLogp' | 'refLogp' | 'rolloutLogp' | 'entropy' | 'tokenAdvantage'

/** A column where it lies, for operations; undefined: the batch has none. */
export function columnAt(c: Context, name: TokenColumn): ArrayInput | undefined {
  if (isReplaced(c, name) && name !== 'entropy') return c[name]
  return columnsOnDevice(c).arrays.get(name) ?? (c.has(name) ? c[name] : undefined)
}

/** Copies to the host the columns that are named, where they lie on a device. */
export function* fetchColumns(c: Context, names: readonly string[]): Steps<void> {
  const { arrays, copies } = columnsOnDevice(c)
  if (arrays.size > 0) yield* copies.fetch(names.map((name) => (isReplaced(c, name) ? undefined : arrays.get(name))))
}

// ---- from the host to a device --------------------------------------------------------------------------------------

/**
 * Copies of host arrays on the device of a policy, each made once: those of columns for all updates on a batch, the others
 * for one update.
 */
export class Uploads {
  readonly #made = new Map<unknown, DeviceArray>()

  /** @param batch  the uploads of all updates, of which this is one */
  constructor(
    private readonly method: string,
    readonly device: number,
    readonly stream: bigint | undefined,
    private readonly batch?: Uploads,
  ) {}

  /** The array there, until this update ends. @throws TypeError for an array on another device */
  place(name: string, x: ArrayInput | undefined): DeviceArray | undefined {
    return x === undefined ? undefined : (this.#known(name, x) ?? this.#remember(x, this.given(name, x)))
  }

  /** The same of a column, or of what was decided about the batch: until the last update. */
  keep(name: string, x: ArrayInput | undefined): DeviceArray | undefined {
    return this.batch === undefined ? this.place(name, x) : this.batch.place(name, x)
  }

  /** The same of what is made of `source`, which stands for it. */
  keepOf(name: string, source: object, make: () => ArrayInput | undefined): DeviceArray | undefined {
    if (this.batch !== undefined) return this.batch.keepOf(name, source, make)
    const made = this.#made.get(source) ?? this.given(name, make() as ArrayInput)
    this.#made.set(source, made)
    return made
  }

  /** A copy that belongs to the caller. */
  given(name: string, x: ArrayInput): DeviceArray {
    return uploaded(this.method, name, this.device, hostArray(this.method, name, x, true), this.stream ?? 0n)
  }

  #known(name: string, x: ArrayInput): DeviceArray | undefined {
    if (!isDeviceArray(x)) return this.#made.get('data' in x ? x.data : x)
    if (x.device === this.device) return x
    const problem = `lies on device ${x.device}, but the policy lies on device ${this.device}`
    throw grpoError('device', this.method, name, problem)
  }

  #remember(x: ArrayInput, made: DeviceArray): DeviceArray {
    this.#made.set('data' in x ? x.data : x, made)
    return made
  }

  dispose(): void {
    for (const x of this.#made.values()) x.dispose()
    this.#made.clear()
  }
}
