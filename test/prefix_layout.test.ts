import { describe, expect, test } from 'vitest'
import { type Layout, mergeMoments, prefixLayout, treeLayout } from '../lib/index.js'
import { layoutReference } from './references/forest.js'
import { refuses } from './support/compare.js'
import fc from './support/properties.js'

const plain = ({ pack: _, reuse: __, ...arrays }: Layout) =>
  Object.fromEntries(Object.entries(arrays).map(([name, x]) => [name, Array.from(x.data)]))

test('Prefix Grouper: every response goes on from the prompt', () => {
  const layout = prefixLayout([{ prefix: 3, responses: [2, 1] }])
  expect(plain(layout)).toEqual({
    segmentStart: [0, 3, 5, 6],
    segmentParent: [-1, 0, 0],
    segmentEnd: [3, 2, 3],
    position: [0, 1, 2, 3, 4, 3], // golden: methods a 13
    groupStart: [0, 2],
    sequenceStart: [0, 2, 3],
    row: [2, 3, 2], // the last token of the prompt predicts the first of each response
    place: [3, 4, 5],
  })
  expect(Array.from(layout.pack([Int32Array.of(1, 2, 3), Int32Array.of(4, 5), Int32Array.of(6)]).data)).toEqual([
    1, 2, 3, 4, 5, 6,
  ])
})

test('is treeLayout of a tree of depth two', () => {
  const groups = fc.array(
    fc.record({ prefix: fc.nat(4), responses: fc.array(fc.nat(3), { minLength: 1, maxLength: 4 }) }),
    { maxLength: 4 },
  )
  fc.assert(
    fc.property(groups, (list) => {
      const length: number[] = []
      const parent: number[] = []
      for (const { prefix, responses } of list) {
        const root = length.length
        length.push(prefix, ...responses)
        parent.push(-1, ...responses.map(() => root))
      }
      expect(plain(prefixLayout(list))).toEqual(plain(treeLayout({ length, parent })))
      expect(plain(prefixLayout(list))).toEqual(layoutReference({ length, parent }))
    }),
  )
})

describe('edges', () => {
  test('no prompts; prompts without responses; responses without tokens; an empty prompt', () => {
    expect(plain(prefixLayout([]))).toMatchObject({ segmentStart: [0], groupStart: [0], sequenceStart: [0], place: [] })
    const layout = prefixLayout([
      { prefix: 2, responses: [] },
      { prefix: 0, responses: [0, 2] },
    ])
    expect(plain(layout)).toMatchObject({
      groupStart: [0, 0, 2],
      sequenceStart: [0, 0, 2],
      row: [-1, 2],
      place: [2, 3],
    })
  })
})

describe('bad input', () => {
  test.each([
    ['no list', 3, TypeError, 'groups'],
    ['a group that is no object', [3], TypeError, 'groups'],
    ['a group that is null', [{ prefix: 1, responses: [] }, null], TypeError, 'groups'],
    ['a group that is undefined', [undefined], TypeError, 'groups'],
    ['no responses', [{ prefix: 1 }], TypeError, 'responses'],
    ['a prefix that is no number', [{ prefix: '1', responses: [] }], TypeError, 'prefix'],
    ['a response that is not whole', [{ prefix: 1, responses: [0.5] }], RangeError, 'responses'],
    ['a negative response', [{ prefix: 1, responses: [-1] }], RangeError, 'responses'],
    [
      'a negative prefix',
      [
        { prefix: 1, responses: [] },
        { prefix: -1, responses: [2] },
      ],
      RangeError,
      'prefix',
    ],
  ])('%s', (_, groups, error, argument) => {
    const code = error === TypeError ? 'ERR_GRPO_TYPE' : 'ERR_GRPO_VALUE'
    refuses(() => prefixLayout(groups as never), { error: error as typeof TypeError, code, argument })
  })

  test('as many tokens as no axis has', () => {
    const text = /^prefixLayout: groups has 2147483648 tokens, expected less than 2147483648 packed ones$/
    const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'groups', message: text }
    refuses(() => prefixLayout([{ prefix: 2 ** 31 - 1, responses: [1] }]), expected)
    refuses(() => prefixLayout([1, 2].map(() => ({ prefix: 0, responses: [2 ** 30] }))), expected)
  })

  test('names that are none', () => {
    const unknown = { error: TypeError, code: 'ERR_GRPO_OPTION' }
    const groups = [{ prefix: 1, responses: [1], response: 2 }]
    refuses(() => prefixLayout(groups as never), { ...unknown, argument: 'response' })
    refuses(() => prefixLayout([], { groups: 1 } as never), { ...unknown, argument: 'groups' })
    refuses(() => treeLayout({ length: [], parent: [] }, { end: 1 } as never), { ...unknown, argument: 'end' })
    refuses(() => mergeMoments([], { ddof: 1 } as never), { ...unknown, argument: 'ddof' })
  })
})
