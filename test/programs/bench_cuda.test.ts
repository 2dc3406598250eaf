// The benchmark of the CUDA kernels where there is no GPU: it refuses, and its ctypes layer agrees with the library.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(__dirname, '..', '..')

const bench = (flags: string[], GRPO_KERNELS_CUDA: string) =>
  spawnSync('node', [join(root, 'bench/cuda.mjs'), ...flags], {
    encoding: 'utf8',
    env: { ...process.env, GRPO_KERNELS_CUDA },
  })

const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')
const hasNumpy = spawnSync('python3', ['-c', 'import numpy'], { stdio: 'ignore' }).status === 0

describe('bench:cuda', () => {
  test('without a library says so and fails', () => {
    const { status, stderr } = bench(['--smoke'], join(root, 'no-such-library.so'))
    expect(stderr).toContain('npm run build:cuda makes the library')
    expect(status).toBe(1)
  })

  test('refuses a library that is named by no absolute path', () => {
    const { status, stderr } = bench(['--smoke'], 'build-simt/libgrpo_kernels_cuda.so')
    expect(stderr).toContain('GRPO_KERNELS_CUDA is "build-simt/libgrpo_kernels_cuda.so", expected an absolute path')
    expect(status).toBe(1)
  })

  if (hasNumpy && existsSync(simulated)) {
    test('reads the descriptors and calls the simulated library through ctypes', () => {
      const { status, stdout, stderr } = bench(['--simulate'], simulated)
      expect(stderr).toBe('')
      const checks = JSON.parse(stdout) as { operation: string; errors: Record<string, number>; right: boolean }[]
      expect(checks.map(({ operation, right }) => [operation, right])).toEqual([
        ['group_advantage', true],
        ['policy_loss', true],
      ])
      expect(Object.keys(checks[0]!.errors)).toEqual(['advantage', 'mean', 'std'])
      expect(status).toBe(0)
    })
  }
})
