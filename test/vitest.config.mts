import { join } from 'node:path'
import { defineConfig, type TestProjectConfiguration } from 'vitest/config'
import { blocked, root, unfinished } from './run/blocked.mjs'
import { rowsOf } from './steps/next_step.mjs'

// What a folder holds decides where its tests run:
//   test/*.test.ts        operations: on the CPU, and as CUDA kernels on the interpreter (or a GPU)
//   test/device/          what only device arrays can have wrong: on the interpreter (or a GPU)
//   test/simt/, arrays/   the interpreter itself; device memory, with simulated GPUs of their own
//   the other folders     on the CPU
const operations = 'test/*.test.ts'
const onDeviceOnly = 'test/device/**/*.test.ts'
const withInterpreter = [
  'test/simt/**',
  'test/arrays/**',
  'test/docs/pages.test.ts',
  'test/programs/bench_cuda.test.ts',
  'test/programs/bench_gpu.test.ts',
  'test/programs/check.test.ts',
]
const ofPrograms = [
  'test/docs/**',
  'test/package/**',
  'test/programs/commands.test.ts',
  'test/programs/declarations.test.ts',
]

/** Some of the files that differ between architectures: rows of logits are read twice before sm_90, and then once. */
const few = ['token_logprob_edges', 'policy_loss_from_logits_edges', 'path'].map((name) => `test/${name}.test.ts`)

/** The sanitizers have no part in what needs the interpreter, nor in programs that load an addon of their own. */
const sanitized = process.env.GRPO_KERNELS_SANITIZED !== undefined
const withoutKernels = blocked.has('the kernels on a device')
const exclude = [
  ...unfinished,
  ...(sanitized || withoutKernels ? withInterpreter : []),
  ...(sanitized ? ofPrograms : []),
]

/** The tests import lib/index.js, lib/call/run.js and lib/promises.js; here they get what computes on device arrays. */
const backend = join(root, 'test/support/backend.ts')
const onDevice = {
  name: 'device arrays in place of host arrays',
  enforce: 'pre' as const,
  resolveId(source: string, importer = '') {
    const wanted = /(?:^|\/)lib\/(index|promises|call\/run)\.js$/.exec(source)?.[1]
    const here = importer.startsWith(join(root, 'test/'))
    if (wanted === undefined || !here || /\/test\/(device\/|support\/(backend|samples)\.ts)/.test(importer)) return
    return wanted === 'call/run' ? backend : `\0on device: ${wanted}`
  },
  load(id: string) {
    const door = /^\0on device: (\w+)$/.exec(id)?.[1]
    if (door === undefined) return
    // A row without a function of its own name (convert, linearPolicyLossPlan) stays undefined, as it is in lib/index.ts.
    const wrap = (name: string) => {
      const operation = `lib.${name} && onDevice(lib.${name})`
      return `export const ${name} = ${door === 'index' ? operation : `lib.${name} && promised(onDevice(lib.${name}))`}`
    }
    return [
      `import * as lib from '${join(root, 'lib/index.ts')}'`,
      `import { onDevice, promised } from '${backend}'`,
      `export * from '${join(root, `lib/${door}.ts`)}'`,
      ...rowsOf(root)
        .filter((name) => name !== 'treeLayout')
        .map(wrap),
    ].join('\n')
  },
}

const common = {
  pool: 'forks' as const, // native code: a crash ends one file, not the run
  testTimeout: 180_000,
}

const device = (
  name: string,
  include = [operations, onDeviceOnly],
  environment: Record<string, string> = {},
  isolate = true,
): TestProjectConfiguration => ({
  plugins: [onDevice],
  test: { ...common, name, include, exclude, isolate, env: { GRPO_TEST_BACKEND: name, ...environment } },
})

/** On the interpreter, in a mode of test/simt/runtime.hpp: by default an sm_90 whose asynchronous copies land late. */
const simulated = (name: string, include?: string[], mode: Record<string, string> = {}, isolate = true) =>
  device(
    name,
    include,
    { GRPO_TEST_BACKEND: 'simt', GRPO_KERNELS_CUDA: join(root, 'build-simt/libgrpo_kernels_cuda.so'), ...mode },
    isolate,
  )

// In npm test the operations share a process for each worker, and with it what their files import; what looks at the
// memory of a device, and the modes of a sweep, have a process for each file.
const modes = ['GRPO_TEST_SWEEP', 'GRPO_SIMT_ARCH', 'GRPO_SIMT_COPIES', 'GRPO_SIMT_SEED', 'GRPO_SIMT_MMA']
const sweeps = modes.some((name) => process.env[name] !== undefined)
const interpreted = sweeps
  ? [simulated('simt')]
  : [simulated('simt', [operations], {}, false), simulated('simt device', [onDeviceOnly])]

const recipes = 'test/recipes/**/*.test.ts'
const onCpu = ['test/**/*.test.ts']
const others = [recipes, onDeviceOnly, ...exclude]
const projects = [
  ...(sweeps
    ? [{ test: { ...common, name: 'cpu', include: onCpu, exclude: others } }]
    : [
        { test: { ...common, name: 'cpu operations', include: [operations], exclude, isolate: false } },
        { test: { ...common, name: 'cpu', include: onCpu, exclude: [operations, ...others] } },
      ]),
  // A hundred small files on tested operations: one process for all of them instead of one for each.
  { test: { ...common, name: 'cpu recipes', include: [recipes], isolate: false } },
  ...(withoutKernels
    ? []
    : [
        ...interpreted,
        // Seeds with which ex2.approx in every softmax is not accurate enough.
        simulated('simt sm_80', few, { GRPO_SIMT_ARCH: '80', GRPO_SIMT_SEED: '4', GRPO_SIMT_COPIES: 'random' }),
        simulated('simt early', few, { GRPO_SIMT_ARCH: '90', GRPO_SIMT_SEED: '3', GRPO_SIMT_COPIES: 'early' }),
      ]),
  ...(process.env.GRPO_TEST_CUDA ? [device('cuda')] : []),
]

export default defineConfig({
  test: {
    maxWorkers: 2,
    experimental: { fsModuleCache: true }, // transformed files, by their content
    reporters: ['default', './test/run/closing_line.mjs'],
    globalSetup: ['./test/run/setup.ts'],
    // Where nothing can be loaded yet, what is missing is all that there is to say.
    projects: blocked.has('everything')
      ? [{ test: { ...common, name: 'cpu', include: ['test/steps/steps.test.ts'] } }]
      : projects,
  },
})
