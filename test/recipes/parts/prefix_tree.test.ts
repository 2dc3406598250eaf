// The trees of the tree methods, against brute force over pairs of rollouts.
import { describe, expect, test } from 'vitest'
import { edgeTree, nodeValues } from '../../../lib/recipes/parts/edge_tree.js'
import { layoutOf, prefixTree, type Rollouts, segmentValues } from '../../../lib/recipes/parts/prefix_tree.js'
import { mean, sum } from '../../../lib/recipes/parts/statistics.js'
import { random } from '../../support/random.js'
import { starts } from '../masked.js'

const batchOf = (groups: number[][][]) => {
  const rollouts = groups.flat()
  return {
    token: Int32Array.from(rollouts.flat()),
    sequenceStart: starts(rollouts.map((tokens) => tokens.length)),
    groupStart: starts(groups.map((group) => group.length)),
  }
}
const tokensOf = ({ token, sequenceStart }: ReturnType<typeof batchOf>, i: number) =>
  Array.from({ length: sequenceStart[i + 1]! - sequenceStart[i]! }, (_, t) => token[sequenceStart[i]! + t])

const example = batchOf([[[5, 7, 9], [5, 7], [4], [5, 7, 8, 1], [5, 7, 9]], [[], [5]]]) // biome-ignore format: two groups

test('an example', () => {
  const tree = prefixTree({ ...example, promptLength: [3, 2] })
  expect(Array.from(tree.length)).toEqual([3, 2, 1, 2, 1, 2, 1])
  expect(Array.from(tree.parent)).toEqual([-1, 0, 1, 1, 0, -1, 5])
  expect(Array.from(tree.begin)).toEqual([0, 0, 2, 2, 0, 0, 0])
  expect(Array.from(tree.end)).toEqual([2, 1, 4, 3, 2, 5, 6])
  expect(tree.rollouts).toEqual([[0, 1, 2, 3, 4], [0, 1, 3, 4], [0, 4], [3], [2], [5, 6], [6]])
  expect(Array.from(tree.segment)).toEqual([1, 1, 2, 1, 1, 4, 1, 1, 3, 3, 1, 1, 2, 6])
  expect(Array.from(segmentValues(tree, [1, 0, 1, 0, 1, 0.5, 1]))).toEqual([0.6, 0.5, 1, 0, 1, 0.75, 1])
})

describe('against brute force', () => {
  const { integer, uniform } = random(7)
  const words = () => Array.from({ length: integer(9) }, () => integer(2))
  const groups = Array.from({ length: 40 }, () => Array.from({ length: integer(10) }, words))
  const batch = batchOf(groups)
  const tree = prefixTree(batch)
  const rewards = Float64Array.from(tree.end, uniform)
  const N = tree.end.length
  const groupOf = (i: number) => batch.groupStart.findIndex((first) => first > i)
  const shares = (i: number, k: number, t: number) =>
    groupOf(i) === groupOf(k) &&
    tokensOf(batch, k).length >= t &&
    tokensOf(batch, i).slice(0, t).join() === tokensOf(batch, k).slice(0, t).join()

  test('the rollouts through a segment are those that share its prefix', () => {
    for (let i = 0; i < N; i++) {
      tokensOf(batch, i).forEach((_, t) => {
        const b = tree.segment[batch.sequenceStart[i]! + t]!
        expect(tree.rollouts[b]).toEqual(Array.from({ length: N }, (_, k) => k).filter((k) => shares(i, k, t + 1)))
      })
    }
  })

  test('the layout gives every rollout its tokens and the place that predicts each', () => {
    const layout = layoutOf(tree)
    const segments = Array.from(tree.length, (length, b) => {
      const i = tree.rollouts[b]![0]
      if (i === undefined || tree.parent[b] === -1) return new Int32Array(0)
      const start = batch.sequenceStart[i]! + tree.begin[b]!
      return batch.token.slice(start, start + length)
    })
    const packed = layout.pack(segments).data
    expect(Array.from(layout.sequenceStart.data)).toEqual(batch.sequenceStart)
    expect(Array.from(layout.groupStart.data)).toEqual(batch.groupStart)
    expect(Array.from(layout.place.data, (p) => packed[p])).toEqual(Array.from(batch.token))
    const before = Array.from(batch.token, (_, t) => (batch.sequenceStart.includes(t) ? -1 : layout.place.data[t - 1]))
    expect(Array.from(layout.row.data)).toEqual(before)
    expect(packed.length).toBeLessThan(batch.token.length)
  })

  test('values are means, exact where rewards are equal, without rejected rollouts', () => {
    const mask = Uint8Array.from(rewards, (_, i) => Number(i % 3 !== 0))
    const values = segmentValues(tree, rewards, mask)
    tree.rollouts.forEach((members, b) => {
      const counted = members.filter((i) => mask[i]).map((i) => rewards[i]!)
      expect(values[b]).toBeCloseTo(mean(counted), 14)
    })
    const equal = segmentValues(tree, rewards.fill(0.1))
    tree.rollouts.forEach((members, b) => expect(equal[b]).toBe(members.length === 0 ? 0 : 0.1))
  })
})

