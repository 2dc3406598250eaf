import { describe, expect, test } from 'vitest'
import { cpu, discountedSum, sequenceSum } from '../lib/index.js'
import { accurate, golden, identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

/** y[t] = x[t] + decay y[next unmasked t]; with round = Math.fround the plain float32 sums. */
function reference(
  x: ArrayLike<number>,
  start: ArrayLike<number>,
  decay: number,
  mask?: ArrayLike<number>,
  round = (v: number) => v,
) {
  const y = Array<number>(x.length).fill(0)
  for (let s = 0; s + 1 < start.length; s++) {
    let after = 0
    for (let t = (start[s + 1] as number) - 1; t >= (start[s] as number); t--) {
      if (mask?.[t] === 0) continue
      y[t] = after = round((x[t] as number) + round(decay * after))
    }
  }
  return y
}

describe('discountedSum', () => {
  test.each([0, 0.5, 0.95, 1])('against float64, decay %d', (decay) => {
    const r = random(2)
    const sequenceStart = r.offsets(60, 45)
    const T = sequenceStart[60] as number
    const [x, mask] = [r.normals(T, 3, 1), r.mask(T)]
    for (const m of [undefined, mask]) {
      const { x: y } = discountedSum({ x, sequenceStart, mask: m }, { decay })
      accurate(y, reference(x, sequenceStart, decay, m), reference(x, sequenceStart, decay, m, Math.fround))
    }
  })

  // Of a GPU a warp has 1,056 tokens, and a lane 33 of them.
  test.each([0, 1, 31, 32, 33, 1_000, 1_055, 1_056, 1_057, 2_112, 2_113, 5_000])(
    'sequences of %d tokens, with some, one or no tokens under the mask',
    (n) => {
      const r = random(n)
      const sequenceStart = Int32Array.of(0, 2, 2 + n, 2 + 2 * n, 2 + 3 * n)
      const x = r.normals(2 + 3 * n, 3, 1)
      const last = new Uint8Array(x.length)
      last[n + 1] = 1
      for (const mask of [undefined, r.mask(x.length), last]) {
        const { x: y } = discountedSum({ x, sequenceStart, mask }, { decay: 0.999 })
        const plain = reference(x, sequenceStart, 0.999, mask, Math.fround)
        accurate(y, reference(x, sequenceStart, 0.999, mask), plain)
      }
    },
  )

  test('the future KL of FIPO, from its published recipe', () => {
    const log = (...ratios: number[]) => Float32Array.from(ratios, Math.log)
    const x = log(1.4, 1, 0.7, 0.7, 3.5, 1, 1.1)
    const { x: future } = discountedSum({ x, sequenceStart: Int32Array.of(0, 3, 7) }, { decay: 2 ** (-1 / 32) })
    golden(
      future,
      [-0.0050808598, -0.3490321354, -0.3566749439, 0.9585575245, 1.3440323094, 0.0932678792, 0.0953101798],
    )
  })

  test('decay 1, the default: what remains of the sum', () => {
    const inputs = { x: random(3).normals(500), sequenceStart: Int32Array.of(0, 7, 7, 500), mask: random(4).mask(500) }
    inputs.mask[0] = inputs.mask[7] = 1
    const { data } = discountedSum(inputs).x
    golden(sequenceSum(inputs).x, [data[0] as number, 0, data[7] as number], 1)
  })

  test('whole numbers are exact, whatever lies between the unmasked tokens', () => {
    const token = fc.tuple(fc.integer({ min: -8, max: 8 }), fc.boolean())
    fc.assert(
      fc.property(fc.array(fc.array(token, { maxLength: 20 }), { maxLength: 4 }), (sequences) => {
        const start = (list: unknown[][]) =>
          Int32Array.from([0, ...list.map((_, s) => list.slice(0, s + 1).flat().length)])
        const kept = sequences.map((list) => list.filter(([, live]) => live))
        const [all, few] = [sequences, kept].map((list) =>
          discountedSum(
            {
              x: Float32Array.from(list.flat(), ([value, live]) => (live ? value : Number.NaN)),
              mask: Uint8Array.from(list.flat(), ([, live]) => Number(live)),
              sequenceStart: start(list),
            },
            { decay: 0.5 },
          ),
        )
        const values = kept.flat().map(([value]) => value)
        expect([...few!.x.data]).toEqual(reference(values, start(kept), 0.5))
        let next = 0
        expect([...all!.x.data]).toEqual(sequences.flat().map(([, live]) => (live ? few!.x.data[next++] : 0)))
      }),
    )
  })

  test('NaN under the mask changes nothing; elsewhere it reaches the tokens before it in its sequence', () => {
    const none = Number.NaN
    const inputs = {
      x: Float32Array.of(1, none, 2, 4, none, 8, none, none, 16),
      sequenceStart: Int32Array.of(0, 4, 6, 6, 9),
      mask: Uint8Array.of(1, 0, 1, 1, 1, 1, 0, 0, 1),
    }
    expect([...discountedSum(inputs, { decay: 0.5 }).x.data]).toEqual([3, 0, 4, 4, none, 8, 0, 0, 16])
    const masked = { ...inputs, mask: new Uint8Array(9) }
    expect(discountedSum(masked).x.data.every((v) => Object.is(v, 0))).toBe(true)
  })

  // The fourth power of 1e-81, the factor of a block of the CPU, is 0 in float64.
  test.each([1e-300, 1e-100, 1e-81, 1e-75, 1e-3, 0.5, 1])(
    'infinity reaches every token before it, however small decay^n: %d',
    (decay) => {
      const n = 300
      for (const value of [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]) {
        const x = new Float32Array(2 * n).fill(1)
        x[n - 1] = value
        const { data } = discountedSum({ x, sequenceStart: Int32Array.of(0, n, 2 * n) }, { decay }).x
        expect(data.findIndex((y) => !Object.is(y, value))).toBe(n)
        expect(data.subarray(n).every(Number.isFinite)).toBe(true)
        // Nor does a mask move: token 5 of each sequence is left out, whatever it holds.
        const mask = Uint8Array.from(x, (_, i) => Number(i % n !== 5))
        x[5] = x[n + 5] = Number.NaN
        const masked = discountedSum({ x, sequenceStart: Int32Array.of(0, n, 2 * n), mask }, { decay }).x.data
        expect([...masked.subarray(0, n)]).toEqual(Array.from({ length: n }, (_, i) => (i === 5 ? 0 : value)))
        expect(masked[n + 5]).toBe(0)
        expect(masked.subarray(n).every(Number.isFinite)).toBe(true)
      }
    },
  )

  test('a sequence gets the same bits wherever it stands, on any number of threads', () => {
    const x = random(5).normals(100_003)
    const alone = discountedSum({ x: x.slice(3), sequenceStart: Int32Array.of(0, 100_000) }, { decay: 0.99 })
    const before = cpu.threads
    for (const threads of [1, 3]) {
      cpu.threads = threads
      const both = discountedSum({ x, sequenceStart: Int32Array.of(0, 3, 100_003) }, { decay: 0.99 })
      identical({ ...both.x, shape: [100_000], data: both.x.data.slice(3) } as typeof both.x, alone.x)
    }
    cpu.threads = before
  })

  test('no tokens, and offsets that do not end with T', () => {
    expect(discountedSum({ x: new Float32Array(0), sequenceStart: Int32Array.of(0, 0) }).x.data.length).toBe(0)
    const inputs = { x: new Float32Array(3), sequenceStart: Int32Array.of(0, 2) }
    refuses(() => discountedSum(inputs), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'sequenceStart' })
  })
})
