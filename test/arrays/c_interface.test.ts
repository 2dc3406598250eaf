// The CUDA library as other languages have it: c_interface.c, on a simulated GPU. Of the CPU's, npm run test:library.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const simulated = join(__dirname, '../../build-simt/libgrpo_kernels_cuda.so')

test.skipIf(!existsSync(simulated))(
  'calls from C, with tensors that begin behind their memory, and on a stream',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-'))
    try {
      const program = join(folder, 'c_interface')
      const flags = ['-std=c11', '-Wall', '-Wextra', '-Werror', '-D_GNU_SOURCE', '-o', program]
      const compiler = spawnSync('cc', [...flags, join(__dirname, 'c_interface.c'), '-ldl'], { encoding: 'utf8' })
      expect(compiler.stderr).toBe('')
      const env = { ...process.env, GRPO_SIMT_STREAMS: '1' }
      const { stdout, stderr, status } = spawnSync(program, [simulated], { encoding: 'utf8', env })
      expect({ stdout, stderr, status }).toEqual({
        stdout: 'the C interface of the CUDA library works\n',
        stderr: '',
        status: 0,
      })
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
)
