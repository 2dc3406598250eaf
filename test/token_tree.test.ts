// tokenTree. From the contract: tokens t of sequence i and u of k are packed at one place if and only if the sequences are
// of one group, t = u, and both begin with the same t + 1 tokens (minShared 1); each sequence is what lies at its places.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  type Layout,
  prefixAttention,
  prefixAttentionBackward,
  prefixLayout,
  tokenTree,
  treeLayout,
} from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { attentionGradients, attentionReference } from './references/attention.js'
import { layoutReference, visibility } from './references/forest.js'
import { tokenTreeReference } from './references/token_tree.js'
import { accurate, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const starts = (lengths: number[]) => {
  let sum = 0
  return [0, ...lengths.map((n) => (sum += n))]
}
const plain = ({ pack: _, reuse, ...arrays }: Layout) => ({
  reuse,
  ...Object.fromEntries(Object.entries(arrays).map(([name, x]) => [name, Array.from((x as HostArray).data)])),
})
/** What lies at the places of each sequence. */
const unpacked = ({ token, place, sequenceStart }: ReturnType<typeof tokenTree>) =>
  Array.from({ length: sequenceStart.data.length - 1 }, (_, i) =>
    Array.from(place.data.subarray(sequenceStart.data[i], sequenceStart.data[i + 1]), (at) => token.data[at] as number),
  )

/** Groups of sequences over few tokens, so that they share, repeat and end within one another. */
const groupsOf = (alphabet: number[], longest = 7) =>
  fc.array(fc.array(fc.array(fc.constantFrom(...alphabet), { maxLength: longest }), { maxLength: 7 }), { maxLength: 3 })
const groups = fc.oneof(groupsOf([0, 1]), groupsOf([-1, 3, 2 ** 31 - 1, -(2 ** 31)]), groupsOf([5], 4))
const options = (list: number[][][], minShared: number) => ({
  groupStart: starts(list.map((group) => group.length)),
  minShared,
})

test('three rollouts of a prompt', () => {
  const layout = tokenTree([[11, 12, 1, 2, 3], [11, 12, 1, 2, 4, 5], [11, 12, 6]]) // biome-ignore format: a tree
  expect(plain(layout)).toEqual({
    token: [11, 12, 1, 2, 3, 4, 5, 6],
    segmentStart: [0, 0, 2, 4, 5, 7, 8],
    segmentParent: [-1, 0, 1, 2, 2, 1],
    segmentEnd: [6, 6, 5, 4, 5, 6],
    position: [0, 1, 2, 3, 4, 4, 5, 2],
    groupStart: [0, 3],
    sequenceStart: [0, 5, 11, 14],
    row: [-1, 0, 1, 2, 3, -1, 0, 1, 2, 3, 5, -1, 0, 1],
    place: [0, 1, 2, 3, 4, 0, 1, 2, 3, 5, 6, 0, 1, 7],
    reuse: 14 / 8,
  })
})

describe('against the definition', () => {
  test('two tokens share a place exactly where their prefixes are one', () => {
    fc.assert(
      fc.property(groups, (list) => {
        const { place, position } = tokenTree(list.flat(), options(list, 1))
        const prefixes = list.flatMap((group, g) =>
          group.flatMap((tokens) => tokens.map((_, t) => `${g}: ${tokens.slice(0, t + 1)}`)),
        )
        const placeOf = new Map(prefixes.map((prefix, t) => [prefix, place.data[t]]))
        expect(Array.from(place.data)).toEqual(prefixes.map((prefix) => placeOf.get(prefix)))
        expect(new Set(placeOf.values()).size).toBe(placeOf.size)
        expect(position.data.length).toBe(placeOf.size)
      }),
    )
  })

  test('the forest, its packed tokens and the layout of both, for every minShared', () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 6 }), (list, minShared) => {
        const layout = tokenTree(list.flat(), options(list, minShared))
        const { token, ...forest } = tokenTreeReference(list, minShared)
        const P = token.length
        const T = list.flat(2).length
        expect(plain(layout)).toEqual({ ...layoutReference(forest, forest.end), token, reuse: P === 0 ? 1 : T / P })
        expect(plain(layout)).toEqual({ ...plain(treeLayout(forest)), token })
      }),
    )
  })

  test('unpacked it gives the sequences back, and each token follows the one before', () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 6 }), (list, minShared) => {
        const layout = tokenTree(list.flat(), options(list, minShared))
        expect(unpacked(layout)).toEqual(list.flat())
        const { row, place, position, sequenceStart } = layout
        const first = new Set(sequenceStart.data)
        expect(Array.from(row.data)).toEqual(
          Array.from(place.data, (_, t) => (first.has(t) ? -1 : (place.data[t - 1] as number))),
        )
        expect(Array.from(place.data, (at) => position.data[at])).toEqual(
          list.flat().flatMap((tokens) => [...tokens.keys()]),
        )
      }),
    )
  })
})

