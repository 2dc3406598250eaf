// The C interface of the CPU as other languages have it: c_interface.c, against the addon, which exports it too; and what
// it does not show, of which the sources are compiled alone. What asks for the library itself runs in
// `npm run test:library`.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { afterAll, beforeAll, expect, test } from 'vitest'

const native = join(__dirname, '../../native')
const addon = join(__dirname, '../../build/Release/grpo_kernels.node')

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-c-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

function run(program: string, ...given: string[]): string {
  const { stdout, stderr, status, error } = spawnSync(program, given, { encoding: 'utf8' })
  expect({ stdout: status === 0 || stdout, stderr, status, error }).toEqual({ stdout: true, stderr: '', status: 0 })
  return stdout
}

test.skipIf(process.platform !== 'linux')('calls from C', () => {
  // The program stands in for Node, of which the addon asks for functions that no call from C reaches.
  const missing = run('nm', '-D', '--undefined-only', addon).match(/napi_\w+/g) ?? []
  const [node, program] = [join(folder, 'node.c'), join(folder, 'c_interface')]
  writeFileSync(node, missing.map((name) => `void ${name}(void) {}\n`).join(''))
  const sources = [join(__dirname, 'c_interface.c'), node, addon, `-Wl,-rpath,${dirname(addon)}`, '-lm']
  run('cc', '-std=c11', '-Wall', '-Wextra', '-Werror', '-rdynamic', '-o', program, ...sources)
  expect(run(program)).toBe('the C interface works\n')
})

test.skipIf(process.platform === 'win32').each([
  ['pool', ['parallel/parallel', 'platform/large_pages', 'platform/processors'], 'the thread pool works\n'],
  ['rows', ['logits/softmax_rows', 'logits/sort_by_key'], 'rows stay in bounds\n'],
])('%s', (name, parts, said) => {
  const sources = [join(__dirname, `${name}.cc`), ...parts.map((part) => join(native, `${part}.cc`))]
  run('c++', '-std=c++20', '-Wall', '-Werror', '-pthread', '-I', native, ...sources, '-o', join(folder, name))
  expect(run(join(folder, name), join(folder, 'groups'))).toBe(said)
})
