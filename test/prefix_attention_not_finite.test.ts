// Numbers that are not finite reach what sees them, and nothing else: in no kernel does a zero meet an infinity.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  prefixAttention,
  prefixAttentionBackward,
  toBf16,
  toF16,
  treeLayout,
} from '../lib/index.js'
import { attentionGradients, attentionReference } from './references/attention.js'
import { type Tree, visibility } from './references/forest.js'
import { backend } from './support/backend_kind.js'
import { accurate, golden, identical, values } from './support/compare.js'
import { random } from './support/random.js'
import { fewOnDevice } from './support/sweep.js'

type FloatArray = HostArray<'f32' | 'bf16' | 'f16'>
type DType = FloatArray['dtype']
type Inputs = Record<'q' | 'k' | 'v' | 'gradOut', FloatArray>

function floats(data: Float32Array, shape: number[], dtype: DType): FloatArray {
  if (dtype === 'f32') return array(data, shape)
  return array(dtype === 'bf16' ? toBf16(data) : toF16(data), shape, dtype)
}

function problem(tree: Tree, [H, K, D, E]: [number, number, number, number], dtype: DType, window: number | null) {
  const P = tree.length.reduce((a, b) => a + b, 0)
  const r = random(8)
  const make = (heads: number, width: number) => floats(r.normals(P * heads * width), [P, heads, width], dtype)
  const inputs: Inputs = { q: make(H, D), k: make(K, D), v: make(K, E), gradOut: make(H, E) }
  return { inputs, layout: treeLayout(tree), sees: visibility(tree, window) }
}

/** x with one number for all that token `p` has. */
function spoil(x: FloatArray, p: number, value: number): FloatArray {
  const row = x.data.length / (x.shape[0] as number)
  const data = Float32Array.from(values(x))
  return floats(data.fill(value, p * row, (p + 1) * row), [...x.shape], x.dtype)
}

const rowOf = (x: FloatArray, p: number): HostArray => {
  const row = x.data.length / (x.shape[0] as number)
  return array(Float32Array.from(values(x)).slice(p * row, (p + 1) * row))
}

/** The same numbers. A GPU does a tile that has something else again without matrix instructions, and may write -0. */
function same(actual: HostArray, expected: HostArray, dtype: DType = 'f32'): void {
  const digits = { f32: 0, bf16: 2 ** 16, f16: 2 ** 13 }[dtype]
  if (backend === 'cpu') identical(actual, expected)
  else golden(actual, expected.data, digits)
}

type Heads = [number, number, number, number]
/** One token of the prompt, and of each response one; heads that share a key head. */
const small: Tree = { length: [6, 5, 4], parent: [-1, 0, 0] }
/** The second segment crosses a tile of keys and one of queries. */
const large: Tree = { length: [40, 150, 20], parent: [-1, 0, 0] }
/** Windows reach from a response into its prompt, and from an inner node's first token through its parent. */
const windows: [Tree, Heads, number, number][] = [
  [small, [6, 2, 8, 8], 2, 4],
  [small, [2, 2, 5, 3], 8, 2],
  [{ length: [3, 2, 4, 1, 2, 3], parent: [-1, 0, 1, 2, 1, 0] }, [4, 2, 8, 8], 1, 5],
  [large, [2, 1, 8, 8], 20, 40],
  [large, [4, 2, 8, 8], 130, 7],
  [large, [2, 2, 8, 8], 39, 64],
]
const cases = fewOnDevice<[Tree, Heads, number]>(
  [
    [small, [6, 2, 8, 8], 2],
    [small, [6, 2, 8, 8], 8],
  ],
  [
    [small, [2, 2, 5, 3], 0],
    [small, [5, 1, 8, 16], 14],
    [large, [2, 1, 8, 8], 20],
    [large, [4, 2, 8, 8], 130],
    [large, [2, 2, 8, 8], 189],
  ],
)

