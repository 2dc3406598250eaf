// Ids, rows and offsets in the containers that other libraries hand over: 64 bits, lists, strings; and halves as the
// engine's own type. What is taken gives the bits of the same call with an Int32Array; what is not is told what to do.
import { describe, expect, test } from 'vitest'
import * as api from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { identical, refuses } from '../support/compare.js'

const f32 = (...values: number[]) => Float32Array.from(values)
const i32 = (...values: number[]) => Int32Array.from(values)
const i64 = (...values: number[]) => BigInt64Array.from(values, BigInt)
const kind = { error: TypeError, code: 'ERR_GRPO_TYPE' }
const content = { error: RangeError, code: 'ERR_GRPO_VALUE' }

describe.each([
  ['a BigInt64Array', i64],
  ['a list', (...values: number[]) => values],
] as const)('%s', (_, of) => {
  test('as offsets', () => {
    const x = f32(1, 2, 3)
    identical(api.sequenceSum({ x, sequenceStart: of(0, 1, 3) }).x, api.array(f32(1, 5)))
    const groups = { rewards: f32(1, 0, 0.5), groupStart: i32(0, 1, 3) }
    const expected = api.groupAdvantage(groups)
    identical(api.groupAdvantage({ ...groups, groupStart: of(0, 1, 3) }).advantage, expected.advantage)
  })

  test('as tokens and rows, also where -1 is masked', () => {
    const logits = api.array(f32(1, 2, 3, 4, 5, 9), [2, 3])
    const mask = Uint8Array.of(1, 0, 1)
    const expected = api.tokenLogprob({ logits, token: i32(2, -1, 0), row: i32(0, -1, 1), mask })
    const given = api.tokenLogprob({ logits, token: of(2, -1, 0), row: of(0, -1, 1), mask })
    for (const name of ['logp', 'entropy', 'logsumexp'] as const) identical(given[name], expected[name])
  })

  test('where the mask is 0 it may hold what 32 bits do not, as padding may be anything', () => {
    const logits = api.array(f32(1, 2, 3, 4, 5, 9), [2, 3])
    const mask = Uint8Array.of(1, 0, 1, 0)
    const expected = api.tokenLogprob({ logits, token: i32(2, 0, 0, 0), row: i32(0, 0, 1, 0), mask })
    const given = { logits, token: of(2, 2 ** 40, 0, -(2 ** 31) - 1), row: of(0, 2 ** 31, 1, 2 ** 53 - 1), mask }
    for (const name of ['logp', 'entropy', 'logsumexp'] as const)
      identical(api.tokenLogprob(given)[name], expected[name])
    const refused = (argument: string, more: object) =>
      refuses(() => api.tokenLogprob({ ...given, ...more }), { ...content, argument })
    refused('token', { mask: undefined })
    refused('token', { mask: Uint8Array.of(1, 1, 1, 0) })
    refused('row', { token: i32(2, 0, 0, 0), mask: Uint8Array.of(1, 0, 1, 1) })
    // A mask of another length says nothing of these.
    refused('token', { mask: Uint8Array.of(1, 0, 1) })
    // Offsets are looked at whatever the mask says.
    const sum = { x: f32(1), sequenceStart: of(0, 2 ** 40), mask: Uint8Array.of(0) }
    refuses(() => api.sequenceSum(sum), { ...content, argument: 'sequenceStart' })
  })

  test('and a mask is read once, when ids ask for it', () => {
    const logits = api.array(f32(1, 2, 3, 4, 5, 9), [2, 3])
    let times = 0
    const inputs = {
      logits,
      token: of(2, 2 ** 40),
      get mask() {
        times++
        return Uint8Array.of(1, 0)
      },
    }
    expect(api.tokenLogprob(inputs).logp.data[1]).toBe(0)
    expect(times).toBe(1)
  })

  test('as an index, as ids, as a layout', () => {
    expect([...api.gatherRows({ x: f32(5, 6), index: of(1, 1, 0) }).x.data]).toEqual([6, 6, 5])
    const extremes = of(2 ** 31 - 1, -(2 ** 31), 2 ** 31 - 1)
    expect(api.groupBy(extremes)).toEqual(api.groupBy(i32(2 ** 31 - 1, -(2 ** 31), 2 ** 31 - 1)))
    const { row } = api.treeLayout({ length: of(1, 2), parent: of(-1, 0) })
    expect([...row.data]).toEqual([0, 1])
  })

  test('of nothing', () => {
    expect(api.sequenceSum({ x: f32(), sequenceStart: of(0) }).x.shape).toEqual([0])
    expect(api.groupBy(of()).groupStart.data).toEqual(i32(0))
  })

  test('is copied when the call is made', async () => {
    const [x, sequenceStart] = [f32(1, 2, 3), of(0, 1, 3)]
    const call = promises.sequenceSum({ x, sequenceStart })
    sequenceStart[1] = (Array.isArray(sequenceStart) ? 2 : 2n) as never
    expect([...(await call).x.data]).toEqual([1, 5])
  })

  test.each([2 ** 31, -(2 ** 31) - 1, 2 ** 32, 2 ** 40 + 1])('with %d, which 32 bits do not hold', (id) => {
    const message = new RegExp(
      `^gatherRows: index has ${id} at 1, expected a whole number from -2147483648 to 2147483647`,
    )
    refuses(() => api.gatherRows({ x: f32(1, 2), index: of(0, id) }), { ...content, argument: 'index', message })
  })
})

