// What models add to attention, each option, each pair and each triple of them, forward and backward, against float64.
import { afterAll, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { array, cpu, type HostArray, prefixAttention, prefixAttentionBackward, treeLayout } from '../lib/index.js'
import type { Tree } from './references/forest.js'
import { check, exactly, type FloatArray, type Floating, floats, type Options, problem, sideBySide } from './support/attention_cases.js' // biome-ignore format: a line
import { backend, cpuDescribe, cpuTest } from './support/backend_kind.js'
import { accurate, golden, identical, values } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { random } from './support/random.js'
import { sweep } from './support/sweep.js'

const { instructionSet } = cpu
const sets = backend === 'cpu' ? instructionSetNames.filter((name) => native.setInstructionSet(name)) : [instructionSet]
cpu.instructionSet = instructionSet
afterAll(() => {
  cpu.instructionSet = instructionSet
})

/** A prompt of more than a tile of keys with responses, and a tree whose windows reach through inner nodes. */
const prompt: Tree = { length: [70, 9, 0, 33], parent: [-1, 0, 0, 0] }
const deep: Tree = { length: [3, 2, 4, 1, 2, 3, 1, 5], parent: [-1, 0, 1, 2, 1, 0, -1, 6] }

const features: Record<string, Options> = {
  window: { window: 5 },
  softcap: { softcap: 1.5 },
  sink: { sink: true },
  outLow: { outLow: true },
  strides: { strided: true },
}
const names = Object.keys(features)
const subsets = Array.from({ length: 2 ** names.length }, (_, bits) => names.filter((_, i) => (bits >> i) & 1))
const combined = subsets.filter(({ length }) => length > 0 && (sweep || length <= 3))

describe.each(sets)('%s', (set) => {
  test.each(combined.map((list, i) => ({ list, what: list.join(', '), i })))('$what', ({ list, i }) => {
    cpu.instructionSet = set
    const options = Object.assign({}, ...list.map((name) => features[name])) as Options
    const dtypes: Floating[] = list.includes('outLow') ? ['bf16', 'f16'] : ['f32', 'bf16', 'f16']
    for (const dtype of sweep ? dtypes : [dtypes[i % dtypes.length]!]) {
      // Of gradSink there are as many numbers as heads. On a device matrix instructions take head sizes from 8 on.
      const H = list.includes('sink') ? 16 : 4
      check(deep, { H, K: 2, D: 5, E: 3 }, dtype, options)
      check(prompt, { H, K: 2, D: 9, E: 8 }, dtype, { ...options, ...(list.includes('window') && { window: 40 }) })
    }
  })
})

cpuDescribe.each(sets)('precision standard, %s', (set) => {
  cpuTest('is the plain formula with factors of 16 bits', () => {
    cpu.instructionSet = set
    for (const more of [{}, { window: 40, softcap: 3, sink: true, outLow: true }]) {
      check(prompt, { H: 16, K: 2, D: 33, E: 17 }, 'bf16', { standard: true, ...more })
      check(deep, { H: 16, K: 2, D: 8, E: 6 }, 'bf16', { standard: true, ...more })
    }
  })
  cpuTest('changes nothing where the processor has no product of bf16, nor for other dtypes', () => {
    cpu.instructionSet = set
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      const { s: _, sees: _sees, gradOut, ...inputs } = problem(prompt, { H: 2, K: 1, D: 32, E: 32 }, dtype)
      const run = (precision: 'high' | 'standard') => {
        const forward = prefixAttention(inputs, { precision })
        return { ...forward, ...prefixAttentionBackward({ ...inputs, gradOut, ...forward }, { precision }) }
      }
      const [high, standard] = [run('high'), run('standard')]
      const rounds = dtype === 'bf16' && /^(avx512_bf16|amx)$/.test(set)
      for (const name of ['out', 'gradQ', 'gradK', 'gradV'] as const) {
        if (rounds)
          expect(Buffer.from(standard[name].data.buffer).equals(Buffer.from(high[name].data.buffer))).toBe(false)
        else identical(standard[name] as HostArray, high[name] as HostArray)
      }
    }
  })
})

