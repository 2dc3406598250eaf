// Where the arrays of a step lie: columns on a device or on the host, and copies on the device of what the host has decided.
import { grpoError } from '../../addon/errors.js'
import { hostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray, uploaded } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { type Context, origin } from './context.js'
import { type ColumnsOnDevice, columnsOfBatch } from './host_copies.js'
import type { Steps } from './steps.js'

const columnsOnDevice = (c: Context): ColumnsOnDevice => columnsOfBatch.get(origin(c)) as ColumnsOnDevice

/** Whether a point has put something else in the place of the batch's column. An entropy of the policy is another thing. */
function isReplaced(c: Context, name: string): boolean {
  if (name === 'entropy') return false
  const batch = origin(c)
  for (let x = c; x !== batch; x = Object.getPrototypeOf(x)) if (Object.hasOwn(x, name)) return true
  return false
}

type TokenColumn = 'token' | 'mask' | 'oldLogp' | 'refLogp' | 'rolloutLogp' | 'entropy' | 'tokenAdvantage'

/** A column where it lies, for operations; undefined: the batch has none. */
export function columnAt(c: Context, name: TokenColumn): ArrayInput | undefined {
  if (isReplaced(c, name)) return c[name]
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
  /** What goes to the caller, should the update succeed. */
  readonly #results = new Set<DeviceArray>()

  /** @param batch  the uploads of all updates, of which this is one */
  constructor(
    private readonly method: string,
    readonly device: number,
    readonly stream: bigint | undefined,
    private readonly batch?: Uploads,
  ) {}

  /** The array there, until this update ends. @throws TypeError for an array on another device */
  place(name: string, x: ArrayInput | undefined): DeviceArray | undefined {
    return x === undefined ? undefined : (this.#known(name, x) ?? this.#remember(x, this.#upload(name, x)))
  }

  /** The same of a column, or of what was decided about the batch: until the last update. */
  keep(name: string, x: ArrayInput | undefined): DeviceArray | undefined {
    return this.batch === undefined ? this.place(name, x) : this.batch.place(name, x)
  }

  /** The same of what is made of `source`, which stands for it. */
  keepOf(name: string, source: object, make: () => ArrayInput | undefined): DeviceArray | undefined {
    if (this.batch !== undefined) return this.batch.keepOf(name, source, make)
    const made = this.#made.get(source) ?? this.#upload(name, make() as ArrayInput)
    this.#made.set(source, made)
    return made
  }

  /** A copy that goes to the caller. */
  result(name: string, x: ArrayInput): DeviceArray {
    const made = this.#upload(name, x)
    this.#results.add(made)
    return made
  }

  /** Arrays that kernels have made for the caller, to be freed with the others should the update fail after that. */
  results(made: object): void {
    for (const x of Object.values(made)) if (isDeviceArray(x)) this.#results.add(x)
  }

  /** Takes over an array that a kernel has made for this update alone. */
  own(x: ArrayInput): void {
    if (isDeviceArray(x)) this.#made.set(x, x)
  }

  #upload(name: string, x: ArrayInput): DeviceArray {
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

  /** @param succeeded  what goes to the caller stays */
  dispose(succeeded = false): void {
    for (const x of this.#made.values()) x.dispose()
    this.#made.clear()
    if (!succeeded) for (const x of this.#results) x.dispose()
    this.#results.clear()
  }
}
