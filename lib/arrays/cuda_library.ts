// The library of the CUDA kernels: found and loaded when it is first needed, never unloaded.
import { grpoError, nativeError } from '../addon/errors.js'
import { binaryFolder, exists, pathVariable } from '../addon/load.js'
import { compare, type NativeError, native } from '../addon/native.js'
import { cudaLibraryFile, prebuildsIn } from '../addon/platform.js'
import type { OperationName } from '../ops.js'
import { describe } from './array.js'

const { join } = process.getBuiltinModule('node:path')

interface Library {
  /** Its file, if there is one. */
  readonly path?: string
  /** Usable GPUs. */
  readonly count: number
  /** Why there is none; empty if there is one. */
  readonly reason: string
  readonly numbers: ReadonlyMap<OperationName, number>
}

const none = (reason: string, path?: string): Library => ({
  ...(path !== undefined && { path }),
  count: 0,
  reason,
  numbers: new Map(),
})

function pathOf(): string | undefined {
  const given = pathVariable('GRPO_KERNELS_CUDA')
  if (given) return given
  const folder = binaryFolder()
  if (folder === undefined) return undefined
  const places = [prebuildsIn(folder), join(folder, 'build-cuda')].map((place) => join(place, cudaLibraryFile))
  return places.find((path) => exists(path))
}

function load(): Library {
  let path: string | undefined
  try {
    path = pathOf()
  } catch (error) {
    return none((error as Error).message)
  }
  if (path === undefined) {
    const checkout = exists(join(binaryFolder() ?? '', 'binding.gyp'))
    const remedy = checkout ? 'npm run build:cuda makes it' : 'docs/troubleshooting.md says how to build it'
    return none(`this build of the package has no CUDA library: ${remedy}`)
  }
  const problem = native.cuda.load(path)
  if (problem !== undefined) return none(`the CUDA library ${path} cannot be loaded: ${problem}`, path)
  try {
    const numbers = compare(native.cuda.operations(), 'cuda', 'cu')
    return { path, ...native.cuda.deviceCount(), numbers }
  } catch (error) {
    return none(`the CUDA library ${path} is another version's: ${(error as Error).message}`, path)
  }
}

let library: Library | undefined

/** The library, or why there is none: among the reasons is that its operations are not those of lib/ops.ts. */
export function cudaLibrary(): Library {
  library ??= load()
  return library
}

/** The functions of the library. @throws TypeError if there is no library, or no GPU */
export function cudaFunctions(operation: string, argument = ''): typeof native.cuda {
  const { count, reason } = cudaLibrary()
  if (count === 0) throw grpoError('device', operation, argument, `needs a GPU: ${reason}`)
  return native.cuda
}

/** What a function of the library returned, unless that is an error. */
export function must<T>(operation: string, argument: string, result: T | NativeError): T {
  if (typeof result === 'object' && result !== null && 'status' in result)
    throw nativeError(operation, result, argument)
  return result
}

/** The number of a GPU. @throws TypeError or RangeError unless it is one of this machine's */
export function checkDevice(operation: string, device: unknown): number {
  cudaFunctions(operation, 'device')
  const { count } = cudaLibrary()
  if (typeof device !== 'number') {
    throw grpoError('kind', operation, 'device', `is ${describe(device)}, expected a number`)
  }
  if (!Number.isInteger(device) || device < 0 || device >= count) {
    throw grpoError('option', operation, 'device', `is ${device}, expected a whole number from 0 to ${count - 1}`)
  }
  return device
}

// cudaStreamLegacy and cudaStreamPerThread stand for a stream of whichever device is current.
const ofAnyDevice: readonly bigint[] = [0n, 1n, 2n]

/** The stream of a call on a device; 0n, the library's own, where none is given. @throws if it is another device's */
export function checkStream(operation: string, stream: unknown, device: number, what = 'the arrays lie'): bigint {
  if (stream === undefined) return 0n
  if (typeof stream !== 'bigint') {
    throw grpoError('kind', operation, 'stream', `is ${describe(stream)}, expected a bigint`)
  }
  if (stream < 0n || stream >= 2n ** 64n) {
    throw grpoError('option', operation, 'stream', `is ${stream}n, expected the address of a cudaStream_t`)
  }
  if (ofAnyDevice.includes(stream)) return stream
  const actual = must(operation, 'stream', cudaFunctions(operation).deviceOfStream(stream))
  if (actual === device) return stream
  throw grpoError('device', operation, 'stream', `is one of device ${actual}, but ${what} on device ${device}`)
}
