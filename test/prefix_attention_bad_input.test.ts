// What attention refuses of its options, with nothing written, and arrays of shapes that stay right at their edges.
import { describe, expect, test } from 'vitest'
import { array, type HostArray, prefixAttention, prefixAttentionBackward, prefixLayout } from '../lib/index.js'
import { check, floats, problem, sideBySide } from './support/attention_cases.js'
import { backend } from './support/backend_kind.js'
import { exactly, refuses, values } from './support/compare.js'

const {
  s: _,
  sees: _sees,
  gradOut,
  ...inputs
} = problem({ length: [2, 1], parent: [-1, 0] }, { H: 4, K: 2, D: 4, E: 4 })
const forward = prefixAttention(inputs)
/** Both passes, with the same inputs and options more. */
const both = (more: object, options: object): [string, () => unknown][] => [
  ['prefixAttention', () => prefixAttention({ ...inputs, ...more }, options)],
  ['prefixAttentionBackward', () => prefixAttentionBackward({ ...inputs, gradOut, ...forward, ...more }, options)],
]

describe('options', () => {
  const wrong: [string, unknown, typeof RangeError | typeof TypeError, string, string][] = [
    ['window', 0, RangeError, 'ERR_GRPO_OPTION', 'window is 0, expected at least 1'],
    ['window', -3, RangeError, 'ERR_GRPO_OPTION', 'window is -3, expected at least 0 or null'],
    ['window', 1.5, RangeError, 'ERR_GRPO_OPTION', 'window is 1.5, expected a whole number or null'],
    ['window', '8', TypeError, 'ERR_GRPO_TYPE', 'window is "8", expected a number or null'],
    ['softcap', 0, RangeError, 'ERR_GRPO_OPTION', 'softcap is 0, expected a number above 0'],
    ['softcap', -50, RangeError, 'ERR_GRPO_OPTION', 'softcap is -50, expected a number above 0'],
    ['softcap', Number.POSITIVE_INFINITY, RangeError, 'ERR_GRPO_OPTION', 'expected a finite number or null'],
    ['softcap', 1e39, RangeError, 'ERR_GRPO_OPTION', 'which float32 can hold with its inverse'],
    ['softcap', 1e-39, RangeError, 'ERR_GRPO_OPTION', 'which float32 can hold with its inverse'],
    ['precision', 'low', RangeError, 'ERR_GRPO_OPTION', 'expected one of high, standard'],
    ['stride', 16, TypeError, 'ERR_GRPO_OPTION', ''],
  ]
  test.each(wrong)('%s of %s', (argument, value, error, code, sentence) => {
    for (const [operation, run] of both({}, { [argument]: value })) {
      refuses(run, { error, code, argument, ...(sentence !== '' && { message: exactly(sentence) }) })
      expect(operation).toBeTruthy()
    }
  })
})

describe('sink', () => {
  const sentence = (text: string) => ({ message: new RegExp(text) })
  test('of another length, dtype or shape', () => {
    for (const [, run] of both({ sink: new Float32Array(3) }, {}))
      refuses(run, {
        error: RangeError,
        code: 'ERR_GRPO_SHAPE',
        argument: 'sink',
        ...sentence('has length 3, expected 4'),
      })
    for (const [, run] of both({ sink: array(new Uint16Array(4), [4], 'bf16') }, {}))
      refuses(run, {
        error: TypeError,
        code: 'ERR_GRPO_DTYPE',
        argument: 'sink',
        ...sentence('has dtype bf16, expected f32'),
      })
    for (const [, run] of both({ sink: array(new Float32Array(4), [2, 2]) }, {}))
      refuses(run, { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'sink' })
  })
  test('a place for its gradient without one', () => {
    refuses(
      () => prefixAttentionBackward({ ...inputs, gradOut, ...forward }, { out: { gradSink: new Float32Array(4) } }),
      { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'sink' },
    )
  })
})

describe('outLow', () => {
  const low = floats(new Float32Array(48), [3, 4, 4], 'f32')
  test('of float32', () => {
    const expected = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'outLow', message: /outLow could hold$/ }
    refuses(() => prefixAttention(inputs, { out: { outLow: low } }), expected)
    refuses(() => prefixAttentionBackward({ ...inputs, gradOut, ...forward, outLow: low }), expected)
  })
  test('of another dtype or shape', () => {
    const half = problem({ length: [2, 1], parent: [-1, 0] }, { H: 4, K: 2, D: 4, E: 4 }, 'bf16')
    const { q, k, v, layout } = half
    const run = (outLow: HostArray) => () => prefixAttention({ q, k, v, layout }, { out: { outLow } })
    refuses(run(low), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'outLow' })
    const short = floats(new Float32Array(32), [2, 4, 4], 'bf16')
    refuses(run(short), { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'outLow' })
    expect(short.data.every((x) => x === 0)).toBe(true)
    const { out, logsumexp } = prefixAttention({ q, k, v, layout })
    refuses(() => prefixAttentionBackward({ q, k, v, layout, gradOut: half.gradOut, out, logsumexp, outLow: short }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'outLow',
    })
  })
})

