// The number of a thread beyond 2^32, which no launch of a test has.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { expect, test } from 'vitest'

const root = join(__dirname, '../..')

test('a thread is counted in 64 bits', () => {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-indices-'))
  try {
    const program = join(folder, 'thread_index')
    const includes = ['.', 'cuda', 'native'].map((path) => `-I${join(root, path)}`)
    const source = join(root, 'test/simt/indices/thread_index.cc')
    const [compiler = 'g++', ...before] = (process.env.CXX ?? 'g++').split(' ')
    const built = spawnSync(compiler, [...before, '-std=c++20', '-O1', ...includes, source, '-o', program], {
      encoding: 'utf8',
    })
    expect(built.status, built.stderr).toBe(0)
    expect(spawnSync(program, { encoding: 'utf8' }).stdout).toBe(`${2 ** 33 + 37} 5 1\n`)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
