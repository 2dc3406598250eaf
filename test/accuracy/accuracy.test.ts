import { expect, test } from 'vitest'
import { accuracyTable } from './accuracy.js'
import { few, relativeError, rows } from './rows.js'

// Sums over a vocabulary are wider than those of the plain formula: no result may lie further from float64 than its, but
// for the last digit of what is rounded once, and none as far as arithmetic in bf16.
test('no result lies further from float64 than the plain float32 formula', () => {
  const measured = rows((operation) => operation, few)
  expect(measured).toHaveLength(26)
  for (const { operation, output, size, ours, plain, rounded = Infinity } of measured) {
    const name = `${output} of ${operation}, ${size}`
    expect(ours, name).toBeLessThanOrEqual(Math.max(1.05 * plain, 2 ** -24))
    expect(ours, name).toBeLessThan(rounded)
  }
})

test('an error is a root mean square over that of the exact numbers', () => {
  expect(relativeError([3, 4, 1], [3, 4, 0])).toBe(0.2)
  expect(relativeError([2, -2], [1, -1])).toBe(1)
})

test('a table has a column for the CUDA kernels where they were measured', () => {
  const row = { operation: 'policyLoss', size: '8 tokens', output: 'loss', ours: 1.5e-8, plain: 3e-7 }
  const given = { date: '2026-12-01', machine: 'a machine', rows: [row] }
  expect(accuracyTable(given, given.rows)).toBe(
    '| operation | output | CPU | plain float32 | others |\n| --- | --- | --- | --- | --- |\n' +
      '| `policyLoss`, 8 tokens | `loss` | 1.50e-8 | 3.00e-7 | - |',
  )
  const both = [{ ...row, cuda: 2e-8, rounded: 2e-3, others: 'in bf16' }]
  expect(accuracyTable({ ...given, cuda: 'on the interpreter' }, both).split('\n')[2]).toBe(
    '| `policyLoss`, 8 tokens | `loss` | 1.50e-8 | 2.00e-8 | 3.00e-7 | 2.00e-3, in bf16 |',
  )
})
