// What the operations on rows and sequences give on device arrays for contents that the host cannot look at, and for
// arrays that begin anywhere: the other tests upload to aligned addresses, and compute with valid offsets.
import { describe, expect, test } from 'vitest'
import type { DType } from '../../lib/addon/dtypes.js'
import { array, type HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import * as lib from '../../lib/index.js'
import { backend } from '../support/backend_kind.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'

const { cuda } = lib
const up = <D extends DType>(x: HostArray<D>) => cuda.upload(x)
const i32 = (...x: number[]) => up(array(Int32Array.from(x)))
const f32 = (...x: number[]) => up(array(Float32Array.from(x)))
const numbers = (x: unknown) => Array.from((x as lib.DeviceArray).readSync().data)
const onHost = (x: unknown) => Array.from((x as HostArray).data)
const none = Number.NaN

/** A copy on the device that begins `shift` elements after an aligned address, in memory of the same dtype. */
function shifted<D extends DType>(x: HostArray<D>, shift: number) {
  const bytes = x.data.BYTES_PER_ELEMENT
  const data = new (x.data.constructor as Float32ArrayConstructor)(x.data.length + shift)
  data.set(x.data as Float32Array, shift)
  const memory = cuda.upload({ dtype: x.dtype, shape: [data.length], data } as unknown as HostArray<D>)
  const pointer = memory.pointer + BigInt(shift * bytes)
  return { memory, view: cuda.wrap({ pointer, dtype: x.dtype, shape: x.shape, device: memory.device }) }
}

describe.skipIf(backend === 'cpu')('bad contents on the device', () => {
  test('a row of NaN for an index outside, zeros where there is no NaN', () => {
    const index = () => i32(1, 2, -1, 0)
    expect(numbers(lib.gatherRows({ x: f32(5, 6), index: index() }).x)).toEqual([6, none, none, 5])
    expect(numbers(lib.gatherRows({ x: up(array(Float64Array.of(5, 6))), index: index() }).x)).toEqual([
      6,
      none,
      none,
      5,
    ])
    expect(numbers(lib.gatherRows({ x: i32(5, 6), index: index() }).x)).toEqual([6, 0, 0, 5])
    for (const [dtype, nan] of [
      ['bf16', 0x7fc0],
      ['f16', 0x7e00],
    ] as const) {
      const x = up(array(Uint16Array.of(1, 2, 3, 4), [2, 2], dtype))
      expect(numbers(lib.gatherRows({ x, index: index() }).x)).toEqual([3, 4, nan, nan, nan, nan, 1, 2])
    }
  })
  // Rows are copied in words of 1 to 16 bytes: each of them has to be the pattern of the dtype.
  test.each([
    ['f32', Float32Array, none],
    ['f64', Float64Array, none],
    ['bf16', Uint16Array, 0x7fc0],
    ['f16', Uint16Array, 0x7e00],
    ['i32', Int32Array, 0],
    ['u8', Uint8Array, 0],
  ] as const)('every element of a row of %s for an index outside is that, in rows of any width', (dtype, kind, bad) => {
    for (const D of [1, 2, 4, 8, 16, 33]) {
      const data = new kind(2 * D).fill(7)
      const x = up({ dtype, shape: [2, D], data } as unknown as HostArray)
      const rows = numbers(lib.gatherRows({ x, index: i32(2, 1, -1) }).x)
      expect(rows, `${D} columns`).toEqual([bad, 7, bad].flatMap((value) => Array<number>(D).fill(value)))
    }
  })
  test('scatterRows adds an index outside to nothing', () => {
    expect(numbers(lib.scatterRows({ x: f32(1, 2, 3), index: i32(1, 2, -1) }, { rows: 2 }).x)).toEqual([0, 1])
  })
  test('offsets that fall: sums and tokens of those sequences are NaN', () => {
    const x = () => f32(1, 2, 4, 8, 16, 32)
    expect(numbers(lib.sequenceSum({ x: x(), sequenceStart: i32(0, 2, 1, 6) }).x)).toEqual([3, none, 62])
    expect(numbers(lib.sequenceSum({ x: x(), sequenceStart: i32(0, 2, 7, 6) }).x)).toEqual([3, none, none])
    const y = lib.sequenceExpand(
      { x: f32(1, 2, 3), sequenceStart: i32(1, 2, 9, 6) },
      { out: { x: cuda.empty('f32', [6]) } },
    ).x
    expect(numbers(y)).toEqual([none, 1, none, none, none, none])
    const { x: z } = lib.discountedSum({ x: x(), sequenceStart: i32(0, 2, 1, 6) })
    const mask = () => up(array(Uint8Array.of(1, 0, 1, 1, 0, 1)))
    const masked = { sequenceStart: i32(0, 2, 1, 6), mask: mask() }
    for (const mean of [false, true]) {
      const sums = numbers(lib.sequenceSum({ x: x(), ...masked }, { mean }).x)
      expect(sums).toEqual([1, none, mean ? Math.fround(44 / 3) : 44])
      const out = { x: cuda.empty('f32', [6]) }
      const shares = numbers(lib.sequenceExpand({ x: f32(6, 7, 9), sequenceStart: i32(0, 4, 9, 6), mask: mask() }, { mean, out }).x) // biome-ignore format: one line
      expect(shares).toEqual([mean ? 2 : 6, 0, mean ? 2 : 6, mean ? 2 : 6, 0, none])
    }
    expect(numbers(z)).toEqual(Array(6).fill(none))
  })
  test('a sequence whose pieces bad offsets of others hide: a sum and shares that are NaN, and not those of fewer tokens', () => {
    const start = () => i32(0, 3072, 1024, 4096)
    const mask = () => up(array(Uint8Array.from({ length: 4096 }, (_, t) => Number(t !== 4000))))
    const sums = numbers(
      lib.sequenceSum({ x: up(array(new Float32Array(4096))), sequenceStart: start(), mask: mask() }).x,
    )
    expect(sums).toEqual([0, none, none])
    const out = { x: cuda.empty('f32', [4096]) }
    const { x } = lib.sequenceExpand({ x: f32(3072, 1, 1), sequenceStart: start(), mask: mask() }, { mean: true, out })
    expect(numbers(x)).toEqual(Array.from({ length: 4096 }, (_, t) => (t < 3072 ? 1 : t === 4000 ? 0 : none)))
  })
  test('standardize with a negative m2 or count', () => {
    for (const moments of [
      [3, 0, -1],
      [-1, 0, 1],
      [none, 0, 1],
    ]) {
      const inputs = {
        x: f32(1, 2),
        mask: up(array(Uint8Array.of(1, 0))),
        moments: up(array(Float64Array.from(moments))),
      }
      expect(numbers(call('standardize', inputs, {}).now().x)).toEqual([none, 0])
    }
  })
})

describe.skipIf(backend === 'cpu')('arrays that begin anywhere', () => {
  const r = random(11)
  const bits = (dtype: DType, n: number) => {
    const x = r.normals(n, 100)
    return dtype === 'f32' ? array(x) : array(dtype === 'bf16' ? lib.toBf16(x) : lib.toF16(x), [n], dtype)
  }
  const floats = ['f32', 'bf16', 'f16'] as const
  test.each(floats.flatMap((from) => floats.map((to) => [from, to] as const)))('convert from %s to %s', (from, to) => {
    for (const n of [1, 3, 4, 7, 1030]) {
      const x = bits(from, n)
      const y = bits(to, n)
      call('convert', { x } as never, { out: { x: y } } as never).now()
      for (const [a, b] of [
        [0, 0],
        [1, 1],
        [3, 3],
        [1, 2],
      ] as const) {
        const { view } = shifted(x as HostArray, a)
        const out = shifted({ ...y, data: y.data.slice().fill(7) } as HostArray, b)
        call('convert', { x: view } as never, { out: { x: out.view } } as never).now()
        const written = out.memory.readSync()
        expect(Array.from(written.data).slice(0, b)).toEqual(Array(b).fill(0))
        identical({ ...written, shape: [n], data: written.data.slice(b) } as HostArray, y as HostArray)
      }
    }
  })
  test.each([1, 3, 4, 8, 260, 600])('gatherRows and scatterRows of %d columns', (D) => {
    const [R, M] = [9, 21]
    const index = Int32Array.from({ length: M }, () => r.integer(R))
    for (const make of [
      (n: number) => array(r.normals(n)),
      (n: number) => array(lib.toBf16(r.normals(n)), [n], 'bf16'),
      (n: number) => array(lib.toF16(r.normals(n)), [n], 'f16'),
      (n: number) => array(Float64Array.from(r.normals(n))),
      (n: number) => array(Int32Array.from(r.normals(n, 1e9))),
      (n: number) => array(Uint8Array.from(r.uniforms(n, 0, 255))),
    ]) {
      const [x, y] = [R, M].map((rows) => ({ ...make(rows * D), shape: [rows, D] }) as HostArray) as [
        HostArray,
        HostArray,
      ]
      for (const shift of [0, 1, 2]) {
        const gathered = lib.gatherRows({ x: shifted(x, shift).view, index }).x as unknown as lib.DeviceArray
        identical(gathered.readSync(), lib.gatherRows({ x, index }).x as HostArray)
        const scattered = lib.scatterRows({ x: shifted(y, shift).view, index }, { rows: R })
          .x as unknown as lib.DeviceArray
        identical(scattered.readSync(), lib.scatterRows({ x: y, index }, { rows: R }).x as HostArray)
      }
    }
  })
})

describe.skipIf(backend === 'cpu')('sizes around those of the kernels', () => {
  test.each([254, 255, 256, 257, 300, 5000])('scatterRows of a row with %d indices, among others', (n) => {
    const index = Int32Array.from({ length: 2 * n }, (_, m) => (m % 2 === 0 ? 1 : m % 7 === 0 ? 2 : 3 + (m % 40)))
    const x = array(random(n).normals(2 * n))
    const y = lib.scatterRows({ x: up(x), index }, { rows: 50 }).x as unknown as lib.DeviceArray
    identical(y.readSync(), lib.scatterRows({ x, index }, { rows: 50 }).x as HostArray)
  })
  test('sequences around the length of a piece', () => {
    const r = random(12)
    const length = [1023, 1, 1024, 0, 1025, 2048, 0, 0, 2049, 3]
    const start = Int32Array.from([0, ...length.map((_, i) => length.slice(0, i + 1).reduce((a, b) => a + b, 0))])
    const T = start[10] as number
    const x = Float32Array.from({ length: T }, () => r.integer(9))
    const mask = r.mask(T)
    const inputs = { x: f32(...x), sequenceStart: start, mask: up(array(mask)) }
    const scores = Float32Array.from({ length: 10 }, (_, s) => s + 1)
    for (const mean of [false, true]) {
      expect(numbers(lib.sequenceSum(inputs, { mean }).x)).toEqual(
        onHost(lib.sequenceSum({ x, sequenceStart: start, mask }, { mean }).x),
      )
      for (const m of [mask, undefined]) {
        const there = { x: f32(...scores), sequenceStart: start, ...(m && { mask: up(array(m)) }) }
        const here = { x: scores, sequenceStart: start, ...(m && { mask: m }) }
        expect(numbers(lib.sequenceExpand(there, { mean }).x)).toEqual(onHost(lib.sequenceExpand(here, { mean }).x))
      }
    }
  })
  test('an infinity at the end of a long sequence reaches its beginning, however small the decay', () => {
    const x = new Float32Array(1000)
    x[999] = Infinity
    for (const decay of [1e-30, 0.5]) {
      expect(numbers(lib.discountedSum({ x: f32(...x), sequenceStart: Int32Array.of(0, 1000) }, { decay }).x)).toEqual(
        Array(1000).fill(Infinity),
      )
    }
  })
})