describe('window', () => {
  const sizes = { H: 2, K: 1, D: 8, E: 8 }
  // From its own token alone to more than the path has; across a tile of keys, and to the edge of one.
  test.each([1, 2, 4, 63, 64, 65, 111, 112, 113, 2 ** 31, 2 ** 53 - 1])('%i tokens', (window) => {
    check(prompt, sizes, 'f32', { window })
    check(deep, sizes, 'f32', { window })
  })
  test.each([1, 3, 9])('many short responses, %i tokens', (window) =>
    check(
      { length: [20, ...Array(50).fill(3)], parent: [-1, ...Array(50).fill(0)] },
      { H: 8, K: 8, D: 3, E: 2 },
      'f32',
      {
        window,
      },
    ),
  )
  test('of at least the longest path: the bits of none', () => {
    const { s: _, sees: _sees, gradOut, ...inputs } = problem(prompt, sizes)
    const run = (window: number | null) => {
      const forward = prefixAttention(inputs, { window })
      return { ...forward, ...prefixAttentionBackward({ ...inputs, gradOut, ...forward }, { window }) }
    }
    const [all, none] = [run(103), run(null)]
    for (const name of Object.keys(none) as (keyof typeof none)[])
      identical(all[name] as HostArray, none[name] as HostArray)
  })
  test('of one token: out is v', () => {
    const { q, k, v, layout } = problem(prompt, { H: 2, K: 2, D: 4, E: 4 })
    identical(prefixAttention({ q, k, v, layout }, { window: 1 }).out, v)
  })
  test('a group of a batch gets the bits that it gets alone', () => {
    const two: Tree = { length: [5, 3, ...prompt.length], parent: [-1, 0, -1, 2, 2, 2] }
    const { s: _, sees: _sees, layout, gradOut, ...pair } = problem(two, { H: 4, K: 2, D: 8, E: 8 }, 'bf16')
    const tail = (x: HostArray) => {
      const row = x.data.length / x.shape[0]!
      return array(x.data.slice(8 * row) as Uint16Array, [x.shape[0]! - 8, ...x.shape.slice(1)], x.dtype as 'bf16')
    }
    const run = (inputs: typeof pair, gradOut: FloatArray, layout: ReturnType<typeof treeLayout>) => {
      const forward = prefixAttention({ ...inputs, layout }, { window: 30 })
      const given = { ...inputs, layout, gradOut, ...forward }
      const { gradK, gradV } = prefixAttentionBackward(given, { window: 30, out: { gradQ: null } })
      return { ...forward, ...prefixAttentionBackward(given, { window: 30 }), gradKAlone: gradK, gradVAlone: gradV }
    }
    const single = { q: tail(pair.q), k: tail(pair.k), v: tail(pair.v) }
    const [a, b] = [
      run(pair, gradOut, layout),
      run(single as typeof pair, tail(gradOut) as FloatArray, treeLayout(prompt)),
    ]
    for (const name of Object.keys(b) as (keyof typeof b)[]) identical(tail(a[name] as HostArray), b[name] as HostArray)
  })
  test('without columns logsumexp counts what is seen', () => {
    const none = (heads: number) => array(new Float32Array(0), [19, heads, 0])
    const inputs = { q: none(2), k: none(1), v: none(1), layout: treeLayout({ length: [9, 6, 4], parent: [-1, 0, 0] }) }
    const { position } = inputs.layout
    for (const sink of [undefined, Float32Array.of(1, -2)]) {
      const { logsumexp } = prefixAttention({ ...inputs, sink }, { window: 7 })
      const exact = Array.from(position.data, (p) =>
        [0, 1].map((h) => Math.log(Math.min(p + 1, 7) + (sink === undefined ? 0 : Math.exp(sink[h]!)))),
      )
      golden(logsumexp, exact.flat(), 1)
    }
  })
})

