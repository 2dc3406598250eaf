// What `npm test` prints where nothing can be tested: in a small repository of its own, whose build does as it is told.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeEach, expect, test } from 'vitest'
import { bringUpToDate } from './up_to_date.js'

const root = join(__dirname, '..', '..')
const copy = mkdtempSync(join(tmpdir(), 'grpo-kernels-run-'))
afterAll(() => rmSync(copy, { recursive: true }))

const write = (path: string, text: string) => {
  mkdirSync(dirname(join(copy, path)), { recursive: true })
  writeFileSync(join(copy, path), text)
}
const addon = 'build/Release/grpo_kernels.node'
const build = (text: string) => write('native/build.mjs', text)
const building = 'building the addon anew where its sources have changed (minutes, if that is everywhere)'

for (const folder of ['test/run', 'test/steps']) cpSync(join(root, folder), join(copy, folder), { recursive: true })
write('package.json', '{ "scripts": { "build:ts": "node lib/build.mjs" } }')
write('lib/ops.ts', 'export const ops = {\n}\n')
write('lib/recipes/methods/none.txt', '')
write('binding.gyp', '{}')
write('tsconfig.json', '{}')
beforeEach(() => rmSync(join(copy, 'build'), { recursive: true, force: true }))

/** Of a child that knows nothing of this run. */
function npmTest(...words: string[]) {
  const { PATH, HOME } = process.env
  const program = [join(root, 'node_modules/tsx/dist/cli.mjs'), join(copy, 'test/run/run.mts'), ...words]
  return spawnSync(process.execPath, program, { encoding: 'utf8', env: { PATH, HOME } })
}

test('a compile that fails: its text, one line, and the closing line', () => {
  build("console.log('row_norm.cc:3: error: no such thing'); process.exit(1)")
  const { status, stdout, stderr } = npmTest()
  const why = 'the addon does not compile: what the compiler says stands above, and no test has run'
  expect(stderr).toBe(`${building}\nrow_norm.cc:3: error: no such thing\n${why}\n`)
  expect(stdout).toBe('0 passed, 1 failed, 0 skipped\n')
  expect(status).toBe(1)
})

test('a build that was interrupted is no compile that failed', () => {
  build("process.kill(process.pid, 'SIGINT'); setTimeout(() => {}, 10_000)")
  const { status, stdout, stderr } = npmTest()
  expect(stderr).toBe(`${building}\nthe build of the addon was interrupted (SIGINT): run it again\n`)
  expect(stdout).toBe('0 passed, 1 failed, 0 skipped\n')
  expect(status).toBe(1)
})

test.each([
  ['a signal', 'SIGTERM', "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 10_000)"],
  ['a shell', 'SIGINT', 'process.exit(130)'],
  ['make', 'Interrupt', "console.error('make: *** [grpo_kernels.target.mk:200: x.o] Interrupt'); process.exit(1)"],
  ['ninja', 'interrupted', "console.log('ninja: build stopped: interrupted by user.'); process.exit(1)"],
  ['node-gyp', 'SIGTERM', "console.error('gyp ERR! stack Error: `make` got signal: SIGTERM'); process.exit(1)"],
])('an interruption that %s tells of: %s', (_, signal, text) => {
  build(text)
  const problem = bringUpToDate(copy, ['addon'], () => {})
  expect(problem).toBe(`the build of the addon was interrupted (${signal}): run it again`)
})

test('an error of make is none', () => {
  build("console.error('make: *** [grpo_kernels.target.mk:200: x.o] Error 1'); process.exit(1)")
  expect(bringUpToDate(copy, ['addon'], () => {})).toMatch(/^the addon does not compile: /)
})

test('each part is called by its name, and is built once', () => {
  const make = (path: string) =>
    `import { mkdirSync, writeFileSync } from 'node:fs'
    mkdirSync('${dirname(path)}', { recursive: true })
    writeFileSync('${path}', '')\n`
  build(make(addon))
  write('lib/build.mjs', make('dist/index.js') + make('dist/recipes/index.js').split('\n').slice(1).join('\n'))
  const said: string[] = []
  const say = (line: string) => said.push(line)
  expect(bringUpToDate(copy, ['addon', 'dist/'], say)).toBeUndefined()
  expect(said.map((line) => line.split(' anew')[0])).toEqual(['building the addon', 'building dist/'])
  expect(bringUpToDate(copy, ['addon', 'dist/'], say)).toBeUndefined()
  expect(said.length).toBe(2)
  write('lib/build.mjs', 'process.exit(1)')
  expect(bringUpToDate(copy, ['dist/'], say)).toMatch(/^dist\/ does not compile: /)
})
