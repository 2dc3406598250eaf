// npm run bench -- --assert: which rows count as fallen.
import { expect, test } from 'vitest'
import { compare, type Shares, sharesOf } from '../../bench/baseline.js'
import type { Results } from '../../bench/results.js'

const shares = (rows: Shares['rows'], machine = 'here'): Shares => ({ machine, rows })

test('a row falls below 80 % of its share, not at it', () => {
  const baseline = shares({ a: { limit: 'copy', share: 0.5 }, b: { limit: 'multiply', share: 0.5 } })
  const now = shares({ a: { limit: 'copy', share: 0.4 }, b: { limit: 'multiply', share: 0.39 } })
  const { fallen, without, otherMachine } = compare(baseline, now)
  expect(fallen).toEqual(['b: 39.0 % of the multiply rate, 50.0 % in the baseline; at least 40.0 % is expected'])
  expect(without).toEqual([])
  expect(otherMachine).toBe(undefined)
})

test('rows that only one side has, another limit, another machine, and a share that is no number', () => {
  const baseline = shares({ gone: { limit: 'copy', share: 1 }, c: { limit: 'copy', share: 1 } }, 'there')
  const now = shares({ fresh: { limit: 'copy', share: 1 }, c: { limit: 'exponential', share: 0.1 } })
  expect(compare(baseline, now)).toEqual({ fallen: [], without: ['fresh', 'c'], otherMachine: 'there' })
  const nothing = shares({ c: { limit: 'copy', share: Number.NaN } }, 'there')
  expect(compare(baseline, nothing).fallen).toHaveLength(1)
})

test('a row is held to products where it multiplies, to exponentials of logits, else to copies; peers to nothing', () => {
  const row = { ours: true, median: 1, p10: 1, p90: 1, samples: 3, times: 1, shareOfCopy: 0.1 }
  const rows = [
    { ...row, name: 'grpo-kernels' },
    { ...row, name: 'products', shareOfMultiply: 0.3 },
    { ...row, name: 'logits', shareOfExponential: 2 },
    { ...row, name: 'PyTorch', ours: false },
  ]
  const cases = [{ operation: 'f', size: '3 rows', dtype: 'f32', rows, skipped: [] }]
  const machine = { cpu: 'a processor', instructionSet: 'avx2', threads: 2 }
  const multiply = { f32: { rate: 1, how: 'PyTorch 1, 512 x 512' } }
  expect(sharesOf({ machine, multiply, cases } as unknown as Results)).toEqual({
    machine: 'a processor, avx2, 2 threads, products of PyTorch 1',
    rows: {
      'f: 3 rows: f32: grpo-kernels': { limit: 'copy', share: 0.1 },
      'f: 3 rows: f32: products': { limit: 'multiply', share: 0.3 },
      'f: 3 rows: f32: logits': { limit: 'exponential', share: 2 },
    },
  })
})