describe('sink', () => {
  const tree: Tree = { length: [4, 3, 2], parent: [-1, 0, 0] }
  const sizes = { H: 3, K: 1, D: 4, E: 4 }
  const run = (sink: number[] | undefined, more = {}) => {
    const { s: _, sees: _sees, gradOut, ...arrays } = problem(tree, sizes)
    const inputs = { ...arrays, ...(sink && { sink: Float32Array.from(sink) }), ...more }
    const forward = prefixAttention(inputs)
    return { ...forward, ...prefixAttentionBackward({ ...inputs, gradOut, ...forward }) }
  }
  const without = run(undefined)
  test.each([-1e30, Number.NEGATIVE_INFINITY])('%d is none', (sink) => {
    const { gradSink, ...rest } = run([sink, sink, sink])
    for (const name of Object.keys(without) as (keyof typeof without)[])
      golden(rest[name as 'out'], values(without[name] as HostArray), 4)
    expect(Array.from(gradSink!.data, Math.abs)).toEqual([0, 0, 0])
  })
  test.each([1e30, Number.POSITIVE_INFINITY])('%d has all of the weight', (sink) => {
    const all = run([sink, sink, sink])
    expect(all.logsumexp.data.every((x) => x === Math.fround(sink))).toBe(true)
    for (const name of ['out', 'gradQ', 'gradK', 'gradV', 'gradSink'] as const)
      expect(
        Array.from(all[name]!.data, Math.abs).every((x) => x === 0),
        name,
      ).toBe(true)
  })
  test('a large one takes no digits from the rest', () => {
    const { s, q, k, v, layout } = problem(tree, sizes)
    const { logsumexp } = without
    for (const sink of [10, 60, 100]) {
      const given = prefixAttention({ q, k, v, layout, sink: Float32Array.of(sink, sink, sink) }).out
      const exact = Array.from(values(without.out), (x, i) => {
        const row = logsumexp.data[Math.floor(i / s.E)] as number
        return x / (1 + Math.exp(sink - row))
      })
      // What is compared with is itself rounded: out to a unit in its last place, logsumexp to one of about 2.
      accurate(
        { ...given, dtype: 'f32' },
        exact,
        exact.map((x) => x * (1 + 2 ** -21)),
        1,
      )
    }
  })
  test('NaN reaches its head, and no other', () => {
    const dirty = run([0, Number.NaN, 0])
    const clean = run([0, 0, 0])
    for (const name of ['out', 'logsumexp', 'gradQ', 'gradSink'] as const) {
      const width = dirty[name]!.data.length / (name === 'gradSink' ? 3 : 27)
      dirty[name]!.data.forEach((x, i) => {
        if (Math.floor(i / width) % 3 === 1) expect(x, `${name} ${i}`).toBeNaN()
        else expect(x).toBe(clean[name]!.data[i])
      })
    }
  })
  test('gradSink is scaled, and may be left out', () => {
    const { s: _, sees: _sees, ...inputs } = problem(tree, sizes, 'f32', { sink: true })
    const { gradOut, ...forward } = inputs
    const given = { ...inputs, ...prefixAttention(forward) }
    const one = prefixAttentionBackward(given).gradSink!
    const two = prefixAttentionBackward(given, { gradScale: -3 }).gradSink!
    golden(
      two,
      Array.from(one.data, (x) => -3 * x),
      2,
    )
    expect(prefixAttentionBackward(given, { out: { gradSink: null } })).not.toHaveProperty('gradSink')
    const alone = prefixAttentionBackward(given, { out: { gradQ: null, gradK: null, gradV: null } })
    expect(Object.keys(alone)).toEqual(['gradSink'])
    identical(alone.gradSink!, one)
  })
  test('no tokens: gradSink is 0', () => {
    const none = (heads: number) => array(new Float32Array(0), [0, heads, 4])
    const layout = treeLayout({ length: [0], parent: [-1] })
    const inputs = { q: none(3), k: none(1), v: none(1), layout, sink: new Float32Array(3) }
    const forward = prefixAttention(inputs)
    const { gradSink } = prefixAttentionBackward({ ...inputs, gradOut: none(3), ...forward })
    expect(Array.from(gradSink!.data)).toEqual([0, 0, 0])
  })
})

