import { describe, expect, test } from 'vitest'
import { array, cpu, fromBf16, fromF16, scatterRows, toBf16, toF16 } from '../lib/index.js'
import { cpuTest } from './support/backend_kind.js'
import { exactly, identical, refuses } from './support/compare.js'
import { random } from './support/random.js'

// y[r] = sum of x[m] with index[m] = r, in the order of m.
describe('scatterRows', () => {
  test('rows that meet are added, rows without an index are 0', () => {
    const x = array(Float32Array.of(1, 2, 3, 4, 5, 6), [3, 2])
    expect(Array.from(scatterRows({ x, index: Int32Array.of(2, 0, 2) }, { rows: 4 }).x.data)).toEqual([
      3, 4, 0, 0, 6, 8, 0, 0,
    ])
  })
  test('in the order of m: float32 additions, to the bit', () => {
    const values = random(1).normals(200)
    const expected = values.reduce((sum, v) => Math.fround(sum + v), 0)
    expect(scatterRows({ x: values, index: new Int32Array(200) }, { rows: 1 }).x.data[0]).toBe(expected)
  })
  test('rows that few and that very many indices name, side by side', () => {
    // A GPU sorts lists of up to 256 indices, a warp for each row; longer ones it looks for.
    const r = random(7)
    const counts = [3, 257, 40, 256, 0, 300, 255, 258, 257, 257]
    const index = Int32Array.from(counts.flatMap((count, row) => new Array<number>(count).fill(row))) // biome-ignore format: short
    for (let m = index.length - 1; m > 0; m--) {
      const other = r.integer(m + 1)
      const [a, b] = [index[m] as number, index[other] as number]
      index[m] = b
      index[other] = a
    }
    const x = r.normals(index.length)
    const expected = new Float32Array(counts.length)
    x.forEach((value, m) => (expected[index[m] as number]! += value)) // biome-ignore format: short
    expect(scatterRows({ x, index }, { rows: counts.length }).x.data).toEqual(expected)
  })
  // Of a GPU a lane loads 16 bytes where rows begin at multiples of that, and has up to four of them.
  test.each([1, 7, 8, 255, 256, 1_024, 1_032, 2_056])('rows of %d columns, of every dtype', (D) => {
    const r = random(D)
    const index = Int32Array.from({ length: 300 }, (_, m) => (m < 270 ? 1 : [0, 3, 0, 2][r.integer(4)]) as number)
    const whole = Array.from({ length: index.length * D }, () => r.integer(3)) // sums are exact
    const expected = Array<number>(4 * D).fill(0)
    whole.forEach((value, i) => {
      const row = index[Math.floor(i / D)] as number
      expected[row * D + (i % D)] = (expected[row * D + (i % D)] as number) + value
    })
    const shape = [index.length, D]
    const floats = Float32Array.from(whole)
    const sums = (x: Parameters<typeof scatterRows>[0]['x']) => scatterRows({ x, index }, { rows: 4 }).x.data
    expect(Array.from(sums(array(floats, shape)))).toEqual(expected)
    expect(Array.from(sums(array(Float64Array.from(whole), shape)))).toEqual(expected)
    expect(Array.from(sums(array(Int32Array.from(whole), shape)))).toEqual(expected)
    expect(Array.from(sums(array(Uint8Array.from(whole), shape)))).toEqual(expected.map((sum) => sum % 256))
    expect(Array.from(fromF16(sums(array(toF16(floats), shape, 'f16')) as Uint16Array))).toEqual(expected)
    const rounded = fromBf16(toBf16(Float32Array.from(expected)))
    expect(fromBf16(sums(array(toBf16(floats), shape, 'bf16')) as Uint16Array)).toEqual(rounded)
  })
  test('halves are added in float32 and rounded once', () => {
    const ones = toF16(new Float32Array(3000).fill(1)) // beyond 2048, half + 1 is half
    expect(
      fromF16(
        scatterRows({ x: array(ones, [3000], 'f16'), index: new Int32Array(3000) }, { rows: 1 }).x.data as Uint16Array,
      )[0],
    ).toBe(3000)
    const thirds = toBf16(new Float32Array(7).fill(1 / 3))
    const sum = scatterRows({ x: array(thirds, [7], 'bf16'), index: new Int32Array(7) }, { rows: 2 }).x
    expect(Array.from(sum.data)).toEqual([...toBf16(Float32Array.of((7 * 171) / 512)), 0])
  })
  test('whole numbers wrap, float64 keeps its digits', () => {
    const index = Int32Array.of(0, 0)
    expect(scatterRows({ x: Int32Array.of(2 ** 31 - 1, 1), index }, { rows: 1 }).x.data[0]).toBe(-(2 ** 31))
    expect(scatterRows({ x: Uint8Array.of(255, 2), index }, { rows: 1 }).x.data[0]).toBe(1)
    expect(scatterRows({ x: Float64Array.of(1, 2 ** -50), index }, { rows: 1 }).x.data[0]).toBe(1 + 2 ** -50)
  })
  test('any number of threads gives the same bits', () => {
    const r = random(5)
    const inputs = {
      x: array(r.normals(4000), [1000, 4]),
      index: Int32Array.from({ length: 1000 }, () => r.integer(17)),
    }
    const first = scatterRows(inputs, { rows: 17 })
    const before = cpu.threads
    for (const threads of [1, 2, 5]) {
      cpu.threads = threads
      identical(scatterRows(inputs, { rows: 17 }).x, first.x)
    }
    cpu.threads = before
  })
  cpuTest('threads that add at the same time do not meet, of halves nor of float32', () => {
    const [M, R, D] = [12, 4, 2 ** 19] // a row takes so long that threads meet in it, however few processors there are
    const values = toBf16(random(6).normals(M * D))
    const index = Int32Array.from({ length: M }, (_, m) => m % R)
    const exact = fromBf16(values)
    const sum = new Float32Array(R * D)
    exact.forEach((value, i) => {
      const at = (Math.floor(i / D) % R) * D + (i % D)
      sum[at] = (sum[at] as number) + value
    })
    const before = cpu.threads
    cpu.threads = 4
    for (const [x, expected] of [
      [array(values, [M, D], 'bf16'), array(toBf16(sum), [R, D], 'bf16')],
      [array(exact, [M, D]), array(sum, [R, D])],
    ] as const)
      for (let round = 0; round < 3; round++) identical(scatterRows({ x, index }, { rows: R }).x, expected)
    cpu.threads = before
  })
  test('no rows; an index outside; rows missing; an output of another size', () => {
    expect(scatterRows({ x: new Float32Array(0), index: new Int32Array(0) }, { rows: 0 }).x.data.length).toBe(0)
    const inputs = { x: Float32Array.of(1), index: Int32Array.of(2) }
    refuses(() => scatterRows(inputs, { rows: 2 }), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'index' })
    refuses(() => scatterRows(inputs, {} as never), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'rows' })
    // Beyond what an axis may have: at fault are the rows, not the output that they size, wherever it lies.
    for (const rows of [2 ** 31, 2 ** 53 - 1])
      for (const out of [undefined, { x: null }])
        refuses(() => scatterRows(inputs, { rows, ...(out && { out }) }), {
          error: RangeError,
          code: 'ERR_GRPO_OPTION',
          argument: 'rows',
          message: exactly(`scatterRows: rows is ${rows}, expected 0 to 2147483647`),
        })
    refuses(() => scatterRows(inputs, { rows: 3, out: { x: new Float32Array(4) } }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'x',
    })
  })
})