test('a list holds whole numbers', () => {
  const gather = (index: unknown) => () => api.gatherRows({ x: f32(1, 2), index: index as number[] })
  for (const value of [0.5, Number.NaN, Number.POSITIVE_INFINITY]) refuses(gather([0, value]), content)
  for (const value of ['1', 1n, null, undefined, {}]) {
    refuses(gather([0, value]), { ...kind, message: /^gatherRows: index has .+ at 1, expected a number/ })
  }
  // biome-ignore lint/suspicious/noSparseArray: that is the point
  refuses(gather([0, , 1]), kind)
})

test('what a list holds where the mask is 0 is not looked at', () => {
  const logits = api.array(f32(1, 2, 3), [1, 3])
  for (const padding of [null, undefined, Number.NaN, 0.5, '<pad>']) {
    const token = [2, padding] as number[]
    const { logp } = api.tokenLogprob({ logits, token, row: [0, padding] as number[], mask: Uint8Array.of(1, 0) })
    identical(logp, api.tokenLogprob({ logits, token: i32(2, 0), row: i32(0, 0), mask: Uint8Array.of(1, 0) }).logp)
  }
})

test('no output is a list', () => {
  const inputs = { mask: Uint8Array.of(1) }
  refuses(() => api.maskIndex(inputs, { out: { index: [0] as never } }), { ...kind, argument: 'index' })
  refuses(() => api.maskIndex(inputs, { out: { index: i64(0) as never } }), { ...kind, argument: 'index' })
})

describe('groupBy of strings', () => {
  test('groups come in the order of <, their members in the order that they came', () => {
    const { order, groupStart } = api.groupBy(['b', 'a', 'b', 'Z', 'é', 'a', ''])
    expect([...order.data]).toEqual([6, 3, 1, 5, 0, 2, 4])
    expect([...groupStart.data]).toEqual([0, 1, 2, 4, 6, 7])
  })

  test('are names and nothing else', () => {
    const ids = ['__proto__', 'constructor', '10', '9', '__proto__']
    expect([...api.groupBy(ids).order.data]).toEqual([2, 3, 0, 4, 1])
  })

  test('and of nothing but strings', () => {
    const message = /^groupBy: ids has 3 at 1, expected a string, as the ids before it are/
    refuses(() => api.groupBy(['a', 3] as never), { ...kind, argument: 'ids', message })
    // biome-ignore lint/suspicious/noSparseArray: that is the point
    refuses(() => api.groupBy(['a', , 'b'] as never), kind)
    refuses(() => api.groupBy([3, 'a'] as never), { ...kind, argument: 'ids' })
  })
})