describe('attention over the tree is that of each sequence alone', () => {
  const [H, K, D, E] = [4, 2, 5, 3]
  const r = random(17)
  const example = [[1, 2, 3, 4], [1, 2, 3], [1, 2, 5, 6, 7], [], [1, 2, 3, 4], [8], [8, 1, 2]] // biome-ignore format: a tree

  test.each([1, 3])('forward and backward, minShared %i', (minShared) => {
    const layout = tokenTree(example, { groupStart: [0, 5, 7], minShared })
    const P = layout.token.data.length
    const make = (heads: number, width: number) => array(r.normals(P * heads * width), [P, heads, width])
    const [q, k, v] = [make(H, D), make(K, D), make(K, E)]
    const ways = [(x: number) => x, Math.fround] as const
    // A loss on every sequence: what reaches a shared token is the sum.
    const ofSequences = example.map((tokens) => r.normals(tokens.length * H * E))
    const placesOf = (i: number) => Array.from(layout.place.data.subarray(layout.sequenceStart.data[i], layout.sequenceStart.data[i + 1])) // biome-ignore format: one rule
    const gather = (x: ArrayLike<number>, places: number[], width: number) =>
      Float64Array.from(places.flatMap((p) => Array.from({ length: width }, (_, d) => x[p * width + d] as number)))
    const add = (sum: Float64Array, x: ArrayLike<number>, places: number[], width: number) =>
      places.forEach((p, t) => {
        for (let d = 0; d < width; d++)
          sum[p * width + d] = (sum[p * width + d] as number) + (x[t * width + d] as number)
      })
    const gradOut = new Float64Array(P * H * E)
    example.forEach((_, i) => {
      add(gradOut, ofSequences[i] as Float32Array, placesOf(i), H * E)
    })
    const forward = prefixAttention({ q, k, v, layout })
    const given = array(Float32Array.from(gradOut), [P, H, E])
    const backward = prefixAttentionBackward({ q, k, v, layout, gradOut: given, ...forward })

    const widths = { out: H * E, logsumexp: H, gradQ: H * D, gradK: K * D, gradV: K * E }
    const names = Object.keys(widths) as (keyof typeof widths)[]
    const [exact, float32] = ways.map((round) => {
      const all = Object.fromEntries(names.map((name) => [name, new Float64Array(P * widths[name])]))
      example.forEach((tokens, i) => {
        const places = placesOf(i)
        const s = { P: tokens.length, H, K, D, E }
        const sees = visibility({ length: [tokens.length], parent: [-1] })
        const alone = { q: gather(q.data, places, H * D), k: gather(k.data, places, K * D), v: gather(v.data, places, K * E) } // biome-ignore format: three
        const there = attentionReference(alone, sees, s, round)
        const back = attentionGradients({ ...alone, ...there, gradOut: ofSequences[i] as Float32Array }, sees, s, round)
        for (const name of ['gradQ', 'gradK', 'gradV'] as const)
          add(all[name] as Float64Array, back[name], places, widths[name])
        for (const name of ['out', 'logsumexp'] as const) {
          places.forEach((p, t) => {
            all[name]?.set(there[name].subarray(t * widths[name], (t + 1) * widths[name]), p * widths[name])
          })
        }
      })
      return all
    }) as [Record<string, Float64Array>, Record<string, Float64Array>]
    for (const name of names) {
      const actual = { ...forward, ...backward }[name] as HostArray
      accurate(actual, exact[name] as Float64Array, float32[name] as Float64Array)
    }
  })
})

