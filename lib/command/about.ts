// Where the package runs, and with what.
import { addonFile, binaryFolder } from '../addon/load.js'
import { native } from '../addon/native.js'
import { cudaLibrary, must } from '../arrays/cuda_library.js'
import * as lib from '../index.js'

const { join } = process.getBuiltinModule('node:path')
const { readFileSync } = process.getBuiltinModule('node:fs')
const { cpus } = process.getBuiltinModule('node:os')

export interface About {
  readonly version: string
  readonly backend: 'CPU' | 'CPU and GPU'
  readonly node: string
  readonly platform: string
  readonly processor: string
  readonly instructionSet: string
  readonly threads: number
  readonly addon: string
  readonly cudaLibrary: string | undefined
  /** Why there is no GPU. */
  readonly reason: string | undefined
  readonly gpus: readonly lib.DeviceInfo[]
  /** The newest CUDA that the driver knows, and the one that the library was compiled with: '13.0'. */
  readonly driver: string | undefined
  readonly cuda: string | undefined
}

function versionOf(): string {
  try {
    return JSON.parse(readFileSync(join(binaryFolder() ?? '', 'package.json'), 'utf8')).version
  } catch {
    return 'unknown'
  }
}

const versionText = (number: number) => `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`

export function about(): About {
  const { path, numbers } = cudaLibrary()
  const versions = numbers.size > 0 ? must('check', '', native.cuda.versions()) : undefined
  return {
    version: versionOf(),
    backend: lib.cuda.available ? 'CPU and GPU' : 'CPU',
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    instructionSet: lib.cpu.instructionSet,
    threads: lib.cpu.threads,
    addon: addonFile,
    cudaLibrary: path,
    reason: lib.cuda.reason,
    gpus: lib.cuda.devices,
    driver: versions && versionText(versions.driver),
    cuda: versions && versionText(versions.runtime),
  }
}
