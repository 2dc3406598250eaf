import { describe, expect, test } from 'vitest'
import { cpu, sequenceExpand, sequenceSum } from '../lib/index.js'
import { accurate, golden, identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

/** Sum or mean over the unmasked tokens of each sequence; with round = Math.fround the plain float32 sum. */
function reference(x: ArrayLike<number>, start: Int32Array, mask?: Uint8Array, mean = false, round = (v: number) => v) {
  return Array.from({ length: start.length - 1 }, (_, s) => {
    let [sum, count] = [0, 0]
    for (let t = start[s] as number; t < (start[s + 1] as number); t++) {
      if (mask?.[t] === 0) continue
      sum = round(sum + (x[t] as number))
      count++
    }
    return mean && count > 0 ? round(sum / count) : sum
  })
}

describe('sequenceSum', () => {
  test.each([false, true])('against float64, mean %j', (mean) => {
    const r = random(2)
    const sequenceStart = r.offsets(50, 40)
    const T = sequenceStart[50] as number
    const [x, mask] = [r.normals(T, 3, 1), r.mask(T)]
    for (const m of [undefined, mask]) {
      const result = sequenceSum({ x, sequenceStart, mask: m }, { mean })
      accurate(result.x, reference(x, sequenceStart, m, mean), reference(x, sequenceStart, m, mean, Math.fround))
    }
  })
  test.each([false, true])(
    'a sequence of several blocks, and the same bits on any number of threads, mean %j',
    (mean) => {
      const n = 300_000
      const inputs = { x: random(3).normals(n, 1, 1), sequenceStart: Int32Array.of(0, 7, n), mask: random(4).mask(n) }
      const first = sequenceSum(inputs, { mean })
      golden(first.x, reference(inputs.x, inputs.sequenceStart, inputs.mask, mean), 1)
      const before = cpu.threads
      for (const threads of [1, 3]) {
        cpu.threads = threads
        identical(sequenceSum(inputs, { mean }).x, first.x)
      }
      cpu.threads = before
    },
  )
  test('empty and fully masked sequences are 0; NaN under the mask changes nothing; NaN elsewhere stays in its sequence', () => {
    const x = Float32Array.of(1, Number.NaN, 2, Number.NaN, 3, Number.NaN)
    const inputs = { x, sequenceStart: Int32Array.of(0, 0, 3, 4, 6), mask: Uint8Array.of(1, 0, 1, 0, 1, 1) }
    for (const mean of [false, true]) {
      expect(Array.from(sequenceSum(inputs, { mean }).x.data)).toEqual([0, mean ? 1.5 : 3, 0, Number.NaN])
    }
    expect(sequenceSum({ x: new Float32Array(0), sequenceStart: Int32Array.of(0) }).x.data.length).toBe(0)
  })
  test('an offset that does not end with T', () => {
    const inputs = { x: new Float32Array(3), sequenceStart: Int32Array.of(0, 2) }
    refuses(() => sequenceSum(inputs), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'sequenceStart' })
  })
})

test('sequenceExpand is the transpose of sequenceSum: <sum(x), y> = <x, expand(y)>', () => {
  const whole = fc.integer({ min: -8, max: 8 })
  const sequences = fc.array(fc.array(fc.tuple(whole, fc.boolean()), { maxLength: 5 }), { maxLength: 5 })
  fc.assert(
    fc.property(sequences, fc.array(whole, { minLength: 5, maxLength: 5 }), (list, weights) => {
      const tokens = list.flat()
      const x = Float32Array.from(tokens, ([value]) => value)
      const mask = Uint8Array.from(tokens, ([, kept]) => Number(kept))
      const sequenceStart = Int32Array.from([0, ...list.map((_, s) => list.slice(0, s + 1).flat().length)])
      const y = Float32Array.from(weights.slice(0, list.length))
      const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
        Array.from(a).reduce((sum, v, i) => sum + v * (b[i] as number), 0)
      expect(dot(sequenceSum({ x, sequenceStart, mask }).x.data, y)).toBe(
        dot(x, sequenceExpand({ x: y, sequenceStart, mask }).x.data),
      )
    }),
  )
})
