// What npm run test:pack refuses in a binary.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { isElf, shortcomings, versions } from './elf.mjs'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-elf-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** A library of these functions; with `version` the one that they have in a library called libc.so.6. */
function library(name: string, text: string, words: string[] = [], version?: string): string {
  const path = join(folder, `${name}.so`)
  writeFileSync(join(folder, `${name}.c`), text)
  writeFileSync(join(folder, `${name}.map`), `${version} { *; };`)
  const versioned = version ? ['-Wl,-soname,libc.so.6', `-Wl,--version-script=${name}.map`] : []
  const flags = ['-shared', '-fPIC', '-nostdlib', ...versioned, `${name}.c`, ...words, '-o', path]
  const { stderr } = spawnSync('cc', flags, { cwd: folder, encoding: 'utf8' })
  expect(stderr).toBe('')
  return path
}

const caller = 'int function(void); int entry(void) { return function(); }'

test.each([
  ['GLIBC_2.28', []],
  ['GLIBC_2.29', ['needs GLIBC_2.29, at most 2.28 is there everywhere']],
  ['GLIBC_2.3.4', []],
  ['GLIBC_2.100', ['needs GLIBC_2.100, at most 2.28 is there everywhere']],
  ['GLIBCXX_3.4.25', []],
  ['GLIBCXX_3.4.26', ['needs GLIBCXX_3.4.26, at most 3.4.25 is there everywhere']],
  ['GLIBCXX_4.0', ['needs GLIBCXX_4.0, at most 3.4.25 is there everywhere']],
])('a function of %s', (version, expected) => {
  const name = version.replaceAll('.', '_')
  const from = library(`from_${name}`, 'int function(void) { return 0; }', [], version)
  const path = library(`user_${name}`, caller, [from])
  expect(isElf(path)).toBe(true)
  expect(versions(path)).toEqual({ [version.split('_')[0] as string]: version.split('_')[1] })
  expect(shortcomings(path)).toEqual(expected)
})

test('a function that nothing has, unless it is of Node-API or weak', () => {
  expect(shortcomings(library('stray', caller))).toEqual(['has no library for function'])
  const allowed =
    'int napi_call(void); __attribute__((weak)) int weak(void); int entry(void) { return napi_call() + weak(); }'
  expect(shortcomings(library('allowed', allowed))).toEqual([])
})

test('what is no ELF file', () => {
  const path = join(folder, 'text')
  writeFileSync(path, 'x')
  expect(isElf(path)).toBe(false)
})
