// Compiles the addon with a C++ compiler and nothing else, where the package is installed and brings no binary for the
// system: node native/build.mjs addon. A checkout has binding.gyp and node-gyp, which compile only what is out of date.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'

/** Also what binding.gyp compiles with. */
export const flags = [
  '-std=c++20',
  '-O3',
  '-ffp-contract=fast',
  '-fvisibility=hidden',
  '-Wall',
  '-Wextra',
  ...(process.platform === 'linux' ? ['-Wno-restrict'] : []),
]
export const defines = [
  'NAPI_VERSION=8',
  'NAPI_CPP_EXCEPTIONS',
  'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
  'NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED',
]
const linking =
  process.platform === 'darwin'
    ? ['-bundle', '-undefined', 'dynamic_lookup']
    : [
        '-shared',
        '-Wl,--exclude-libs,ALL',
        '-Wl,-z,nodelete',
        '-static-libgcc',
        '-static-libstdc++',
        '-pthread',
        '-ldl',
      ]

/** Its status; what it prints is printed. @throws Error if there is no such program */
function finished(command, args) {
  return new Promise((resolve, reject) => {
    spawn(command, args, { stdio: 'inherit' }).on('error', reject).on('close', resolve)
  })
}

/**
 * Makes build/Release/grpo_kernels.node.
 *
 * @param root     the package's folder, whose prebuilds/include has the headers of Node-API
 * @param sources  .cc files, relative to it
 */
export async function compileAddon(root, sources) {
  const include = join(root, 'prebuilds/include')
  if (!existsSync(join(include, 'napi.h'))) throw new Error(`${include} has no napi.h: the package is not complete`)
  const [compiler, ...words] = (process.env.CXX || 'c++').trim().split(/\s+/)
  const includes = [root, join(root, 'native'), include].flatMap((folder) => ['-I', folder])
  const options = [...words, ...flags, '-fPIC', ...defines.map((name) => `-D${name}`), ...includes]
  const output = join(root, 'build/Release/grpo_kernels.node')
  const objects = join(root, 'build/objects')
  const objectOf = (source) => join(objects, `${source.replaceAll('/', '_')}.o`)
  for (const folder of [objects, dirname(output)]) mkdirSync(folder, { recursive: true })
  console.log(`compiling ${sources.length} files with ${process.env.CXX || 'c++'}`)

  const waiting = [...sources]
  const failed = []
  const worker = async () => {
    for (let source = waiting.shift(); source && failed.length === 0; source = waiting.shift()) {
      const status = await finished(compiler, [...options, '-c', join(root, source), '-o', objectOf(source)])
      if (status !== 0) failed.push(source)
    }
  }
  try {
    await Promise.all(Array.from({ length: availableParallelism() }, worker))
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
    throw new Error(`there is no compiler ${compiler}: install one for C++20 (such as g++), or name it in CXX`)
  }
  if (failed.length > 0) throw new Error(`${failed.join(', ')} did not compile; a compiler for C++20 is needed`)
  const draft = `${output}.draft`
  const status = await finished(compiler, [...words, ...sources.map(objectOf), ...linking, '-o', draft])
  if (status !== 0) throw new Error('the addon was not linked')
  renameSync(draft, output)
  rmSync(objects, { recursive: true })
  console.log(`built ${output}`)
}
