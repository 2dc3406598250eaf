import { describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  type DType,
  type HostArray,
  prefixAttention,
  prefixAttentionBackward,
  prefixLayout,
  treeLayout,
} from '../lib/index.js'
import { attentionReference } from './references/attention.js'
import { randomForest, type Tree } from './references/forest.js'
import { check, exactly, type FloatArray, floats, problem } from './support/attention_cases.js'
import { cpuTest } from './support/backend_kind.js'
import { golden, identical, refuses, values } from './support/compare.js'
import { random } from './support/random.js'
import { few, fewOnDevice, sweep } from './support/sweep.js'

describe('golden numbers: methods a 13', () => {
  const f = (n: number, a: number, b: number) =>
    Array.from({ length: n }, (_, i) => [Math.sin(a * (i + 1)), Math.cos(b * (i + 1))]).flat()
  const pack = (...parts: number[][]) => array(Float32Array.from(parts.flat()), [6, 1, 2])
  const q = pack(f(3, 0.3, 0.2), f(2, 0.9, 0.1), f(1, 1.7, 0.6))
  const k = pack(f(3, 0.5, 0.7), f(2, 0.2, 0.8), f(1, 1.2, 0.9))
  const v = pack(f(3, 1.1, 0.4), f(2, 0.6, 1.3), f(1, 0.25, 0.35))
  const layout = prefixLayout([{ prefix: 3, responses: [2, 1] }])
  const forward = prefixAttention({ q, k, v, layout })

  test('out and logsumexp', () => {
    const prompt = [0.8912073601, 0.921060994, 0.8548496305, 0.822440294, 0.5960187558, 0.7015181804]
    golden(forward.out, [...prompt, 0.6053054411, 0.5993490893, 0.6454801734, 0.3907930632, 0.4746777186, 0.7748887385])
    golden({ ...forward.logsumexp, data: forward.logsumexp.data.slice(3) }, [1.9559436247, 2.1874182898, 2.1331375701])
  })
  test('gradients of the prompt are the plain sum over its responses', () => {
    const gradOut = array(Float32Array.from([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), [6, 1, 2])
    const { gradV } = prefixAttentionBackward({ gradOut, q, k, v, layout, ...forward })
    golden(
      { ...gradV, data: gradV.data.slice(0, 6) },
      [0.8402147652, 0.8402147652, 0.715376806, 0.715376806, 0.5070400565, 0.5070400565],
    )
  })
})

describe('against float64', () => {
  const prompts: Tree = { length: [9, 4, 0, 7, 3, 2, 5], parent: [-1, 0, 0, 0, -1, 4, 4] }
  const deep: Tree = { length: [3, 2, 4, 1, 2, 3, 1], parent: [-1, 0, 1, 2, 1, 0, -1] }
  const shape = { H: 2, K: 2, D: 8, E: 8 }
  test.each(['f32', 'bf16', 'f16'] as const)('prompts with responses, %s', (dtype) => check(prompts, shape, dtype))
  test.each(['f32', 'bf16', 'f16'] as const)('a deep tree, grouped-query heads, %s', (dtype) =>
    check(deep, { H: 6, K: 2, D: 16, E: 4 }, dtype),
  )
  // Small heads get more of them, so that the yardstick is the largest error of hundreds of numbers and not of a few.
  test.each(fewOnDevice([1, 7, 64, 256], [3, 15, 17, 33, 96, 128]))('head size %i', (D) => {
    const K = D < 8 ? 12 : D < 33 ? 4 : 1
    check(deep, { H: D > 128 ? K : 2 * K, K, D, E: D === 7 ? 5 : D })
  })
  // The CPU takes the query heads of a key head in blocks of 128, each schedule of the gradients for itself.
  cpuTest.each([128, 129, 200, 257])('%i query heads for each key head', (group) => {
    const tree: Tree = { length: [3, 2, 1], parent: [-1, 0, 0] }
    const sizes = { H: 2 * group, K: 2, D: 3, E: 2 }
    check(tree, sizes)
    const { s: _, sees: _sees, ...inputs } = problem(tree, sizes)
    const { gradOut, ...forward } = inputs
    const given = { ...inputs, ...prefixAttention(forward) }
    const { gradK, gradV } = prefixAttentionBackward(given)
    const alone = prefixAttentionBackward(given, { out: { gradQ: null } })
    identical(alone.gradK, gradK)
    identical(alone.gradV, gradV)
  })
  test('one key head for all; a given scale', () => check(prompts, { H: 11, K: 1, D: 6, E: 3, scale: 0.31 }))
  test('no children: ordinary packed causal attention', () =>
    check({ length: [5, 1, 0, 8], parent: [-1, -1, -1, -1] }, shape))
  test('empty prompts and responses', () =>
    check({ length: [0, 3, 0, 2, 0], parent: [-1, 0, 0, -1, 3] }, { H: 16, K: 8, D: 8, E: 8 }))
  test('many one-token responses', () =>
    check({ length: [20, ...Array(70).fill(1)], parent: [-1, ...Array(70).fill(0)] }, shape))
  // A GPU lists the tiles by one block, of 256 threads.
  test.each<[string, Tree]>([
    ['responses', { length: [2, ...Array(260).fill(1)], parent: [-1, ...Array(260).fill(0)] }],
    ['prompts', { length: Array(260).fill(1), parent: Array(260).fill(-1) }],
  ])('more %s than a block has threads', (_, tree) => check(tree, { H: 1, K: 1, D: 2, E: 3 }))
  test('segments that cross every tile edge', () =>
    check({ length: [140, 65, 127, 129], parent: [-1, 0, 0, 0] }, { H: 2, K: 1, D: 8, E: 8 }))
  test('scores of thousands', () => check(prompts, shape, 'f32', { size: 40 }))
  // Head sizes that are multiples of 8 go through matrix instructions on a GPU, padded to 64, 96 or 128.
  const several = [
    ['bf16', 64, 64],
    ['f16', 72, 24],
    ['bf16', 128, 104],
  ] as const
  const others = [
    ['bf16', 40, 96],
    ['f16', 128, 128],
  ] as const
  test.each(few<readonly ['bf16' | 'f16', number, number]>(several, others))(
    'several tiles, %s, head sizes %i and %i',
    (dtype, D, E) =>
      check({ length: [70, 66, 1, 2], parent: [-1, 0, 0, -1] }, { H: 2, K: 1, D, E, scale: -0.07 }, dtype),
  )
  test.each(['bf16', 'f16'] as const)('scores of hundreds, %s', (dtype) => check(prompts, shape, dtype, { size: 12 }))
  test.each(Array.from({ length: sweep ? 12 : 6 }, (_, seed) => seed))('random forest %i', (seed) => {
    check(randomForest(random(seed), 10, 6), { H: 4, K: 2, D: 5, E: 3 })
  })
})

describe('a shared prefix equals repeated prefixes', () => {
  const lengths = { prefix: 37, responses: [5, 1, 12] }
  const shared = prefixLayout([lengths])
  const repeated = prefixLayout(lengths.responses.map((n) => ({ prefix: lengths.prefix + n, responses: [] })))
  const [H, K, D] = [4, 2, 16]
  const P = 37 + 18
  const r = random(5)
  const make = (heads: number) => array(r.normals(P * heads * D), [P, heads, D])
  const [q, k, v, gradOut] = [make(H), make(K), make(K), make(H)]
  gradOut.data.fill(0, 0, 37 * H * D) // the loss looks at the responses
  /** The rows of the repeated layout, as places in the shared one. */
  const source = lengths.responses.flatMap((n, i) => {
    const start = 37 + lengths.responses.slice(0, i).reduce((a, b) => a + b, 0)
    return Array.from({ length: 37 + n }, (_, j) => (j < 37 ? j : start + j - 37))
  })
  const spread = (x: HostArray, heads: number, keep = (_: number) => true) => {
    const width = heads * D
    const y = new Float32Array(source.length * width)
    source.forEach((from, to) => {
      if (keep(to)) y.set((x.data as Float32Array).subarray(from * width, (from + 1) * width), to * width)
    })
    return array(y, [source.length, heads, D])
  }
  const collect = (x: HostArray, heads: number) => {
    const width = heads * D
    const y = new Array<number>(P * width).fill(0)
    source.forEach((to, from) => {
      for (let i = 0; i < width; i++)
        y[to * width + i] = (y[to * width + i] as number) + ((x.data as Float32Array)[from * width + i] as number)
    })
    return y
  }
  const a = prefixAttention({ q, k, v, layout: shared })
  const inputs = { q: spread(q, H), k: spread(k, K), v: spread(v, K), layout: repeated }
  const b = prefixAttention(inputs)

  test('forward', () => {
    golden(b.out, spread(a.out, H).data, 16)
    golden(a.out, a.out.data)
  })
  test('backward', () => {
    const back = prefixAttentionBackward({ q, k, v, gradOut, layout: shared, ...a })
    const other = prefixAttentionBackward({ ...inputs, gradOut: spread(gradOut, H), ...b })
    golden(back.gradQ, collect(other.gradQ, H), 32)
    golden(back.gradK, collect(other.gradK, K), 32)
    golden(back.gradV, collect(other.gradV, K), 32)
  })
})

describe('properties', () => {
  test('gradients agree with finite differences of the float64 loss', () => {
    const tree: Tree = { length: [3, 2, 2], parent: [-1, 0, 0] }
    const { s, q, k, v, gradOut, layout, sees } = problem(tree, { H: 2, K: 1, D: 3, E: 2 })
    const gradients = prefixAttentionBackward({ q, k, v, gradOut, layout, ...prefixAttention({ q, k, v, layout }) })
    const loss = (arrays: { q: ArrayLike<number>; k: ArrayLike<number>; v: ArrayLike<number> }) =>
      attentionReference(arrays, sees, s).out.reduce((sum, x, i) => sum + x * (values(gradOut)[i] as number), 0)
    for (const [name, gradient] of [
      ['q', gradients.gradQ],
      ['k', gradients.gradK],
      ['v', gradients.gradV],
    ] as const) {
      const base = { q: Float64Array.from(values(q)), k: Float64Array.from(values(k)), v: Float64Array.from(values(v)) }
      const numeric = Array.from(base[name], (x, i) => {
        const at = (shift: number) => {
          base[name][i] = x + shift
          return loss(base)
        }
        const slope = (at(1e-5) - at(-1e-5)) / 2e-5
        base[name][i] = x
        return slope
      })
      golden(gradient, numeric, 64)
    }
  })

  test('NaN in one response reaches no other, and not the prompt', () => {
    const tree: Tree = { length: [4, 3, 3], parent: [-1, 0, 0] }
    const { s, q, k, v, layout } = problem(tree, { H: 2, K: 2, D: 4, E: 4 })
    const clean = prefixAttention({ q, k, v, layout }).out.data as Float32Array
    const spoiled = { ...v, data: (v.data as Float32Array).slice() } as FloatArray
    spoiled.data.fill(Number.NaN, 4 * s.K * s.E, 7 * s.K * s.E)
    const out = prefixAttention({ q, k, v: spoiled, layout }).out.data as Float32Array
    const width = s.H * s.E
    expect(out.subarray(4 * width, 7 * width).every(Number.isNaN)).toBe(true)
    expect(Array.from(out.subarray(0, 4 * width))).toEqual(Array.from(clean.subarray(0, 4 * width)))
    expect(Array.from(out.subarray(7 * width))).toEqual(Array.from(clean.subarray(7 * width)))
  })

  test.each(['bf16', 'f16'] as const)('what is not finite reaches only those that see it, %s', (dtype) => {
    const tree: Tree = { length: [4, 3, 3], parent: [-1, 0, 0] }
    const { s, q, k, v, gradOut, layout } = problem(tree, { H: 2, K: 2, D: 8, E: 8 }, dtype)
    const infinity = dtype === 'bf16' ? 0x7f80 : 0x7c00
    /** x, with infinities at tokens 4 to 6: the first response. */
    const spoil = (x: FloatArray) => {
      const row = x.data.length / s.P
      return { ...x, data: (x.data as Uint16Array).slice().fill(infinity, 4 * row, 7 * row) } as FloatArray
    }
    const rest = (x: FloatArray, from: number, to: number) =>
      exactly(x).subarray((from * x.data.length) / s.P, (to * x.data.length) / s.P)
    const forward = prefixAttention({ q, k, v, layout })
    const spoiled = prefixAttention({ q, k, v: spoil(v), layout })
    expect(rest(spoiled.out as FloatArray, 4, 7).every(Number.isFinite)).toBe(false)
    const backward = prefixAttentionBackward({ q, k, v, gradOut, layout, ...forward })
    const [badK, badQ] = [
      prefixAttentionBackward({ q, k: spoil(k), v, gradOut, layout, ...forward }),
      prefixAttentionBackward({ q: spoil(q), k, v, gradOut, layout, ...forward }),
    ]
    for (const [from, to] of [
      [0, 4],
      [7, 10],
    ] as const) {
      for (const [clean, dirty] of [
        [forward.out, spoiled.out],
        [backward.gradQ, badK.gradQ],
        [backward.gradQ, badQ.gradQ],
      ] as [FloatArray, FloatArray][]) {
        // On a GPU their tile is done again without matrix instructions: the last digit of the dtype may differ.
        golden(array(rest(dirty, from, to).slice()), rest(clean, from, to), dtype === 'bf16' ? 2 ** 16 : 2 ** 13)
      }
    }
    // The prompt's keys are seen by the spoiled response; the other response's are not.
    for (const name of ['gradK', 'gradV'] as const)
      golden(array(rest(badQ[name] as FloatArray, 7, 10).slice()), rest(backward[name] as FloatArray, 7, 10), 2 ** 16)
  })

  // A tile of queries takes short segments together, but those of one tree alone. Without gradQ the CPU takes the other
  // schedule of the two.
  test.each([
    { length: [70, 9, 30], parent: [-1, 0, 0] },
    { length: [20, 9, 30, 40], parent: [-1, 0, 0, 0] },
  ])('a group of a batch gets the bits that it gets alone, forward and backward: %j', (one: Tree) => {
    const before: Tree = { length: [5, 3], parent: [-1, 0] }
    const two: Tree = {
      length: [...before.length, ...one.length],
      parent: [...before.parent, ...one.parent.map((above) => (above < 0 ? -1 : above + 2))],
    }
    const { layout, s: _, sees: _sees, ...pair } = problem(two, { H: 4, K: 2, D: 8, E: 8 })
    const tail = (x: FloatArray) => {
      const width = (x.shape[1] as number) * (x.shape[2] ?? 1)
      return array((x.data as Float32Array).slice(8 * width), [(x.shape[0] as number) - 8, ...x.shape.slice(1)])
    }
    const single = { q: tail(pair.q), k: tail(pair.k), v: tail(pair.v), gradOut: tail(pair.gradOut) }
    const run = ({ gradOut, ...given }: typeof pair, layout: ReturnType<typeof treeLayout>) => {
      const forward = prefixAttention({ ...given, layout })
      const inputs = { ...given, gradOut, layout, ...forward }
      const { gradK, gradV } = prefixAttentionBackward(inputs, { out: { gradQ: null } })
      return { ...forward, ...prefixAttentionBackward(inputs), gradKAlone: gradK, gradVAlone: gradV }
    }
    const [a, b] = [run(pair, layout), run(single, treeLayout(one))]
    for (const name of Object.keys(b) as (keyof typeof b)[])
      identical(tail(a[name] as FloatArray), b[name] as HostArray)
  })

  // scratchPeak counts the CPU kernels' memory.
  cpuTest('extra memory is tiles, not scores and not copies of keys', () => {
    const r = random(1)
    const peak = (prefix: number) => {
      const layout = prefixLayout([{ prefix, responses: [64, 64] }])
      const P = prefix + 128
      const make = () => array(r.normals(P * 64), [P, 1, 64])
      const inputs = { q: make(), k: make(), v: make(), layout }
      native.scratchPeak(true)
      const forward = prefixAttention(inputs)
      prefixAttentionBackward({ ...inputs, gradOut: make(), ...forward })
      return native.scratchPeak(true)
    }
    const [small, large] = [peak(512), peak(2048)]
    // Beyond the tiles only a few bytes per token (schedules), far from a copy of keys (256 bytes a token) or scores.
    expect(large - small).toBeLessThan(1536 * 64)
  })
})

describe('edges and bad input', () => {
  const { q, k, v, layout } = problem({ length: [2, 1], parent: [-1, 0] }, { H: 4, K: 2, D: 4, E: 4 })
  test('no tokens', () => {
    const none = (heads: number) => array(new Float32Array(0), [0, heads, 4])
    const { out } = prefixAttention({
      q: none(4),
      k: none(2),
      v: none(2),
      layout: treeLayout({ length: [0], parent: [-1] }),
    })
    expect(out.shape).toEqual([0, 4, 4])
  })
  test('one token attends to itself', () => {
    const one = problem({ length: [1], parent: [-1] }, { H: 1, K: 1, D: 4, E: 4 })
    identical(prefixAttention({ q: one.q, k: one.k, v: one.v, layout: one.layout }).out, one.v)
  })
  test('heads that do not divide, another dtype, another layout', () => {
    const three = array(new Float32Array(3 * 3 * 4), [3, 3, 4])
    const without = array(new Float32Array(0), [3, 0, 4])
    for (const k of [three, without])
      refuses(() => prefixAttention({ q, k, v: k, layout }), { error: RangeError, code: 'ERR_GRPO_SHAPE' })
    const half = floats(new Float32Array(3 * 2 * 4), [3, 2, 4], 'bf16')
    refuses(() => prefixAttention({ q, k: half, v, layout }), {
      error: TypeError,
      code: 'ERR_GRPO_DTYPE',
      argument: 'k',
    })
    refuses(() => prefixAttention({ q, k, v, layout: {} as never }), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'layout',
    })
    const other = treeLayout({ length: [2, 2], parent: [-1, 0] })
    refuses(() => prefixAttention({ q, k, v, layout: other }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'segmentStart',
    })
    const i32 = array(new Int32Array(24), [3, 2, 4]) as never as HostArray<DType>
    refuses(() => prefixAttention({ q, k: i32 as never, v, layout }), {
      error: TypeError,
      code: 'ERR_GRPO_DTYPE',
      argument: 'k',
    })
  })
  cpuTest('a layout made by hand is held to be a forest', () => {
    const bad = { ...layout, segmentParent: array(Int32Array.of(-1, 1)) }
    refuses(() => prefixAttention({ q, k, v, layout: bad }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'segmentParent',
    })
    const end = { ...layout, segmentEnd: array(Int32Array.of(1, 2)) }
    refuses(() => prefixAttention({ q, k, v, layout: end }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'segmentEnd',
    })
  })
  test('a scale that is not finite', () => {
    refuses(() => prefixAttention({ q, k, v, layout }, { scale: Number.NaN }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'scale',
    })
  })
})
