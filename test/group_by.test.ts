import { describe, expect, test } from 'vitest'
import { call } from '../lib/call/run.js'
import { gatherRows, groupBy } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { cpuTest } from './support/backend_kind.js'
import { refuses } from './support/compare.js'
import fc from './support/properties.js'

// Sorted by id, equal ids in the order that they came.
function reference(ids: Int32Array) {
  const order = Array.from(ids.keys()).sort((a, b) => (ids[a] as number) - (ids[b] as number) || a - b)
  const starts = order.flatMap((place, i) => (i === 0 || ids[place] !== ids[order[i - 1] as number] ? [i] : []))
  return { order, groupStart: [...starts, ids.length] }
}

const plain = (ids: Int32Array) => {
  const { order, groupStart } = groupBy(ids)
  return { order: Array.from(order.data), groupStart: Array.from(groupStart.data) }
}

describe('groupBy', () => {
  test('is a stable sort', () => {
    const anyId = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }))
    fc.assert(
      fc.property(fc.array(anyId, { maxLength: 30 }), (list) => {
        expect(plain(Int32Array.from(list))).toEqual(reference(Int32Array.from(list)))
      }),
    )
  })
  test('gathers the members of a group side by side', () => {
    const { order, groupStart } = groupBy(Int32Array.of(7, -1, 7, 3, -1))
    expect(Array.from(gatherRows({ x: Float32Array.of(0, 1, 2, 3, 4), index: order }).x.data)).toEqual([1, 4, 3, 0, 2])
    expect(Array.from(groupStart.data)).toEqual([0, 2, 3, 5])
  })
  test('several blocks', () => {
    const ids = Int32Array.from({ length: 10_007 }, (_, i) => ((i * 7919) % 1013) * (i % 3 === 0 ? -2_000_003 : 1))
    expect(plain(ids)).toEqual(reference(ids))
  })
  test.each([4_095, 4_096, 4_097, 8_192, 8_193])('%d rollouts: as many as blocks have, one more and one less', (N) => {
    const ids = Int32Array.from({ length: N }, (_, i) => ((i * 7919) % 1013) * (i % 3 === 0 ? -2_000_003 : 1))
    expect(plain(ids)).toEqual(reference(ids))
  })
  test('no rollouts, one group, promises', async () => {
    expect(plain(new Int32Array(0))).toEqual({ order: [], groupStart: [0] })
    expect(plain(new Int32Array(3))).toEqual({ order: [0, 1, 2], groupStart: [0, 3] })
    expect(Array.from((await promises.groupBy(Int32Array.of(2, 1))).order.data)).toEqual([1, 0])
  })
  test('strings are sorted as < compares them, a single one too', () => {
    const { order, groupStart } = groupBy(['b', 'a', 'B', 'a'])
    expect([Array.from(order.data), Array.from(groupStart.data)]).toEqual([
      [2, 1, 3, 0],
      [0, 1, 3, 4],
    ])
    const one = groupBy(['only'])
    expect([Array.from(one.order.data), Array.from(one.groupStart.data)]).toEqual([[0], [0, 1]])
    expect(groupBy([] as string[]).groupStart.data).toEqual(Int32Array.of(0))
    const kind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'ids' }
    refuses(() => groupBy(['a', 1] as never), { ...kind, message: /ids has 1 at 1, expected a string/ })
  })
  test('into memory of the caller, which has to fit', () => {
    const ids = Int32Array.of(5, 2, 5)
    const out = { order: new Int32Array(3), groupStart: new Int32Array(3) }
    const { order, groupStart } = groupBy(ids, { out })
    expect([order.data, groupStart.data]).toEqual([Int32Array.of(1, 0, 2), Int32Array.of(0, 1, 3)])
    expect([order.data, groupStart.data].map((x, i) => x === [out.order, out.groupStart][i])).toEqual([true, true])
    for (const length of [2, 4]) {
      const wrong = new Int32Array(length).fill(-7)
      refuses(() => groupBy(ids, { out: { groupStart: wrong } }), {
        error: RangeError,
        code: 'ERR_GRPO_SHAPE',
        argument: 'groupStart',
        message: new RegExp(`has length ${length}, expected 3.*one more than the different ids`),
      })
      expect([...wrong]).toEqual(Array(length).fill(-7))
    }
  })
  // The kernels of the CPU look at what a caller of the C interface gives them as well.
  cpuTest('another number of groups than there are', () => {
    const ids = { data: Int32Array.of(5, 2, 5), dtype: 'i32', shape: [3] } as const
    for (const G of [1, 3])
      refuses(() => call('groupBy', { ids }, { out: { count: null } }, { G }).now(), {
        error: RangeError,
        code: 'ERR_GRPO_SHAPE',
        argument: 'groupStart',
        message: new RegExp(`has length ${G + 1}, expected 3, one more than the different ids`),
      })
  })
  test('wrong ids', () => {
    refuses(() => groupBy(Float32Array.of(1) as never), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'ids' })
    refuses(() => groupBy([1, {}] as never), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'ids' })
  })
})
