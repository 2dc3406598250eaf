import { afterEach, describe, expect, test } from 'vitest'
import { cpu, type Moments, mergeMoments, moments } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

// The float64 equation: mean = (1 / n) sum x, m2 = sum (x - mean)^2 over the unmasked x. The sum of these inputs is exact
// in float64, since they are whole multiples of 2^-10 (`grid`).
function reference(x: ArrayLike<number>, mask?: ArrayLike<number>): Moments {
  const kept = Array.from(x).filter((_, i) => mask === undefined || mask[i] !== 0)
  if (kept.length === 0) return { count: 0, mean: 0, m2: 0 }
  const mean = kept.reduce((a, b) => a + b, 0) / kept.length
  return { count: kept.length, mean, m2: kept.reduce((sum, v) => sum + (v - mean) ** 2, 0) }
}
const grid = (x: Float32Array) => x.map((v) => Math.round(v * 1024) / 1024)

/**
 * n additions of float64 err by at most n * 2^-53 of the sum of magnitudes: n |x| for the mean times n, n |x|^2 for m2. A
 * merge rounds the means seven times more. Here and in the reference.
 */
function same(actual: Moments, expected: Moments, x: ArrayLike<number>): void {
  const largest = Math.max(0, ...Array.from(x, Math.abs))
  const limit = 8 * expected.count * 2 ** -53 * largest
  expect(actual.count).toBe(expected.count)
  expect(Math.abs(actual.mean - expected.mean)).toBeLessThanOrEqual(limit)
  expect(Math.abs(actual.m2 - expected.m2)).toBeLessThanOrEqual(limit * expected.count * largest)
}

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

describe('moments', () => {
  test('golden: token whitening of REINFORCE++ with a group baseline', () => {
    const advantage = [0.625, -0.375, 0.125, -0.375, 0, 0, 0, 0]
    const length = [2, 4, 3, 1, 2, 2, 2, 2]
    const x = Float32Array.from(advantage.flatMap((a, i) => Array<number>(length[i] as number).fill(a)))
    const { count, mean, m2 } = moments({ x })
    expect(count).toBe(18)
    expect(mean).toBeCloseTo(-0.0138888889, 10)
    expect(m2 / 17).toBeCloseTo(0.089869281, 10)
  })

  test.each([1, 7, 8, 9, 1000, 16383, 16384, 16385, 50_000])('%d values against float64', (n) => {
    const r = random(n)
    const x = grid(r.normals(n, 3, 100))
    const mask = r.mask(n)
    same(moments({ x }), reference(x), x)
    same(moments({ x, mask }), reference(x, mask), x)
  })

  test('offset 1e6: two passes keep the digits', () => {
    expect(moments({ x: new Float32Array([1e6, 1e6 + 1, 1e6 + 3, 1e6 + 4]) })).toEqual({
      count: 4,
      mean: 1e6 + 2,
      m2: 10,
    })
  })

  test('equal values are exactly equal, over several blocks and under a mask', () => {
    const value = Math.fround(0.1)
    const x = new Float32Array(50_000).fill(0.1)
    expect(moments({ x })).toEqual({ count: 50_000, mean: value, m2: 0 })
    const mask = random(1).mask(50_000)
    x.forEach((_, i) => {
      if (mask[i] === 0) x[i] = i
    })
    expect(moments({ x, mask })).toEqual({ count: mask.reduce((a, b) => a + b, 0), mean: value, m2: 0 })
  })

  test('infinities that are all equal are equal: no infinity minus infinity', () => {
    const mean = Number.NEGATIVE_INFINITY
    expect(moments({ x: new Float32Array(20).fill(mean) })).toEqual({ count: 20, mean, m2: 0 })
  })

  test('0 and -0 are equal', () => {
    expect(moments({ x: new Float32Array([-0, 0, -0]) })).toMatchObject({ count: 3, m2: 0 })
  })

  test('no values, all masked', () => {
    const none = { count: 0, mean: 0, m2: 0 }
    expect(moments({ x: new Float32Array(0) })).toEqual(none)
    expect(moments({ x: new Float32Array([1, Number.NaN]), mask: new Uint8Array(2) })).toEqual(none)
  })

  test('NaN and infinity under the mask change nothing; any mask but 0 counts', () => {
    const x = new Float32Array([Number.NaN, 1, Number.POSITIVE_INFINITY, 3, Number.NEGATIVE_INFINITY])
    expect(moments({ x, mask: new Uint8Array([0, 1, 0, 255, 0]) })).toEqual({ count: 2, mean: 2, m2: 2 })
  })

  test('NaN and infinity elsewhere propagate', () => {
    expect(moments({ x: new Float32Array([1, Number.NaN, 1]) })).toEqual({ count: 3, mean: Number.NaN, m2: Number.NaN })
    expect(moments({ x: new Float32Array([Number.NaN, Number.NaN]) }).m2).toBeNaN()
    expect(moments({ x: new Float32Array([1, Number.POSITIVE_INFINITY]) })).toEqual({
      count: 2,
      mean: Number.POSITIVE_INFINITY,
      m2: Number.NaN,
    })
  })

  test('the same bits with any number of threads', () => {
    const r = random(5)
    const x = r.normals(300_000, 2, 5)
    const mask = r.mask(300_000)
    cpu.threads = 1
    const expected = moments({ x, mask })
    for (const count of [2, 3]) {
      cpu.threads = count
      expect(moments({ x, mask })).toEqual(expected)
    }
  })

  test('as a promise', async () => {
    expect(await promises.moments({ x: new Float32Array([1, 3]) })).toEqual({ count: 2, mean: 2, m2: 2 })
    expect(await promises.mergeMoments([{ count: 1, mean: 5, m2: 0 }])).toEqual({ count: 1, mean: 5, m2: 0 })
  })

  test('bad input', () => {
    const x = new Float32Array(3)
    refuses(() => moments({ x, mask: new Uint8Array(2) }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'mask',
      message: /^moments: mask has length 2, expected 3 \(N = 3 from x\)$/,
    })
    refuses(() => moments({ x: new Int32Array(3) as never }), {
      error: TypeError,
      code: 'ERR_GRPO_DTYPE',
      argument: 'x',
    })
    const out = { out: { moments: new Float64Array(3) } }
    refuses(() => moments({ x }, out as never), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'out' })
  })
})

