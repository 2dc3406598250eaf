// The C interface of the CPU as other languages have it: c_interface.c, against the addon, which exports it too. What
// asks for the library itself runs in `npm run test:library`.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { expect, test } from 'vitest'

const addon = join(__dirname, '../../build/Release/grpo_kernels.node')

test.skipIf(process.platform !== 'linux')('calls from C', () => {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-c-'))
  const run = (program: string, ...given: string[]) => {
    const { stdout, stderr, status, error } = spawnSync(program, given, { encoding: 'utf8' })
    expect({ stderr, status, error }, program).toEqual({ stderr: '', status: 0, error: undefined })
    return stdout
  }
  try {
    // The program stands in for Node, of which the addon asks for functions that no call from C reaches.
    const missing = run('nm', '-D', '--undefined-only', addon).match(/napi_\w+/g) ?? []
    const [node, program] = [join(folder, 'node.c'), join(folder, 'c_interface')]
    writeFileSync(node, missing.map((name) => `void ${name}(void) {}\n`).join(''))
    const sources = [join(__dirname, 'c_interface.c'), node, addon]
    run(
      'cc',
      '-std=c11',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-rdynamic',
      '-o',
      program,
      ...sources,
      `-Wl,-rpath,${dirname(addon)}`,
      '-lm',
    )
    expect(run(program)).toBe('the C interface works\n')
  } finally {
    rmSync(folder, { recursive: true })
  }
})