describe('edges', () => {
  const shape = (...given: Parameters<typeof tokenTree>) => {
    const { segmentParent, segmentStart, groupStart, sequenceStart, reuse } = plain(tokenTree(...given)) as Record<string, unknown> // biome-ignore format: names
    return { segmentParent, segmentStart, groupStart, sequenceStart, reuse }
  }
  const nothing = { segmentStart: [0, 0], segmentParent: [-1], reuse: 1 }

  test('no sequences; no groups; groups without sequences', () => {
    expect(shape([])).toEqual({ ...nothing, groupStart: [0, 0], sequenceStart: [0] })
    const none = { segmentStart: [0], segmentParent: [], groupStart: [0], sequenceStart: [0], reuse: 1 }
    expect(shape([], { groupStart: [0] })).toEqual(none)
    const between = shape([[7]], { groupStart: [0, 0, 1, 1] })
    expect(between).toMatchObject({ segmentParent: [-1, -1, 1, -1], groupStart: [0, 0, 1, 1], sequenceStart: [0, 1] })
  })

  test('sequences without tokens end at the root', () => {
    expect(shape([[], []])).toEqual({ ...nothing, groupStart: [0, 2], sequenceStart: [0, 0, 0] })
    expect(shape([[], [4, 5], []])).toMatchObject({ segmentParent: [-1, 0], sequenceStart: [0, 0, 2, 2] })
  })

  test('equal sequences are one leaf, however long a shared run has to be', () => {
    const equal = { segmentParent: [-1, 0], segmentStart: [0, 0, 2], sequenceStart: [0, 2, 4, 6], reuse: 3 }
    for (const minShared of [1, 2, 3, 2 ** 40]) {
      expect(shape([[1, 2], [1, 2], [1, 2]], { minShared })).toMatchObject(equal) // biome-ignore format: short
    }
  })

  test('one that is the beginning of another ends within it, whichever comes first', () => {
    for (const list of [[[1, 2], [1, 2, 3]], [[1, 2, 3], [1, 2]]]) // biome-ignore format: two
      expect(shape(list)).toMatchObject({ segmentParent: [-1, 0, 1], segmentStart: [0, 0, 2, 3] })
  })

  test('nothing is shared across groups', () => {
    expect(shape([[1, 2], [1, 2]], { groupStart: [0, 1, 2] })).toMatchObject({ segmentParent: [-1, 0, -1, 2], reuse: 1 }) // biome-ignore format: short
  })

  test('a run of minShared tokens is shared, a shorter one is written out before each of its branches', () => {
    const list = [[1, 2, 3], [1, 2, 4], [1, 2]] // biome-ignore format: short
    expect(shape(list, { minShared: 2 })).toMatchObject({ segmentParent: [-1, 0, 1, 1], segmentStart: [0, 0, 2, 3, 4] })
    const apart = tokenTree(list, { minShared: 3 })
    expect(plain(apart)).toMatchObject({ segmentParent: [-1, 0, 0, 0], token: [1, 2, 1, 2, 3, 1, 2, 4], reuse: 1 })
    // What is written out counts for the branch: 1 alone is too short, 1 2 of two of them is not.
    const deeper = tokenTree([[1, 2, 3], [1, 2, 4], [1, 5]], { minShared: 2 }) // biome-ignore format: short
    expect(plain(deeper)).toMatchObject({ segmentParent: [-1, 0, 1, 1, 0], token: [1, 2, 3, 4, 1, 5] })
  })

  test('sequences whose polynomial hashes are equal, whatever the base', () => {
    // The Thue-Morse word and its complement collide modulo 2^64.
    const bit = (i: number): number => (i === 0 ? 0 : (i & 1) ^ bit(i >> 1))
    const word = Array.from({ length: 2048 }, (_, i) => bit(i))
    const list = [[9, ...word], [9, ...word.map((x) => 1 - x)], [9, ...word]] // biome-ignore format: three
    const layout = tokenTree(list)
    expect(unpacked(layout)).toEqual(list)
    expect(layout.token.data.length).toBe(1 + 2 * 2048)
  })

  test('many sequences, very long ones, and a tree as deep as they are long', () => {
    const { integer } = random(3)
    const many = tokenTree(Array.from({ length: 1e5 }, () => Int32Array.from({ length: 20 }, () => integer(3))))
    expect(many.sequenceStart.data.at(-1)).toBe(2e6)
    const differing = tokenTree(Array.from({ length: 1e5 }, (_, i) => [i, i]))
    expect(differing.segmentParent.data.length).toBe(1 + 1e5)
    const long = Int32Array.from({ length: 2e6 }, () => integer(50_000))
    expect(tokenTree([long, long.with(1e6, -1), long]).token.data.length).toBe(3e6)
    // The longest twice: a tree that compared them anew at each of the 2000 places where one ends would not come to an end.
    const stairs = Array.from({ length: 2000 }, (_, i) => new Int32Array(i + 1))
    const deep = tokenTree([new Int32Array(2e6), new Int32Array(2e6), ...stairs])
    expect(deep.segmentParent.data.length).toBe(1 + 2001)
    expect(deep.token.data.length).toBe(2e6)
  })
})