describe.each(['f32', 'bf16', 'f16'] as const)('%s', (dtype) => {
  const all = [
    ...cases.map(([tree, heads, p]) => [tree, heads, p, null] as const),
    ...(backend === 'cpu' ? windows : []),
  ]
  describe.each(all)('%j, heads and sizes %j, token %i, window %j', (tree, heads, p, window) => {
    const { inputs, layout, sees } = problem(tree, heads, dtype, window)
    const options = window === null ? {} : { window }
    const tokens = sees.map((_, token) => token)
    const run = (given: Inputs) => {
      const { gradOut, ...forward } = given
      const result = prefixAttention({ ...forward, layout }, options)
      return { ...result, ...prefixAttentionBackward({ ...given, layout, ...result }, options) }
    }
    const clean = run(inputs)

    test.each(
      (['q', 'k', 'v', 'gradOut'] as const).flatMap((name) =>
        (name === 'v' ? [Infinity, -Infinity, Number.NaN] : [Infinity, Number.NaN]).map((value) => ({ name, value })),
      ),
    )('$name of $value', ({ name, value }) => {
      const dirty = run({ ...inputs, [name]: spoil(inputs[name], p, value) })
      /** Queries that the token reaches, and keys that those reach. */
      const queries = new Set(tokens.filter((i) => (name === 'k' || name === 'v' ? sees[i]?.[p] : i === p)))
      const keys = new Set(tokens.filter((j) => [...queries].some((i) => sees[i]?.[j])))
      for (const token of tokens) {
        if (!queries.has(token)) {
          for (const output of ['out', 'logsumexp', 'gradQ'] as const)
            same(rowOf(dirty[output], token), rowOf(clean[output], token), dtype)
        }
        if (!keys.has(token))
          for (const output of ['gradK', 'gradV'] as const)
            same(rowOf(dirty[output], token), rowOf(clean[output], token), dtype)
      }
      // NaN does not become a number, nor an infinity.
      const reach = (output: 'gradQ' | 'gradK' | 'gradV', of: Iterable<number>) => {
        for (const token of of) expect(rowOf(dirty[output], token).data.every(Number.isNaN), `${output} of ${token}`).toBe(true) // biome-ignore format: one line
      }
      if (Number.isNaN(value)) {
        reach('gradQ', queries)
        reach('gradK', keys)
        if (name !== 'v') reach('gradV', keys)
      }
      const [reached, input] = name === 'gradOut' ? (['gradV', 'gradOut'] as const) : (['out', name] as const)
      expect(Number.isFinite(rowOf(dirty[reached], p).data[0]), `${reached} of a token with ${input} ${value}`).toBe(
        false,
      )
    })
  })
})

describe('scores of -inf', () => {
  const rows = (data: number[], D: number) => array(Float32Array.from(data), [data.length / D, 1, D])
  const none = Number.NEGATIVE_INFINITY

  test('of one query alone: its logsumexp is -inf, its keys learn nothing from it, the other queries are as they are', () => {
    const layout = treeLayout({ length: [2, 2], parent: [-1, 0] })
    // Query 3 is infinite in the first column, in which every key is negative.
    const q = rows([0.5, 1, -1, 0.25, 2, -0.5, Number.POSITIVE_INFINITY, 1], 2)
    const k = rows([-1, 0.5, -2, 1, -0.5, -1, -1.5, 2], 2)
    const [v, gradOut] = [rows([1, 2, 3, 4], 1), rows([0.5, -1, 2, 1], 1)]
    const forward = prefixAttention({ q, k, v, layout }, { scale: 1 })
    expect(forward.logsumexp.data[3]).toBe(none)
    expect(forward.out.data[3]).toBeNaN()
    const backward = prefixAttentionBackward({ q, k, v, gradOut, layout, ...forward }, { scale: 1 })

    // The same without query 3; its key is then seen by nobody.
    const short = (x: HostArray<'f32'>) => array(x.data.slice(0, 3 * x.shape[2]!), [3, 1, x.shape[2]!])
    const three = { q: short(q), k: short(k), v: short(v), layout: treeLayout({ length: [2, 1], parent: [-1, 0] }) }
    const alone = prefixAttention(three, { scale: 1 })
    same(short(forward.out as HostArray<'f32'>), alone.out)
    const expected = prefixAttentionBackward({ ...three, gradOut: short(gradOut), ...alone }, { scale: 1 })
    same(short(backward.gradQ as HostArray<'f32'>), expected.gradQ)
    const known = { out: array(forward.out.data.map((x) => (Number.isNaN(x) ? 0 : x)) as Float32Array, [4, 1, 1]) }
    const finite = prefixAttentionBackward(
      { q, k, v, gradOut, layout, logsumexp: forward.logsumexp, ...known },
      { scale: 1 },
    )
    same(short(finite.gradV as HostArray<'f32'>), expected.gradV)
    expect(finite.gradV.data[3]).toBe(0)
  })

  test.each([[[3, 2]], [[70, 66]]])(
    'of a whole segment of %j: the others have all of the weight',
    ([prompt, response]) => {
      const P = prompt! + response!
      const r = random(4)
      // The queries of the response are 1e38 in the first column, its keys -10, those of the prompt 0: scores of -inf.
      const inside = (p: number) => p >= prompt!
      const pair = (first: (p: number) => number) => Array.from({ length: P }, (_, p) => [first(p), r.normal()]).flat()
      const q = rows(
        pair((p) => (inside(p) ? 1e38 : 0)),
        2,
      )
      const k = rows(
        pair((p) => (inside(p) ? -10 : 0)),
        2,
      )
      const [v, gradOut] = [array(r.normals(P), [P, 1, 1]), array(r.normals(P), [P, 1, 1])]
      const tree = { length: [prompt!, response!], parent: [-1, 0] }
      const [layout, sees, s] = [treeLayout(tree), visibility(tree), { P, H: 1, K: 1, D: 2, E: 1, scale: 1 }]
      const numbers = { q: q.data, k: k.data, v: v.data, gradOut: gradOut.data }
      const forward = prefixAttention({ q, k, v, layout }, { scale: 1 })
      const [exact, plain] = [attentionReference(numbers, sees, s), attentionReference(numbers, sees, s, Math.fround)]
      accurate(forward.out, exact.out, plain.out)
      accurate(forward.logsumexp, exact.logsumexp, plain.logsumexp)
      const backward = prefixAttentionBackward({ q, k, v, gradOut, layout, ...forward }, { scale: 1 })
      const exactly = attentionGradients({ ...numbers, ...exact }, sees, s)
      const plainly = attentionGradients({ ...numbers, ...plain }, sees, s, Math.fround)
      for (const name of ['gradQ', 'gradV'] as const) accurate(backward[name], exactly[name], plainly[name])
    },
  )
})

