import { describe, expect, test } from 'vitest'
import { array, gatherRows, type HostArray, scatterRows } from '../lib/index.js'
import { refuses } from './support/compare.js'
import fc from './support/properties.js'

// y[m] = x[index[m]]
describe('gatherRows', () => {
  test.each([
    ['f32', new Float32Array([1, Number.NaN, 3, -0])],
    ['f64', new Float64Array([1, 2, 3, 4])],
    ['i32', new Int32Array([1, -2, 3, 4])],
    ['u8', new Uint8Array([1, 2, 255, 4])],
  ] as const)('one axis, %s', (dtype, x) => {
    const result = gatherRows({ x: array(x) as HostArray, index: Int32Array.of(3, 0, 0, 1) })
    expect(result.x.dtype).toBe(dtype)
    expect(Array.from(result.x.data)).toEqual([x[3], x[0], x[0], x[1]])
  })
  test('two axes; halves keep their bits', () => {
    const x = array(Uint16Array.of(1, 2, 3, 0x7fff, 5, 6), [3, 2], 'bf16')
    const result = gatherRows({ x, index: Int32Array.of(2, 1) })
    expect(result.x.shape).toEqual([2, 2])
    expect(Array.from(result.x.data)).toEqual([5, 6, 3, 0x7fff])
  })
  test('no index, no rows', () => {
    expect(gatherRows({ x: new Float32Array(3), index: new Int32Array(0) }).x.data.length).toBe(0)
    expect(gatherRows({ x: array(new Float32Array(0), [0, 4]), index: new Int32Array(0) }).x.shape).toEqual([0, 4])
  })
  // A thread takes 64 KiB at a time: 16384 values of f32, or one row of 20000.
  test.each([
    [50_000, 1],
    [7, 20_000],
  ])('%i rows of %i columns: more than one piece of work', (R, D) => {
    const x = array(
      Float32Array.from({ length: R * D }, (_, i) => i),
      [R, D],
    )
    const index = Int32Array.from({ length: R }, (_, m) => (m * 3 + 1) % R)
    const gathered = gatherRows({ x, index }).x.data
    const wrong = gathered.findIndex((value, i) => value !== (index[Math.floor(i / D)] as number) * D + (i % D))
    expect(wrong).toBe(-1)
  })
  test('an index outside the rows', () => {
    const value = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'index' }
    refuses(() => gatherRows({ x: new Float32Array(3), index: Int32Array.of(0, 3) }), value)
    refuses(() => gatherRows({ x: new Float32Array(3), index: Int32Array.of(-1) }), value)
  })
})

test('scatterRows is the transpose: <gather(x), y> = <x, scatter(y)>', () => {
  const whole = fc.integer({ min: -50, max: 50 })
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.nat(5), { maxLength: 9 }),
      fc.gen(),
      (R, D, picks, g) => {
        const index = Int32Array.from(picks, (p) => p % R)
        const x = Float32Array.from({ length: R * D }, () => g(() => whole))
        const y = Float32Array.from({ length: index.length * D }, () => g(() => whole))
        const gathered = gatherRows({ x: array(x, [R, D]), index }).x.data
        const scattered = scatterRows({ x: array(y, [index.length, D]), index }, { rows: R }).x.data
        const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
          Array.from(a).reduce((sum, v, i) => sum + v * (b[i] as number), 0)
        expect(dot(gathered, y)).toBe(dot(x, scattered))
      },
    ),
  )
})
