import { describe, expect, test } from 'vitest'
import { gatherRows, groupBy } from '../lib/index.js'
import * as promises from '../lib/promises.js'
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
  test('no rollouts, one group, promises', async () => {
    expect(plain(new Int32Array(0))).toEqual({ order: [], groupStart: [0] })
    expect(plain(new Int32Array(3))).toEqual({ order: [0, 1, 2], groupStart: [0, 3] })
    expect(Array.from((await promises.groupBy(Int32Array.of(2, 1))).order.data)).toEqual([1, 0])
  })
  test('wrong ids', () => {
    refuses(() => groupBy(Float32Array.of(1) as never), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'ids' })
    refuses(() => groupBy([1, {}] as never), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'ids' })
  })
})