describe('what is refused says what it is, what is taken, and how to get there', () => {
  const sum = (x: unknown) => () => api.sequenceSum({ x: x as Float32Array, sequenceStart: i32(0, 2) })
  test.each([
    [[1, 2], 'a plain array of 2', 'Float32Array.from(x)'],
    [i64(1, 2), 'a BigInt64Array', 'Float32Array.from(x, Number)'],
    [new BigUint64Array(2), 'a BigUint64Array', 'Float32Array.from(x, Number)'],
    [new Int16Array(2), 'an Int16Array', 'Float32Array.from(x)'],
  ])('%o for a float', (x, what, how) => {
    expect(sum(x)).toThrow(
      `sequenceSum: x is ${what}, expected a typed array of f32 or array(data, shape): ${how} makes one`,
    )
  })

  test('for ids, and for a mask', () => {
    const ids = new Uint32Array(2) as never
    const wanted = 'expected a typed array of i32 or array(data, shape)'
    expect(() => api.groupBy(ids)).toThrow(`groupBy: ids is a Uint32Array, ${wanted}: Int32Array.from(ids) makes one`)
    expect(() => api.maskIndex({ mask: [1, 0] as never })).toThrow('of u8 or array(data, shape): Uint8Array.from(mask)')
  })

  test('in array()', () => {
    expect(() => api.array([1] as never)).toThrow('expected a typed array: Float32Array.from(data) makes one')
    const advice = (data: unknown) => {
      try {
        api.array(data as never)
      } catch (error) {
        return /: (\S+\(data.*\)) makes one$/.exec((error as Error).message)?.[1]
      }
    }
    expect(advice(i64(1))).toBe('Int32Array.from(data, Number)')
    expect(advice(new BigUint64Array(1))).toBe('Int32Array.from(data, Number)')
    for (const data of [new Int8Array(1), new Int16Array(1), new Uint32Array(1)])
      expect(advice(data)).toBe('Int32Array.from(data)')
    expect(() => api.gatherRows({ x: new Uint32Array(1) as never, index: [0] })).toThrow(
      ': Int32Array.from(x) makes one',
    )
  })

  test('a BigInt64Array whose memory is gone', () => {
    const ids = i64(1, 2)
    structuredClone(ids.buffer, { transfer: [ids.buffer as ArrayBuffer] })
    refuses(() => api.groupBy(ids), { ...content, argument: 'ids', message: /detached/ })
  })
})

// Node 24 has it; the language level of this file does not.
const Halves = (globalThis as { Float16Array?: new (values: ArrayLike<number>) => Parameters<typeof api.array>[0] })
  .Float16Array
describe.skipIf(Halves === undefined)('Float16Array', () => {
  const halves = (...values: number[]) => new (Halves as NonNullable<typeof Halves>)(values) as never

  test('is f16, its bits in the same memory', () => {
    const data = halves(1, -2, 65504)
    const x = api.array(data)
    expect([x.dtype, x.shape, Array.from(x.data)]).toEqual(['f16', [3], [0x3c00, 0xc000, 0x7bff]])
    expect(x.data.buffer).toBe((data as Float32Array).buffer)
    expect(api.array(data, [1, 3], 'f16' as never).shape).toEqual([1, 3])
    refuses(() => api.array(data, [3], 'bf16' as never), { error: TypeError, code: 'ERR_GRPO_DTYPE' })
  })

  test('as input and as output', () => {
    const bits = api.toF16(f32(1, 2, 3))
    const token = i32(2)
    const expected = api.tokenLogprob({ logits: api.array(bits, [1, 3], 'f16'), token })
    identical(api.tokenLogprob({ logits: api.array(halves(1, 2, 3), [1, 3]), token }).logp, expected.logp)
    const logits = { dtype: 'f16', shape: [1, 3], data: halves(1, 2, 3) } as never
    identical(api.tokenLogprob({ logits, token }).logp, expected.logp)
    const out = halves(0, 0)
    const { x } = api.gatherRows({ x: halves(5, 6), index: i32(1, 0) }, { out: { x: out } })
    expect([Array.from(out), x.dtype]).toEqual([[6, 5], 'f16'])
  })
})
