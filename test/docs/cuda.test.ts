// cuda/README.md has a line for each kernel, and no other.
import { describe, expect, test } from 'vitest'
import { blocksPerMultiprocessor, committed, kernels, kernelsIn, largest, read, registersOf, table } from './cuda.js'

describe('the table of kernels', () => {
  const all = kernels()
  const { table: written, registers, nvcc } = committed(read())

  test('is the one that npm run docs:cuda writes: a line for each kernel, and none for another', () => {
    expect(table(all, registers, nvcc)).toBe(written)
  })
})

const said = '// Grid: 1. Block: 256. Shared: 0. Work: 4 bytes. Bound: latency.\n'

test.each([
  ['a plain one', `${said}__global__ void __launch_bounds__(kThreads) sum_kernel(int x) {\n`],
  [
    'a template',
    `// Why.\n${said}template <class T>\n__global__ void __launch_bounds__(f(8), 2)\n    sum_kernel(T x) {\n`,
  ],
])('a kernel and what its comment says: %s', (_, text) => {
  const [kernel] = kernelsIn('sum.cu', text)
  expect(kernel?.name).toBe('sum_kernel')
  expect(kernel?.stated).toEqual({ Grid: '1', Block: '256', Shared: '0', Work: '4 bytes', Bound: 'latency' })
})

test('a kernel whose comment does not say it is named', () => {
  const text = '// Sums.\n__global__ void sum_kernel(int x) {\n'
  expect(() => kernelsIn('sum.cu', text)).toThrow('cuda/sum.cu: the comment above sum_kernel has to end with "Grid: ')
})

test('registers of all instances of a kernel, of its own file where names repeat', () => {
  const [kernel] = kernelsIn('sum.cu', `${said}__global__ void sum_kernel(int x) {\n`)
  const instance = (file: string, name: string, registers: number) => ({ file, name, registers, architecture: 'sm_80' })
  const report = {
    nvcc: '13.0',
    kernels: [
      instance('sum.cu', 'void grpo::cuda::(anonymous namespace)::sum_kernel<float>', 40),
      instance('sum.cu', 'sum_kernel', 32),
      instance('sum.cu', 'block_sum_kernel', 90),
      instance('other.cu', 'sum_kernel', 99),
    ],
  }
  expect(registersOf(kernel as NonNullable<typeof kernel>, report)).toEqual({ sm_80: { least: 32, most: 40 } })
})

// Of NVIDIA's tables: 64 warps of 32 registers; 3 x 77,824 bytes are all of 228 KiB.
test.each([
  ['sm_80', 256, 0, 32, 8],
  ['sm_80', 256, 0, 33, 6],
  ['sm_80', 32, 0, 16, 32],
  ['sm_80', 128, 87_040, 162, 1],
  ['sm_90a', 128, 87_040, 162, 2],
  ['sm_90a', 192, 76_704, 96, 3],
  ['sm_90a', 192, 76_800, 96, 3],
  ['sm_90a', 192, 76_801, 96, 2],
  ['sm_90a', 1024, 128, 64, 1],
] as const)('%s: %i threads, %i bytes, %i registers: %i blocks', (on, threads, shared, registers, blocks) => {
  expect(blocksPerMultiprocessor(on, threads, shared, registers)).toBe(blocks)
})

test('the largest number of a field', () => {
  expect(largest('64, 256 or 1,024')).toBe(1024)
  expect(largest('76,704 or less where eight blocks can keep a row')).toBe(76704)
})
