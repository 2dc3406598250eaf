// npx grpo-kernels check: on the CPU, on the interpreter, and where something is wrong.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { operationNames } from '../../lib/addon/signatures.js'
import { cases } from '../../lib/command/cases.js'
import { check } from '../../lib/command/check.js'
import { registers } from '../../lib/command/self_test.js'
import { table } from '../../lib/command/table.js'

const root = join(import.meta.dirname, '../..')
const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')

function command(words: string[], library: string, arch = '90', others: Record<string, string> = {}) {
  const env = { ...process.env, GRPO_KERNELS_CUDA: library, GRPO_SIMT_ARCH: arch, ...others }
  const program = [join(root, 'node_modules/tsx/dist/cli.mjs'), join(root, 'lib/command/command.ts')]
  return spawnSync(process.execPath, [...program, ...words], { encoding: 'utf8', env })
}

test('every operation has a case', () => {
  const checked = cases.map(({ name }) => name.split(',')[0])
  expect(operationNames.filter((name) => !name.endsWith('Plan') && !checked.includes(name))).toEqual([])
})

test('without a GPU: the CPU, and why there is no other', () => {
  const { status, stdout, stderr } = command(['check', '--json', '--quick'], '/nowhere/libgrpo_kernels_cuda.so')
  expect(stderr).toBe('')
  expect(status).toBe(0)
  const { about, operations, instructions, timings, passed } = JSON.parse(stdout)
  expect(passed).toBe(true)
  expect(about.reason).toContain('/nowhere/libgrpo_kernels_cuda.so')
  expect(about.cudaLibrary).toBe('/nowhere/libgrpo_kernels_cuda.so')
  expect(operations).toHaveLength(cases.length)
  expect(instructions).toEqual([])
  expect(timings).toHaveLength(4)
})

test.each(['80', '90'])('on the interpreter, sm_%s: operations, instructions and timings', (arch) => {
  const start = performance.now()
  const { status, stdout } = command(['check', '--json', '--quick'], simulated, arch)
  const passedSeconds = (performance.now() - start) / 1e3
  const { about, operations, instructions, timings, passed } = JSON.parse(stdout)
  expect({ status, passed }).toEqual({ status: 0, passed: true })
  expect(about).toMatchObject({ backend: 'CPU and GPU', cudaLibrary: simulated, driver: '13.0', cuda: '13.0' })
  type Line = { name: string; device?: number; seconds?: number }
  const device = (list: Line[], number = 0) => list.filter((one) => one.device === number)
  const onHostAlone = ['mergeMoments', 'treeLayout', 'tokenTree', 'convert']
  expect(device(operations).map(({ name }) => name)).toEqual(
    cases.map(({ name }) => name).filter((name) => !onHostAlone.includes(name)),
  )
  const sections = Object.keys(registers).filter((name) => arch === '90' || !['bulk', 'cluster'].includes(name))
  expect(device(instructions).map(({ name }) => name)).toEqual(sections)
  expect(device(operations, 1)).toHaveLength(device(operations).length)
  // Of the work of either GPU: longer than two marks with nothing between them, and shorter than all that was done.
  for (const number of [0, 1]) {
    const seconds = device(timings, number).map((one) => one.seconds as number)
    expect(seconds).toHaveLength(4)
    expect(Math.min(...seconds)).toBeGreaterThan(5e-6)
    expect(seconds.reduce((a, b) => a + b)).toBeLessThan(passedSeconds)
  }
})

test('a wrong result: which, and a verdict', () => {
  const [first, ...others] = cases
  const wrong = { ...first!, known: { ...first!.known, mean: [1, 5.001] } }
  const report = check(true, [wrong, ...others])
  expect(report.passed).toBe(false)
  expect(report.operations.filter(({ problem }) => problem !== undefined)).toEqual([
    { name: 'groupAdvantage', device: undefined, problem: 'mean[1] is 5, expected 5.001' },
  ])
  const text = table(report)
  expect(text).toMatch(/groupAdvantage +WRONG/)
  expect(text).toContain('groupAdvantage, CPU: mean[1] is 5, expected 5.001')
  expect(text).toMatch(/1 of \d+ are wrong\.$/)
})

const none = Number.NEGATIVE_INFINITY
test.each<[number, number, boolean]>([
  [Number.NaN, 5, false],
  [5, Number.NaN, false],
  [Number.POSITIVE_INFINITY, 5, false],
  [-Number.MAX_VALUE, none, false],
  [Number.POSITIVE_INFINITY, none, false],
  [none, none, true],
  [Number.NaN, Number.NaN, true],
  [5 + 49 * 2 ** -20, 5, true], // ten roundings at 5
  [5 + 51 * 2 ** -20, 5, false],
])('%d where %d is expected', (got, expected, passed) => {
  const one = { ...cases[0]!, run: () => ({ mean: got }), known: { mean: [expected] }, unit: 2 ** -20 }
  const report = check(true, [one])
  const problem = passed ? undefined : `mean[0] is ${got}, expected ${expected}`
  expect(report.operations[0]).toMatchObject({ device: undefined, problem })
  expect(report.passed).toBe(passed)
})
test('fewer numbers than are expected, and one that is missing', () => {
  const problemOf = (known: Record<string, number[]>) =>
    check(true, [{ ...cases[0]!, run: () => ({ mean: 5 }), known }]).operations[0]?.problem
  expect(problemOf({ mean: [5, 5] })).toBe('mean has 1 values, expected 2')
  expect(problemOf({ mean: [5], std: [1] })).toBe('std has undefined values, expected 1')
})

test('words that are no command', () => {
  expect(command(['chek'], '').stderr).toContain('there is no command chek')
  expect(command(['constructor'], '').stderr).toContain('there is no command constructor')
  expect(command(['check', '--jsn'], '').stderr).toContain("Unknown option '--jsn'")
  expect(command(['check', '--jsn'], '').status).toBe(2)
  expect(command(['--help'], '')).toMatchObject({ status: 0, stdout: expect.stringContaining('check') })
})

test('a package that cannot be loaded: one line, and a status of its own', () => {
  const { status, stdout, stderr } = command(['check', '--json'], '', '90', { GRPO_KERNELS_ISA: 'bogus' })
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  expect(stderr).toMatch(
    /^grpo-kernels check: GRPO_KERNELS_ISA is "bogus", expected one that this processor has: .*\n$/,
  )
})