describe('what it takes', () => {
  const list = [[5, 7, 9], [5, 7], [4]] // biome-ignore format: short
  const expected = plain(tokenTree(list, { groupStart: [0, 2, 3] }))
  const i32 = (x: number[]) => Int32Array.from(x)
  const i64 = (x: number[]) => BigInt64Array.from(x, BigInt)
  const hosted = (x: number[]) => array(i32(x))

  test.each([
    ['Int32Array', i32],
    ['BigInt64Array', i64],
    ['host arrays', hosted],
    ['lists', (x: number[]) => x],
  ] as const)('%s, one for each sequence or all packed', (_, of) => {
    const options = { groupStart: of([0, 2, 3]) }
    expect(plain(tokenTree(list.map(of as typeof i32), options))).toEqual(expected)
    expect(plain(tokenTree({ token: of(list.flat()), sequenceStart: of([0, 3, 5, 6]) }, options))).toEqual(expected)
  })

  test('and leaves it as it is', () => {
    const given = list.map(i32)
    const { token } = tokenTree(given)
    token.data.fill(0)
    expect(given.map((x) => Array.from(x))).toEqual(list)
  })

  test('as a promise; path; a signal', async () => {
    expect(plain(await promises.tokenTree(list, { groupStart: [0, 2, 3] }))).toEqual(expected)
    expect(tokenTree.path(list)).toEqual({ kernel: 'tree_layout' })
    const stopped = promises.tokenTree(list, { signal: AbortSignal.abort() })
    await expect(stopped).rejects.toMatchObject({ name: 'AbortError' })
  })
})

test('reuse, on every layout: tokens of all paths with their prompts, over the packed ones', () => {
  expect(prefixLayout([{ prefix: 6, responses: [2, 4] }]).reuse).toBe(18 / 12)
  const two = [{ prefix: 3, responses: [1, 1, 2] }, { prefix: 5, responses: [2] }] // biome-ignore format: two
  expect(prefixLayout(two).reuse).toBe((13 + 7) / (7 + 7))
  expect(treeLayout({ length: [3, 2, 1, 2], parent: [-1, 0, 1, 1] }).reuse).toBe((6 + 7) / 8)
  expect(treeLayout({ length: [4, 3], parent: [-1, 0], end: [0, 1, 1] }).reuse).toBe((4 + 7 + 7) / 7)
  expect(treeLayout({ length: [0], parent: [-1] }).reuse).toBe(1)
  expect(prefixLayout([]).reuse).toBe(1)
})

