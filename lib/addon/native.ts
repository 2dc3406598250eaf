// Loads the addon and compares the signatures that it was compiled with to the table.
import type { OperationName } from '../ops.js'
import type { TypedArray } from './dtypes.js'
import { camelCase, grpoError } from './errors.js'
import { loadAddon, loadError } from './load.js'
import { operationNames, signatures } from './signatures.js'

export interface NativeError {
  status: number
  argument: string
  problem: string
  /** The name of a CUDA error; empty if it was none. */
  cudaCode: string
}

type Compiled = readonly { name: string; fields: { name: string; role: number; spec: string }[] }[]

/** What grpo_cuda_api of native/ops.h has. Addresses, streams (0n: the library's own) and events are bigints. */
interface CudaFunctions {
  /** undefined, or why the file cannot be loaded. */
  load(path: string): string | undefined
  operations(): Compiled
  deviceCount(): { count: number; reason: string }
  device(device: number): DeviceInfo | NativeError
  allocate(device: number, bytes: number, stream: bigint): bigint | NativeError
  release(device: number, bytes: number, stream: bigint, memory: bigint): NativeError | undefined
  upload(device: number, to: bigint, from: TypedArray, stream: bigint): NativeError | undefined
  download(device: number, from: bigint, to: TypedArray, stream: bigint): NativeError | undefined
  downloadAsync(device: number, from: bigint, to: TypedArray, stream: bigint): Promise<NativeError | undefined>
  waitAsync(event: bigint): Promise<NativeError | undefined>
  synchronizeAsync(device: number, stream: bigint): Promise<NativeError | undefined>
  trimAsync(device: number): Promise<NativeError | undefined>
  deviceOfMemory(memory: bigint): number | NativeError
  deviceOfStream(stream: bigint): number | NativeError
  record(device: number, stream: bigint): bigint | NativeError
  wait(device: number, stream: bigint, event: bigint): NativeError | undefined
  destroyEvent(event: bigint): NativeError | undefined
  /** A new event that knows when it was reached. */
  recordTime(device: number, stream: bigint): bigint | NativeError
  secondsBetween(first: bigint, second: bigint): number | NativeError
  /** As 13000. */
  versions(): { driver: number; runtime: number } | NativeError
  /** A hash for each section: see cuda/launch/self_test.cu. */
  selfTest(device: number): Record<string, string> | NativeError
}

/** A GPU. */
export interface DeviceInfo {
  readonly name: string
  /** '9.0', ... */
  readonly computeCapability: string
  readonly multiprocessors: number
  /** Bytes. */
  readonly memory: number
}

interface Addon {
  operations: Compiled
  cuda: CudaFunctions
  /** What the arguments are stands in native/node/addon.cc. */
  run(
    operation: number,
    numbers: Float64Array,
    stream: bigint | undefined,
    ...arrays: (TypedArray | bigint | undefined)[]
  ): NativeError | undefined
  runAsync(
    operation: number,
    numbers: Float64Array,
    stream: undefined,
    ...arrays: (TypedArray | undefined)[]
  ): { promise: Promise<NativeError | undefined>; cancel(): void }
  /** What `run` would do: see grpo_path of native/ops.h. */
  explain(
    operation: number,
    numbers: Float64Array,
    stream: bigint | undefined,
    ...arrays: (TypedArray | bigint | undefined)[]
  ): { kernel: string; reason: string } | NativeError
  isDetached(buffer: ArrayBufferLike): boolean
  overlap(x: Float32Array, y: Float32Array): boolean
  /** For an array that was just made, and that nobody has written yet. */
  preferLargePages(x: TypedArray, bytes: number): void
  instructionSet(): string
  setInstructionSet(name: string): boolean
  /** What is wrong with GRPO_KERNELS_ISA; empty if nothing is. */
  readonly instructionSetProblem: string
  threads(): number
  setThreads(count: number): void
  /** Of the pool, alive at the moment. */
  threadsStarted(): number
  scratchPeak(reset: boolean): number
}

/** The specs of a row, in the order of the C struct. */
function fieldsOf(name: OperationName): string[] {
  const { inputs, outputs, options } = signatures[name]
  return [...inputs, ...outputs, ...options].map((field) => `${field.name}: ${camelCase(field.spec)}`)
}

/**
 * Each operation's number in a compiled table; throws one sentence that names the row and the file where they differ.
 *
 * @param folder     of the operations' files
 * @param extension  of their names
 */
export function compare(table: Compiled, folder: string, extension: string): ReadonlyMap<OperationName, number> {
  const numbers = new Map(table.map(({ name }, index) => [camelCase(name) as OperationName, index]))
  for (const name of operationNames) {
    const index = numbers.get(name)
    const file = `${folder}/${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}.${extension}`
    if (index === undefined) {
      throw loadError(`lib/ops.ts has a row ${name}, which the binary lacks: is ${file} built?`)
    }
    const fields = table[index]?.fields ?? []
    const compiled = fields.map((field) => `${camelCase(field.name)}: ${camelCase(field.spec)}`)
    const expected = fieldsOf(name)
    for (let i = 0; i < Math.max(compiled.length, expected.length); i++) {
      if (compiled[i] !== expected[i]) {
        throw loadError(
          `row ${name} of lib/ops.ts has "${expected[i] ?? 'nothing'}" where ` +
            `${file} was compiled with "${compiled[i] ?? 'nothing'}"`,
        )
      }
    }
  }
  return numbers
}

export const native = loadAddon() as Addon
if (native.instructionSetProblem) {
  throw grpoError('option', 'grpo-kernels', 'GRPO_KERNELS_ISA', native.instructionSetProblem)
}
export const operationNumbers = compare(native.operations, 'native', 'cc')
