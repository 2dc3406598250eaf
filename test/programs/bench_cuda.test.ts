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
  test('a plan needs no GPU: work, registers and floors of every kernel, and predictions called so', () => {
    const { status, stdout, stderr } = bench(['--plan'], join(root, 'no-such-library.so'))
    expect(stderr).toBe('')
    expect(status).toBe(0)
    expect(stdout).toContain('Predictions for an H200, of counts: nothing is measured.')
    expect(stdout).toMatch(/registers +blocks +bytes +products +special +slots +floor +predicted/)
    // A kernel without registers is none of cuda/README.md: renamed, or its file.
    expect(stdout).not.toContain('?')
    // The floors of reading and writing logits once, and of three products.
    expect(stdout).toMatch(/one_read_kernel .* 9\.96 GB .* 2\.32 ms/)
    expect(stdout).toMatch(/matmul_mma_kernel .* 77\.4 ms/)
  })

  test('a plan of one operation, and a disassembler that is not there', () => {
    const { stdout } = bench(['--plan', '--only', 'gather_rows'], '')
    expect(stdout.match(/_kernel/g)).toHaveLength(1)
    const { status, stderr } = bench(['--plan', '--disassembler', '/nowhere/nvdisasm'], '')
    expect(stderr).toContain('there is no disassembler /nowhere/nvdisasm')
    expect(status).toBe(1)
  })

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
