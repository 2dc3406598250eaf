import { afterEach, describe, expect, test } from 'vitest'
import { cpu, type Moments, mergeMoments, moments, type StandardizeOptions, standardize } from '../lib/index.js'
import { reference } from './references/standardize.js'
import { accurate, golden, identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

type Options = Omit<StandardizeOptions, 'moments'>

const whiten = (x: Float32Array, options: Options = {}, mask?: Uint8Array) =>
  standardize({ x, mask }, { ...options, moments: moments({ x, mask }) }).x

const repeat = (list: number[], times: number[]) =>
  Float32Array.from(list.flatMap((v, i) => Array<number>(times[i] as number).fill(v)))

const options: Options[] = []
for (const ddof of [0, 1])
  for (const epsUnderRoot of [false, true])
    for (const center of [true, false]) options.push({ ddof, epsUnderRoot, center, eps: 0.01 })

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

describe('golden numbers', () => {
  const length = [2, 4, 3, 1, 2, 2, 2, 2]
  const verl = { eps: 1e-8, epsUnderRoot: true }
  test.each<[string, Options, number[], number[], number[]]>([
    [
      'REINFORCE++ baseline (verl, token whitening)',
      verl,
      [0.625, -0.375, 0.125, -0.375, 0, 0, 0, 0],
      length,
      [2.1311777704, -1.2045787398, 0.4632995153, -1.2045787398, ...Array(4).fill(0.0463299515)],
    ],
    [
      'OpenRLHF reinforce_baseline (population variance)',
      { ddof: 0, eps: 0 },
      [0.625, -0.375, 0.125, -0.375, 0, 0, 0, 0],
      length,
      [2.1929639552, -1.239501366, 0.4767312946, -1.239501366, ...Array(4).fill(0.04767313)],
    ],
    [
      'REINFORCE++ (gamma 1)',
      verl,
      [1, 0, 0.5, 0, 1, 1, 1, 1],
      length,
      [0.8071393263, -1.4280157289, -0.3104382013, -1.4280157289, ...Array(4).fill(0.8071393263)],
    ],
    [
      'a tree of segments, average mode',
      verl,
      [0.5, -0.5, 0.25, 0.25, -0.5, -0.5],
      [2, 3, 1, 2, 4, 2],
      [1.62175449643, -0.706918626648, 1.03958621566, 1.03958621566, -0.706918626648, -0.706918626648],
    ],
    [
      'a tree of segments, group size mode',
      verl,
      [0.5, -0.5, 0.375, 0.375, -0.5, -0.5],
      [2, 3, 1, 2, 4, 2],
      [1.45096029863, -0.715807080655, 1.18011437622, 1.18011437622, -0.715807080655, -0.715807080655],
    ],
  ])('%s', (_, o, values, times, expected) => {
    golden(whiten(repeat(values, times), o), repeat(expected, times), 1)
  })
})

test('golden: segments, whitened over masked tokens only', () => {
  const x = new Float32Array([0, 0.2, 0.2, 0.2, -0.4, -0.4, -0.4, 0.8])
  const mask = new Uint8Array([0, 1, 0, 1, 1, 0, 1, 1])
  const [high, low, top] = [0.239045717124, -0.956182868496, 1.43427430274]
  golden(whiten(x, { epsUnderRoot: true }, mask), [0, high, 0, high, low, 0, low, top], 1)
})

describe('against float64', () => {
  test.each(options)('%j', (o) => {
    const r = random(3)
    const x = r.normals(1000, 2, 3)
    for (const mask of [undefined, r.mask(1000)]) {
      const given = moments({ x, mask })
      accurate(
        standardize({ x, mask }, { ...o, moments: given }).x,
        reference(x, mask, given, o),
        reference(x, mask, given, o, Math.fround),
      )
    }
  })

  test('offset 1e6', () => {
    const x = new Float32Array([1e6, 1e6 + 1, 1e6 + 3, 1e6 + 0.5])
    golden(whiten(x), reference(x, undefined, moments({ x })), 1)
  })
})

describe('edges', () => {
  test('a standard deviation of exactly 0 divides nothing', () => {
    expect(Array.from(whiten(new Float32Array(9).fill(0.1)).data)).toEqual(Array(9).fill(0))
    const x = new Float32Array([3])
    expect(Array.from(whiten(x).data)).toEqual([0])
    expect(Array.from(whiten(x, { center: false }).data)).toEqual([3])
    expect(Array.from(whiten(x, { ddof: 0, epsUnderRoot: true }).data)).toEqual([0])
  })
  test('one standard deviation is exactly 1', () => {
    const given = { count: 3, mean: 0.1, m2: 2 * 0.3 ** 2 }
    const [one] = standardize({ x: new Float32Array([0.4]) }, { moments: given, eps: 0 }).x.data
    expect(one).toBe(Math.fround((Math.fround(0.4) - 0.1) / Math.sqrt(0.3 ** 2)))
  })
  test('masked values are 0, NaN and infinity included, and elsewhere those propagate', () => {
    const x = new Float32Array([Number.NaN, 1, Number.NEGATIVE_INFINITY, 3, -5])
    const mask = new Uint8Array([0, 1, 0, 255, 0])
    const [a, b] = whiten(new Float32Array([1, 3])).data
    expect(Array.from(whiten(x, {}, mask).data)).toEqual([0, a, 0, b, 0])
    const loose = standardize({ x }, { moments: { count: 2, mean: 1, m2: 1 } }).x.data
    expect(Array.from(loose, Number.isFinite)).toEqual([false, true, false, true, true])
  })
  test('no values, all masked, moments of no values', () => {
    expect(whiten(new Float32Array(0)).data.length).toBe(0)
    const x = new Float32Array([1, 2])
    expect(Array.from(whiten(x, {}, new Uint8Array(2)).data)).toEqual([0, 0])
    expect(Array.from(standardize({ x }, { moments: { count: 0, mean: 0, m2: 0 } }).x.data)).toEqual([1, 2])
  })
  test('any number of threads, and an output of the caller', () => {
    const r = random(9)
    const x = r.normals(200_000)
    const mask = r.mask(200_000)
    const expected = whiten(x, {}, mask)
    cpu.threads = 1
    identical(whiten(x, {}, mask), expected)
    cpu.threads = 3
    const out = new Float32Array(200_000).fill(7)
    const written = standardize({ x, mask }, { moments: moments({ x, mask }), out: { x: out } }).x
    expect(written.data).toBe(out)
    identical(written, expected)
  })
})

describe('properties', () => {
  const lists = fc.array(fc.array(fc.integer({ min: -1000, max: 1000 }), { maxLength: 12 }), { maxLength: 5 })

  test('ranks that merge their moments whiten as one batch', () => {
    fc.assert(
      fc.property(lists, (ranks) => {
        const merged = mergeMoments(ranks.map((rank) => moments({ x: Float32Array.from(rank) })))
        const parts = ranks.flatMap((rank) =>
          Array.from(standardize({ x: Float32Array.from(rank) }, { moments: merged }).x.data),
        )
        const whole = whiten(Float32Array.from(ranks.flat()))
        // The float64 statistics differ in their last digits, which float32 shows in its own last digit at most.
        parts.forEach((v, i) =>
          expect(Math.abs(v - whole.data[i]!)).toBeLessThanOrEqual(2 ** -22 * Math.max(1, Math.abs(v))),
        )
      }),
    )
  })
  test('whitened values have mean 0 and variance 1', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 2, maxLength: 50 }), (list) => {
        const { count, mean, m2 } = moments({ x: whiten(Float32Array.from(list), { eps: 0 }).data })
        const equal = list.every((v) => v === list[0])
        // Each value is rounded once to float32: relative 2^-24 of at most sqrt(count).
        expect(Math.abs(mean)).toBeLessThanOrEqual(2 ** -24 * Math.sqrt(count))
        expect(Math.abs(m2 / (count - 1) - (equal ? 0 : 1))).toBeLessThanOrEqual(2 ** -22)
      }),
    )
  })
})

describe('bad input', () => {
  const x = new Float32Array(3)
  const given: Moments = { count: 3, mean: 0, m2: 1 }
  test('moments', () => {
    const kind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'moments' }
    refuses(() => standardize({ x }, undefined as never), kind)
    refuses(() => standardize({ x }, {} as never), kind)
    refuses(() => standardize({ x }, { moments: new Float64Array(3) as never }), kind)
    const value = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'moments' }
    refuses(() => standardize({ x }, { moments: { ...given, count: -1 } }), value)
    refuses(() => standardize({ x }, { moments: { ...given, count: Number.NaN } }), value)
    refuses(() => standardize({ x }, { moments: { ...given, m2: -1e-9 } }), value)
  })
  test('options and shapes', () => {
    const option = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_OPTION', argument })
    refuses(() => standardize({ x }, { moments: given, ddof: 2 }), option('ddof'))
    refuses(() => standardize({ x }, { moments: given, eps: -1 }), option('eps'))
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
    refuses(() => standardize({ x, mask: new Uint8Array(4) }, { moments: given }), { ...shape, argument: 'mask' })
    refuses(() => standardize({ x }, { moments: given, out: { x: new Float32Array(2) } }), { ...shape, argument: 'x' })
  })
})