describe('mergeMoments', () => {
  const values = fc.array(fc.integer({ min: -(2 ** 20), max: 2 ** 20 }), { maxLength: 40 })

  test('the moments of the parts are those of the whole', () => {
    fc.assert(
      fc.property(fc.array(values, { maxLength: 6 }), (parts) => {
        const merged = mergeMoments(parts.map((part) => moments({ x: Float32Array.from(part) })))
        const whole = reference(parts.flat())
        const [first] = parts.flat()
        same(merged, whole, parts.flat())
        if (parts.flat().every((v) => v === first)) expect(merged).toEqual(whole)
      }),
    )
  })

  test('sets that share a large offset', () => {
    const merged = mergeMoments([
      { count: 2, mean: 1e9, m2: 0 },
      { count: 2, mean: 1e9 + 2, m2: 0 },
    ])
    expect(merged).toEqual({ count: 4, mean: 1e9 + 1, m2: 4 })
  })

  test('equal values keep their mean', () => {
    const one = { count: 3, mean: 0.1, m2: 0 }
    expect(mergeMoments(Array(7).fill(one))).toEqual({ count: 21, mean: 0.1, m2: 0 })
  })

  test('an infinite mean, in any order', () => {
    const [one, two, more] = [5, 7, Infinity].map((mean) => ({ count: 2, mean, m2: 1 })) as [Moments, Moments, Moments]
    for (const list of [
      [one, two, more],
      [one, more, two],
      [more, one, two],
    ]) {
      expect(mergeMoments(list)).toEqual({ count: 6, mean: Infinity, m2: Number.NaN })
    }
    const all = { count: 2, mean: Infinity, m2: 0 }
    expect(mergeMoments([all, all])).toEqual({ count: 4, mean: Infinity, m2: 0 })
    expect(mergeMoments([all, { ...all, mean: -Infinity }]).mean).toBeNaN()
  })
  test('no sets, empty sets', () => {
    const none = { count: 0, mean: 0, m2: 0 }
    expect(mergeMoments([])).toEqual(none)
    expect(mergeMoments([none, { count: 1, mean: 2, m2: 0 }, none])).toEqual({ count: 1, mean: 2, m2: 0 })
  })

  test('bad input', () => {
    const kind = { error: TypeError, code: 'ERR_GRPO_TYPE' }
    refuses(() => mergeMoments({ count: 1, mean: 1, m2: 1 } as never), { ...kind, argument: 'list' })
    refuses(() => mergeMoments([{ count: 1, mean: 1, m2: 1 }, null as never]), { ...kind, argument: 'list[1]' })
    refuses(() => mergeMoments([{ count: 1, mean: 1 } as never]), { ...kind, argument: 'list[0]' })
    for (const name of ['count', 'mean', 'm2'])
      refuses(() => mergeMoments([{ count: 1, mean: 1, m2: 1, [name]: '1' }]), { ...kind, argument: 'list[0]' })
    const value = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'list[0]' }
    refuses(() => mergeMoments([{ count: -1, mean: 1, m2: 1 }]), value)
    refuses(() => mergeMoments([{ count: Number.NaN, mean: 1, m2: 1 }]), { ...value, message: /has count NaN, expected at least 0$/ }) // biome-ignore format: a row
    refuses(() => mergeMoments([{ count: 1, mean: 1, m2: -1 }]), value)
  })
})
