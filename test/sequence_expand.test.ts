import { describe, expect, test } from 'vitest'
import { sequenceExpand } from '../lib/index.js'
import { refuses } from './support/compare.js'

// y[t] = x[s] at the unmasked tokens, 0 at the masked; divided by their number with `mean`.
describe('sequenceExpand', () => {
  const inputs = { x: Float32Array.of(6, 7, 9, 5), sequenceStart: Int32Array.of(0, 3, 3, 5, 6) }
  test('values at their tokens', () => {
    expect(Array.from(sequenceExpand(inputs).x.data)).toEqual([6, 6, 6, 9, 9, 5])
    expect(Array.from(sequenceExpand(inputs, { mean: true }).x.data)).toEqual([2, 2, 2, 4.5, 4.5, 5])
  })
  test('the masked get 0 and do not count', () => {
    const mask = Uint8Array.of(1, 0, 1, 0, 0, 1)
    expect(Array.from(sequenceExpand({ ...inputs, mask }).x.data)).toEqual([6, 0, 6, 0, 0, 5])
    expect(Array.from(sequenceExpand({ ...inputs, mask }, { mean: true }).x.data)).toEqual([3, 0, 3, 0, 0, 5])
  })
  test('the masked of a long sequence do not count', () => {
    const T = 9000 // several pieces of a GPU
    const mask = Uint8Array.from({ length: T }, (_, t) => Number(t % 7 < 3 || t > 8800))
    const counts = [0, 5, T].map((end) => mask.subarray(0, end).reduce((sum, kept) => sum + kept, 0))
    const shares = [1, 2].map((s) => (s === 1 ? 6 : 7) / ((counts[s] as number) - (counts[s - 1] as number)))
    const { x } = sequenceExpand({ x: Float32Array.of(6, 7), sequenceStart: Int32Array.of(0, 5, T), mask }, { mean: true }) // biome-ignore format: one line
    expect(x.data).toEqual(Float32Array.from(mask, (kept, t) => (kept ? (shares[t < 5 ? 0 : 1] as number) : 0)))
  })
  test('NaN and infinity stay in their sequence; no sequences', () => {
    const x = Float32Array.of(Number.NaN, 1, Number.POSITIVE_INFINITY, 2)
    expect(Array.from(sequenceExpand({ ...inputs, x }).x.data)).toEqual([
      Number.NaN,
      Number.NaN,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.POSITIVE_INFINITY,
      2,
    ])
    expect(sequenceExpand({ x: new Float32Array(0), sequenceStart: Int32Array.of(0) }).x.data.length).toBe(0)
  })
  test('T is where sequenceStart ends: a mask or an output of another length is refused', () => {
    const shape = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'sequenceStart' }
    refuses(() => sequenceExpand({ ...inputs, mask: new Uint8Array(7) }), shape)
    refuses(() => sequenceExpand(inputs, { out: { x: new Float32Array(5) } }), shape)
    refuses(() => sequenceExpand({ ...inputs, sequenceStart: Int32Array.of(0, 3, 2, 5, 6) }), shape)
  })
})

test('nothing wanted: nothing computed', () => {
  expect(sequenceExpand({ x: Float32Array.of(1), sequenceStart: Int32Array.of(0, 2) }, { out: { x: null } })).toEqual(
    {},
  )
})