describe('bad input', () => {
  const value = { error: RangeError, code: 'ERR_GRPO_VALUE' }
  const kind = { error: TypeError, code: 'ERR_GRPO_TYPE' }
  const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
  const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE' }
  const packed = { token: [1, 2, 3], sequenceStart: [0, 1, 3] }
  const i32 = (...x: number[]) => Int32Array.from(x)
  const detached = i32(1, 2)
  structuredClone(detached, { transfer: [detached.buffer] })
  // biome-ignore lint/suspicious/noSparseArray: that is the point
  const holes = [[1], , [2]]
  const large = Array<Int32Array>(2 ** 11).fill(new Int32Array(2 ** 20))

  test.each<[string, unknown, object, Omit<Parameters<typeof refuses>[1], 'message'>, string]>([
    ['no list', 3, {}, kind, 'sequences is 3, expected a list of sequences or { token, sequenceStart }'],
    ['null', null, {}, kind, 'sequences is null, expected a list of sequences or { token, sequenceStart }'],
    ['a typed array', i32(1), {}, kind, 'sequences is an Int32Array, expected a list of sequences or { token, sequenceStart }'],
    ['a list of tokens', [1, 2], {}, kind, 'sequences[0] is 1, expected a list of whole numbers'],
    ['a hole', holes, {}, kind, 'sequences[1] is undefined, expected a list of whole numbers'],
    ['text', [['a']], {}, kind, 'sequences[0] has "a" at 0, expected a number'],
    ['a token that is not whole', [[1], [2, 1.5]], {}, value, 'sequences[1] has 1.5 at 1, expected a whole number from -2147483648 to 2147483647'],
    ['NaN', [[Number.NaN]], {}, value, 'sequences[0] has NaN at 0, expected a whole number from -2147483648 to 2147483647'],
    ['an id beyond 32 bits', [BigInt64Array.of(2n ** 31n)], {}, value, 'sequences[0] has 2147483648 at 0, expected a whole number from -2147483648 to 2147483647'],
    ['floats', [new Float32Array(1)], {}, dtype, 'sequences[0] has dtype f32, expected i32'],
    ['two axes', [array(i32(1, 2), [1, 2])], {}, shape, 'sequences[0] has shape [1, 2], expected one axis'],
    ['detached memory', [detached], {}, value, 'sequences[0] is detached: its memory has been transferred elsewhere'],
    ['more than 2^31 tokens', large, {}, value, 'sequences has 2147483648 tokens, expected less than 2147483648 in all'],
    ['an unknown input', { ...packed, mask: [1] }, {}, { error: TypeError, code: 'ERR_GRPO_OPTION' }, 'mask is no input of this operation; it has token, sequenceStart'],
    ['no offsets', { token: [1] }, {}, kind, 'sequenceStart is undefined, expected a list of whole numbers'],
    ['offsets that end early', { ...packed, sequenceStart: [0, 2] }, {}, value, 'sequenceStart ends with 2, expected 3 (T from token)'],
    ['offsets that fall', { ...packed, sequenceStart: [0, 2, 1, 3] }, {}, value, 'sequenceStart falls: sequenceStart[2] is 1, sequenceStart[1] is 2, expected offsets that rise'],
    ['offsets that begin late', { ...packed, sequenceStart: [1, 3] }, {}, value, 'sequenceStart begins with 1, expected 0'],
    ['offsets without a number', [[1]], { groupStart: [] }, shape, 'groupStart is empty, expected 0 and what follows the last'],
    ['groups of other sequences', [[1]], { groupStart: [0, 2] }, value, 'groupStart ends with 2, expected 1 (N from sequences)'],
    ['a minShared of 0', [[1]], { minShared: 0 }, { error: RangeError, code: 'ERR_GRPO_OPTION' }, 'minShared is 0, expected a whole number from 1'],
    ['a minShared of 1.5', [[1]], { minShared: 1.5 }, { error: RangeError, code: 'ERR_GRPO_OPTION' }, 'minShared is 1.5, expected a whole number from 1'],
    ['a minShared of text', [[1]], { minShared: '2' }, kind, 'minShared is "2", expected a number'],
    ['an unknown option', [[1]], { min: 2 }, { error: TypeError, code: 'ERR_GRPO_OPTION' }, 'min is no option of this operation; it has groupStart, minShared, signal'],
    ['no signal', [[1]], { signal: 1 }, kind, 'signal is 1, expected an AbortSignal'],
  ])('%s', (_, sequences, given, error, text) => {
    let message = ''
    const call = () => {
      try {
        return tokenTree(sequences as never, given)
      } catch (cause) {
        message = (cause as Error).message
        throw cause
      }
    }
    refuses(call, { ...error, argument: (/^[^ ]+/.exec(text) as RegExpExecArray)[0] })
    expect(message).toBe(`tokenTree: ${text}`)
  }) // biome-ignore format: a row each
})