describe('softcap', () => {
  const sizes = { H: 2, K: 1, D: 8, E: 8 }
  test.each([0.01, 1, 50, 1e30])('%d', (softcap) => check(prompt, sizes, 'f32', { softcap }))
  test.each([
    [4, 50],
    [6, 100],
  ])('numbers of %i, capped at %i', (size, softcap) => {
    for (const dtype of ['f32', 'bf16'] as const) check(prompt, { ...sizes, H: 8, K: 4 }, dtype, { softcap, size })
  })
  test('a score that overflows is capped', () => {
    const rows = (data: number[]) => array(Float32Array.from(data), [2, 1, 1])
    const [q, k, v] = [rows([1, -1e30]), rows([1e30, 1]), rows([2, 4])]
    const layout = treeLayout({ length: [2], parent: [-1] })
    const { out, logsumexp } = prefixAttention({ q, k, v, layout }, { softcap: 3, scale: 1 })
    // Token 1 sees -1e60, that is -3, and -1e30, that is -3.
    golden(out, [2, 3])
    golden(logsumexp, [3, -3 + Math.log(2)])
  })
})

test('outLow gives gradQ the error that an out of float32 would', () => {
  // Scores near each other and values far from 0, so that gradOut . out cancels gradOut . v.
  const [P, D] = [96, 32]
  const r = random(2)
  const make = (size: number, shift = 0) =>
    floats(
      r.normals(P * D, size).map((x) => x + shift),
      [P, 1, D],
      'bf16',
    )
  const [q, k, v, gradOut] = [make(0.3), make(0.3), make(0.1, 3), make(1)]
  const inputs = { q, k, v, layout: treeLayout({ length: [P], parent: [-1] }) }
  const wide = (x: FloatArray) => array(exactly(x), [P, 1, D])
  const exactOut = prefixAttention({ ...inputs, q: wide(q), k: wide(k), v: wide(v) })
  const exact = prefixAttentionBackward({
    ...inputs,
    q: wide(q),
    k: wide(k),
    v: wide(v),
    gradOut: wide(gradOut),
    ...exactOut,
  })
  const low = floats(new Float32Array(P * D), [P, 1, D], 'bf16')
  const forward = prefixAttention(inputs, { out: { outLow: low } })
  const error = (more: object) => {
    const { gradQ } = prefixAttentionBackward({ ...inputs, gradOut, ...forward, outLow: undefined, ...more })
    const own = values(gradQ)
    return Math.sqrt((exact.gradQ.data as Float32Array).reduce((sum, x, i) => sum + (x - (own[i] as number)) ** 2, 0))
  }
  const rounding = Math.sqrt((exact.gradQ.data as Float32Array).reduce((sum, x) => sum + (x - (exactly(floats(Float32Array.of(x), [1], 'bf16'))[0] as number)) ** 2, 0)) // biome-ignore format: a line
  expect(error({})).toBeGreaterThan(2 * rounding)
  expect(error({ outLow: low })).toBeLessThan(1.02 * rounding)
})

test('slices of one array have the bits of dense arrays', () => {
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const { q, k, v, layout } = problem(deep, { H: 4, K: 2, D: 8, E: 6 }, dtype)
    const dense = prefixAttention({ q, k, v, layout })
    const sliced = prefixAttention({ ...sideBySide({ q, k, v }).views, layout })
    identical(sliced.out, dense.out)
    identical(sliced.logsumexp, dense.logsumexp)
  }
})