test('names of segments stand where tokens do', () => {
  const token = ['a', 'x', 'a', 'y', 'b', 'x']
  const tree = prefixTree({ token, sequenceStart: [0, 2, 4, 6], groupStart: [0, 3] })
  expect(Array.from(tree.parent)).toEqual([-1, 0, 1, 1, 0])
  expect(Array.from(tree.segment)).toEqual([1, 2, 1, 3, 4, 4])
})

test('a deep tree of many rollouts', () => {
  const rollouts = Array.from({ length: 400 }, (_, i) => [...Array<number>(i).fill(1), 2])
  const tree = prefixTree(batchOf([rollouts]))
  // The root, a leaf for each, and between them a segment for each number of shared ones.
  expect(tree.length.length).toBe(1 + 400 + 398)
  expect(sum(tree.length)).toBe(399 + 400)
})

test('the value of a node from its children; a rejected edge is in no list', () => {
  const groups = [{ g: 0, begin: 0, end: 5 }]
  const c = { method: 'method', N: 5, groups, rolloutMask: Uint8Array.of(1, 1, 1, 1, 0) } as never
  const tree = edgeTree(c, Int32Array.of(-1, 0, 0, -1, 0))
  expect(tree).toEqual({ depth: Int32Array.of(1, 2, 2, 1, 2), children: [[1, 2], [], [], [], []], roots: [[0, 3]] })
  expect(Array.from(nodeValues(tree, [9, 1, 0, 3, 7], mean))).toEqual([0.5, 1, 0, 3, 7])
  expect(() => edgeTree(c, Int32Array.of(-1, 0, 2, -1, 0))).toThrow(
    'method: parent has 2 at 2, expected an earlier edge of its group, or -1',
  )
})

test('lists that do not fit, and a token that is NaN, are refused', () => {
  const good = { token: [1, 2, 1, 3], sequenceStart: [0, 2, 4], groupStart: [0, 2] }
  const refused = (more: Partial<Rollouts>, text: string) =>
    expect(() => prefixTree({ ...good, ...more })).toThrow(expect.objectContaining({ code: expect.any(String), message: text })) // biome-ignore format: short
  refused({ token: [1, 2, Number.NaN, 3] }, 'prefixTree: token has NaN at 2, which is equal to no token')
  refused({ token: [1, 2, 1] }, 'prefixTree: token has length 3, expected 4 (T from sequenceStart)')
  refused({ sequenceStart: [0, 4] }, 'prefixTree: sequenceStart has length 2, expected 3 (N + 1 from groupStart)')
  refused({ sequenceStart: [0, 3, 2] }, 'prefixTree: sequenceStart has 2 at 2, expected offsets that rise from 0')
  refused({ groupStart: [1, 2] }, 'prefixTree: groupStart has 1 at 0, expected offsets that rise from 0')
  refused({ groupStart: [] }, 'prefixTree: groupStart is empty, expected 0 and what follows the last')
  refused({ promptLength: [1, 2] }, 'prefixTree: promptLength has length 2, expected 1 (G from groupStart)')
})

test('0 and -0 are one token', () => {
  const tree = prefixTree({ token: [0, 2, -0, 3], sequenceStart: [0, 2, 4], groupStart: [0, 2] })
  expect(Array.from(tree.segment)).toEqual([1, 2, 1, 3])
})

test('lists of 64 bits are those of 32', () => {
  const wide = (x: ArrayLike<number>) => BigInt64Array.from(Array.from(x, BigInt))
  const promptLength = Int32Array.of(3, 2)
  const given = {
    token: wide(example.token),
    sequenceStart: wide(example.sequenceStart),
    groupStart: wide(example.groupStart),
    promptLength: wide(promptLength),
  }
  expect(prefixTree(given)).toEqual(prefixTree({ ...example, promptLength }))
  expect(() => prefixTree({ ...given, token: given.token.map(() => 2n ** 40n) })).toThrow(
    'prefixTree: token has 1099511627776 at 0, expected a whole number',
  )
})
