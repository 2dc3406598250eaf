import type { ArrayInput, DType, HostArray } from './array.js'
import { hostArray, isDeviceArray } from './array.js'
import { grpoError } from './errors.js'

/** An array in the memory of a GPU. */
export interface DeviceArray {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly pointer: bigint
  readonly device: number
  read(): Promise<HostArray>
  readSync(): HostArray
  dispose(): void
  [Symbol.dispose](): void
}

export interface DeviceInfo {
  readonly name: string
  readonly memory: number
}

const unavailable = 'needs a GPU, but this version of the package has no CUDA library'

function refuse(operation: string): never {
  throw grpoError('device', operation, '', unavailable)
}

/** The GPUs of this machine. Without one everything else still works, and `reason` says why there is none. */
export const cuda = {
  available: false as boolean,
  reason: 'this version of the package has no CUDA library' as string | undefined,
  devices: [] as readonly DeviceInfo[],
  upload: (_host: ArrayInput): DeviceArray => refuse('cuda.upload'),
  empty: (_dtype: DType, _shape: readonly number[]): DeviceArray => refuse('cuda.empty'),
  wrap: (_memory: { pointer: bigint; dtype: DType; shape: readonly number[]; device?: number }): DeviceArray =>
    refuse('cuda.wrap'),
  synchronize: async (): Promise<void> => undefined,
}

/** The values of an array, wherever it lies: those of a host array are not copied. */
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