// One key, whose value is 0, has all the weight: what the others add has digits of its own.
describe.each(['f32', 'bf16'] as const)('%s', (dtype) => {
  test.each([-20, -40, -60, -80])('weights of e^%i', (level) => {
    const [P, D] = [130, 8]
    const r = random(9)
    const first = (x: (p: number) => number) =>
      floats(
        Float32Array.from({ length: P * D }, (_, i) => (i % D === 0 ? x(i / D) : 0)),
        [P, 1, D],
        dtype,
      )
    const q = first((p) => Number(p === P - 1))
    const k = first((p) => (p === 0 ? 0 : level + r.uniform() - 0.5))
    const v = floats(
      r.normals(P * D).map((x, i) => (i < D ? 0 : x)),
      [P, 1, D],
      dtype,
    )
    const gradOut = floats(
      r.normals(P * D).map((x, i) => (i < (P - 1) * D ? 0 : x)),
      [P, 1, D],
      dtype,
    )
    const tree = { length: [P], parent: [-1] }
    const [layout, s] = [treeLayout(tree), { P, H: 1, K: 1, D, E: D, scale: 1 }]
    const numbers = { q: values(q), k: values(k), v: values(v), gradOut: values(gradOut) }
    const [exact, plain] = [undefined, Math.fround].map((round) => {
      const forward = attentionReference(numbers, visibility(tree), s, round)
      return { ...forward, ...attentionGradients({ ...numbers, ...forward }, visibility(tree), s, round) }
    })
    const forward = prefixAttention({ q, k, v, layout }, { scale: 1 })
    const { gradV } = prefixAttentionBackward({ q, k, v, gradOut, layout, ...forward }, { scale: 1 })
    /** Tokens from..to, in their dtype. */
    const cut = (x: FloatArray, from: number, to: number) =>
      ({ ...x, data: x.data.slice(from * D, to * D), shape: [to - from, 1, D] }) as FloatArray
    const rows = [exact!, plain!].map((x) => x.out.subarray((P - 1) * D))
    expect(rows[0]!.every((x) => x !== 0)).toBe(true)
    accurate(cut(forward.out, P - 1, P), rows[0]!, rows[1]!)
    accurate(cut(gradV, 1, P), exact!.gradV.subarray(D), plain!.gradV.subarray(D))
  })
})
