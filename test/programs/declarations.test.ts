// The declarations of dist/, read as users do who let their compiler check libraries too: by the least TypeScript that the
// package promises and by the one that it is built with.
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { few } from '../support/sweep.js'

const root = join(__dirname, '../..')
const require = createRequire(__filename)
let folder = ''

/** Every door of the package. The last two lines are wrong, so that a declaration that says `any` is found. */
const program = `
import { array, cuda, groupAdvantage, type HostArray } from 'grpo-kernels'
import * as promises from 'grpo-kernels/promises'
import { prepareStep, recipes } from 'grpo-kernels/recipes'

const groups = { rewards: new Float32Array([1, 0, 0.5, 0]), groupStart: new Int32Array([0, 4]) }
const { advantage } = groupAdvantage({ ...groups, rewards: array(groups.rewards, [4]) })
export const values: Float32Array = advantage.data
export const later: Promise<HostArray<'f32'>> = promises.groupAdvantage(groups).then((result) => result.advantage)
export const step: ArrayLike<number> | undefined = prepareStep(recipes.grpo(), groups).advantage
export const dispose = (signal: AbortSignal) => {
  const there = cuda.upload(advantage)
  there[Symbol.dispose]()
  return promises.groupAdvantage(groups, { signal })
}
export const number: number = advantage.data
export const text: string = prepareStep(recipes.grpo(), groups).advantage
`

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-types-'))
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(root, join(folder, 'node_modules/grpo-kernels'))
  for (const name of ['program.mts', 'program.cts', 'program.ts']) writeFileSync(join(folder, name), program)
})

afterAll(() => rmSync(folder, { recursive: true }))

/** What a compiler says, a line for each error. */
function compile(compiler: string, name: string, files: string[], options: Record<string, unknown>): Promise<string[]> {
  const path = join(folder, `${name}.json`)
  const compilerOptions = {
    strict: true,
    skipLibCheck: false,
    noEmit: true,
    target: 'es2022',
    lib: ['es2022'],
    ...options,
  }
  writeFileSync(path, JSON.stringify({ compilerOptions, files }))
  const tsc = join(dirname(require.resolve(`${compiler}/package.json`)), 'bin/tsc')
  return new Promise((resolve) =>
    execFile(process.execPath, [tsc, '-p', path, '--pretty', 'false'], { cwd: folder }, (_, stdout) =>
      resolve(stdout.split('\n').filter((line) => /^\S/.test(line))),
    ),
  )
}

const node = { types: ['node'], typeRoots: [join(root, 'node_modules/@types')] }
const browser = { types: [], lib: ['es2022', 'dom'] }
const node16 = { module: 'node16' }
const bundler = { module: 'esnext', moduleResolution: 'bundler' }

const cases = few<[string, string, string[], Record<string, unknown>]>(
  [['oldest-typescript', 'node16', ['program.mts', 'program.cts'], { ...node16, ...node }]],
  [
    ['oldest-typescript', 'bundler', ['program.ts'], { ...bundler, ...browser }],
    ['typescript', 'node16', ['program.mts', 'program.cts'], { ...node16, ...node }],
  ],
)

test.concurrent.each(cases)('%s reads them with module resolution %s', async (compiler, name, files, options) => {
  const errors = files
    .toSorted()
    .flatMap((file) => [
      `${file}(16,14): error TS2322: Type 'Float32Array' is not assignable to type 'number'.`,
      `${file}(17,14): error TS2322: Type 'ArrayLike<number> | undefined' is not assignable to type 'string'.`,
    ])
  const lines = await compile(compiler, `${compiler}-${name}`, files, options)
  // Since 5.7 the compiler says Float32Array<ArrayBufferLike>.
  expect(lines.map((line) => line.replace('<ArrayBufferLike>', '')).toSorted()).toEqual(errors)
})
