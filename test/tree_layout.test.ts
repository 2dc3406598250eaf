import { describe, expect, test } from 'vitest'
import { type Layout, treeLayout } from '../lib/index.js'
import { layoutReference, randomForest } from './references/forest.js'
import { refuses } from './support/compare.js'
import { random } from './support/random.js'

const plain = ({ pack: _, reuse: __, ...arrays }: Layout) =>
  Object.fromEntries(Object.entries(arrays).map(([name, x]) => [name, Array.from(x.data)]))

describe('against the definition', () => {
  test('a tree of depth three', () => {
    // prompt 2 tokens; a thought of 3 with two answers of 1 and 2; another answer of 2
    const layout = treeLayout({ length: [2, 3, 1, 2, 2], parent: [-1, 0, 1, 1, 0] })
    expect(plain(layout)).toEqual({
      segmentStart: [0, 2, 5, 6, 8, 10],
      segmentParent: [-1, 0, 1, 1, 0],
      segmentEnd: [5, 4, 3, 4, 5],
      position: [0, 1, 2, 3, 4, 5, 5, 6, 2, 3],
      groupStart: [0, 3],
      sequenceStart: [0, 4, 9, 11],
      row: [1, 2, 3, 4, 1, 2, 3, 4, 6, 1, 8],
      place: [2, 3, 4, 5, 2, 3, 4, 6, 7, 8, 9],
    })
  })

  test.each(Array.from({ length: 60 }, (_, seed) => seed))('random forest %i', (seed) => {
    const r = random(seed)
    const tree = randomForest(r, r.integer(12), 4)
    expect(plain(treeLayout(tree))).toEqual(layoutReference(tree))
    const byRoot = tree.length.map((_, b) => b).filter(() => r.uniform() < 0.6)
    const end = byRoot.flatMap((b) => (r.uniform() < 0.3 ? [b, b] : [b])) // inner segments, roots, and equal rollouts twice
    expect(plain(treeLayout({ ...tree, end }))).toEqual(layoutReference(tree, end))
  })
})

describe('edges', () => {
  test('no segments', () => {
    expect(plain(treeLayout({ length: [], parent: [] }))).toMatchObject({
      segmentStart: [0],
      groupStart: [0],
      sequenceStart: [0],
      row: [],
    })
  })
  test('roots without children are packed causal sequences and have no loss tokens', () => {
    const layout = treeLayout({ length: [3, 2], parent: [-1, -1] })
    expect(plain(layout)).toMatchObject({
      position: [0, 1, 2, 0, 1],
      groupStart: [0, 0, 0],
      sequenceStart: [0],
      segmentEnd: [1, 2],
    })
  })
  test('after an empty prefix nothing predicts the first token', () => {
    expect(plain(treeLayout({ length: [0, 2], parent: [-1, 0] })).row).toEqual([-1, 0])
    expect(plain(treeLayout({ length: [0, 0, 2, 1], parent: [-1, 0, 1, 2] })).row).toEqual([-1, 0, 1])
  })
  test('pack lays the segments side by side', () => {
    const layout = treeLayout({ length: [2, 0, 1], parent: [-1, 0, 0] })
    expect(Array.from(layout.pack([Int32Array.of(7, 8), new Int32Array(0), Int32Array.of(9)]).data)).toEqual([7, 8, 9])
    refuses(() => layout.pack([Int32Array.of(7, 8)]), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'segments',
    })
    refuses(() => layout.pack([Int32Array.of(7), new Int32Array(0), Int32Array.of(9)]), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
    })
    refuses(() => layout.pack([[7, 8], [], [9]] as never), { error: TypeError, code: 'ERR_GRPO_DTYPE' })
  })
})

describe('bad input', () => {
  const value = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_VALUE', argument })
  test.each([
    ['a negative length', { length: [2, -1], parent: [-1, 0] }, 'length'],
    ['more than 2^31 tokens', { length: [2 ** 30, 2 ** 30], parent: [-1, 0] }, 'length'],
    ['a first segment that is no root', { length: [1], parent: [0] }, 'parent'],
    ['a segment that is its own parent', { length: [1, 1], parent: [-1, 1] }, 'parent'],
    ['a parent that comes later', { length: [1, 1, 1], parent: [-1, 2, 0] }, 'parent'],
    ['not depth-first', { length: [1, 1, 1, 1], parent: [-1, 0, 0, 1] }, 'parent'],
    ['a parent below -1', { length: [1], parent: [-2] }, 'parent'],
    ['an end that is no segment', { length: [1, 1], parent: [-1, 0], end: [2] }, 'end'],
    ['ends that go back to an earlier root', { length: [1, 1], parent: [-1, -1], end: [1, 0] }, 'end'],
    ['a length that is not whole', { length: [1.5], parent: [-1] }, 'length'],
    ['a length beyond 32 bits', { length: [2 ** 40], parent: [-1] }, 'length'],
  ])('%s', (_, forest, argument) => {
    refuses(() => treeLayout(forest), value(argument))
  })
  test('lists of different lengths, and what is no list', () => {
    refuses(() => treeLayout({ length: [1, 1], parent: [-1] }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'parent',
    })
    refuses(() => treeLayout({ length: 3 as never, parent: [-1] }), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'length',
    })
    refuses(() => treeLayout({ length: ['3' as never], parent: [-1] }), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'length',
    })
  })
  test('more than 2^31 loss tokens: a shared segment counts for each sequence', () => {
    const end = Array<number>(2 ** 12).fill(1)
    refuses(() => treeLayout({ length: [0, 2 ** 20], parent: [-1, 0], end }), value('end'))
  })
})