describe('outLow of another forward call', () => {
  const shape = { H: 4, K: 2, D: 8, E: 8 }
  const call = (dtype: 'bf16' | 'f16', seed: number) => {
    const {
      s: _,
      sees: _sees,
      gradOut,
      ...inputs
    } = problem({ length: [2, 40], parent: [-1, 0] }, shape, dtype, {}, seed)
    const outLow = floats(new Float32Array(42 * 4 * 8), [42, 4, 8], dtype)
    return { ...inputs, gradOut, ...prefixAttention(inputs, { out: { outLow } }), outLow }
  }
  const hasNaN = ({ gradQ }: { gradQ: unknown }) => Array.from(values(gradQ as HostArray)).some(Number.isNaN)
  test.each(['bf16', 'f16'] as const)('%s: is refused, with nothing written; NaN on a device', (dtype) => {
    const [own, other] = [call(dtype, 1), call(dtype, 2)]
    const gradQ = floats(new Float32Array(42 * 4 * 8).fill(7), [42, 4, 8], 'f32')
    expect(hasNaN(prefixAttentionBackward(own))).toBe(false)
    const wrong = () => prefixAttentionBackward({ ...own, outLow: other.outLow }, { out: { gradQ } })
    if (backend !== 'cpu') return expect(hasNaN(wrong())).toBe(true)
    refuses(wrong, {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'outLow',
      message: /^prefixAttentionBackward: outLow has at \[\d+,\d,\d\] more than rounding can have lost of out there/,
    })
    expect(gradQ.data.every((x) => x === 7)).toBe(true)
  })
  test.each([
    ['bf16', 0x3f80, 0x3b80], // of 1, half a unit is 2^-8
    ['f16', 0x3c00, 0x1000], // and 2^-11
    ['bf16', 0, 1], // of 0, what float32 rounds to a least number
    ['f16', 0x0400, 0x0001],
    ['bf16', 0x7f80, 0x7fc0], // of infinity, anything
  ] as const)('%s: half a unit in the last place of %s is taken, more is not', (dtype, high, low) => {
    const layout = prefixLayout([{ prefix: 1, responses: [1] }])
    const of = (word: number) => array(new Uint16Array(2).fill(word), [2, 1, 1], dtype)
    const given = {
      q: of(0),
      k: of(0),
      v: of(0),
      gradOut: of(0),
      out: of(high),
      logsumexp: array(new Float32Array(2), [2, 1]),
    }
    const run = (word: number) => () => prefixAttentionBackward({ ...given, layout, outLow: of(word) })
    for (const sign of [0, 0x8000]) expect(hasNaN(run(low | sign)())).toBe(high === 0x7f80)
    if (high === 0x7f80) return
    if (backend !== 'cpu') expect(hasNaN(run(low + 0x80)())).toBe(true)
    else refuses(run(low + 0x80), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'outLow' })
  })
})

describe('rows that lie apart', () => {
  const views = sideBySide({ gradQ: inputs.q, gradK: inputs.k, gradV: inputs.v })
  const backward = (out: object) => () => prefixAttentionBackward({ ...inputs, gradOut, ...forward }, { out })
  test('a stride below a row', () => {
    refuses(() => array(new Float32Array(64), [3, 4, 4], 'f32', { stride: 15 }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
    })
    const q = { ...inputs.q, stride: 15 }
    refuses(() => prefixAttention({ ...inputs, q }), { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'q' })
  })
  test('views that overlap', () => {
    const before = views.whole.slice()
    const { gradQ, gradK } = views.views
    // gradK would begin in the last head of gradQ.
    const data = (gradQ.data as Float32Array).subarray(12)
    const over = array(data, [...gradK.shape], 'f32', { stride: gradK.stride as number })
    refuses(backward({ gradQ, gradK: over }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'gradQ',
      message: exactly('overlaps gradK, expected memory of its own'),
    })
    refuses(backward({ gradQ: inputs.q }), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'gradQ' })
    expect(Array.from(views.whole)).toEqual(Array.from(before))
  })
  test('out has none', () => {
    const wide = array(new Float32Array(96), [3, 4, 4], 'f32', { stride: 32 })
    refuses(() => prefixAttention(inputs, { out: { out: wide } }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'out',
    })
  })
})

describe('sizes', () => {
  test.each([1, 7, 192, 513])('D of %i with every option', (D) => {
    const E = D === 192 ? 128 : D
    check({ length: [5, 3, 4], parent: [-1, 0, 0] }, { H: D < 8 ? 16 : 2, K: D < 8 ? 8 : 1, D, E }, 'bf16', {
      ...{ window: 4, softcap: 20, sink: false, outLow: true, strided: true },
    })
  })
  test('many segments without tokens, and a hundred thousand responses of one token', () => {
    // The interpreter would take minutes for so many; blocks have 256 threads.
    const responses = Array.from({ length: backend === 'simt' ? 300 : 100_000 }, (_, i) => (i % 10 === 0 ? 1 : 0))
    for (const lengths of [responses, responses.map(() => 1)]) {
      const layout = prefixLayout([{ prefix: 9, responses: lengths }])
      const P = layout.position.data.length
      const one = array(new Float32Array(P).fill(1), [P, 1, 1])
      const run = prefixAttention({ q: one, k: one, v: one, layout }, { window: 5, scale: 1 })
      expect(run.logsumexp.data.every((x, p) => Math.abs(x - 1 - Math.log(Math.min(p + 1, 5))) < 1e-6)).toBe(true)
      const { gradV } = prefixAttentionBackward(
        { q: one, k: one, v: one, gradOut: one, layout, ...run },
        { window: 5, scale: 1 },
      )
      // The last token of the prefix is seen by itself and, one fifth each, by all responses.
      const count = lengths.reduce((a, b) => a + b, 0)
      expect(gradV.data[8]! / (0.2 + count / 5)).toBeCloseTo(1, 4)
      expect(gradV.data[4]).toBeCloseTo(1, 5)
    }
  })
})
