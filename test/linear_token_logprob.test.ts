import { afterEach, describe, expect, test } from 'vitest'
import {
  array,
  cpu,
  type HostArray,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  toBf16,
  toF16,
  tokenLogprob,
} from '../lib/index.js'
import { native } from '../lib/native.js'
import * as promises from '../lib/promises.js'
import { accurate, close, golden, identical, refuses, values } from './compare.js'
import { random } from './random.js'
import { type LinearInputs, linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'

type FloatArray = HostArray<'f32' | 'bf16' | 'f16'>
type FloatType = FloatArray['dtype']

const floats = (dtype: FloatType, data: Float32Array, shape: number[]): FloatArray => {
  if (dtype === 'f32') return array(data, shape)
  return dtype === 'bf16' ? array(toBf16(data), shape, 'bf16') : array(toF16(data), shape, 'f16')
}
const matrix = (rows: number[][]) => array(Float32Array.from(rows.flat()), [rows.length, rows[0]?.length ?? 0])
const filled = (n: number, value: number) => new Float32Array(n).fill(value)
const gradientNames = ['gradHidden', 'gradHead', 'gradHeadBias'] as const
const outputNames = ['logp', 'entropy', 'logsumexp'] as const

interface Types {
  hidden: FloatType
  head: FloatType
  headBias?: FloatType
}

/** 13 rows for 20 tokens; several share row 0, some columns of the bias are -inf, the last row belongs to no token. */
function batch({ hidden, head, headBias }: Types, { R = 13, D = 37, V = 1100, T = 20 } = {}, seed = 3) {
  const r = random(seed)
  const bias = r.normals(V)
  for (let v = 0; v < V; v += 7) bias[v] = Number.NEGATIVE_INFINITY
  const token = Int32Array.from({ length: T }, () => {
    const id = r.integer(V)
    return id % 7 === 0 ? id + 1 : id
  })
  const inputs = {
    hidden: floats(hidden, r.normals(R * D), [R, D]),
    head: floats(head, r.normals(V * D, 0.5), [V, D]),
    ...(headBias && { headBias: floats(headBias, bias, [V]) }),
    token,
    row: Int32Array.from({ length: T }, (_, t) => (t < 4 ? 0 : r.integer(R - 1))),
  }
  const grads = { gradLogp: r.normals(T), gradEntropy: r.normals(T) }
  for (let t = 0; t < T; t += 5) grads.gradLogp[t] = grads.gradEntropy[t] = 0
  const plain: LinearInputs = {
    hidden: values(inputs.hidden),
    head: values(inputs.head),
    D,
    headBias: inputs.headBias && values(inputs.headBias),
  }
  return { inputs, grads, mask: r.mask(T, 0.8), plain, R, D, V, T }
}
type Batch = ReturnType<typeof batch>

function reference(b: Batch, mask: Uint8Array | undefined, temperature: number, round?: (x: number) => number) {
  const { token, row } = b.inputs
  const logits = { logits: linearLogits(b.plain, round), V: b.V, token, row, mask, temperature }
  return {
    ...tokenLogprobReference(logits, round),
    gradients: (gradLogp: Float32Array, gradEntropy?: Float32Array) =>
      linearGradients(b.plain, tokenLogprobBackwardReference(logits, gradLogp, gradEntropy, round), round),
  }
}

const cases: Types[] = [
  { hidden: 'f32', head: 'f32' },
  { hidden: 'f32', head: 'f32', headBias: 'f32' },
  { hidden: 'bf16', head: 'bf16' },
  { hidden: 'bf16', head: 'bf16', headBias: 'bf16' },
  { hidden: 'f16', head: 'f16', headBias: 'f16' },
  { hidden: 'f32', head: 'bf16', headBias: 'f32' },
  { hidden: 'f16', head: 'f32', headBias: 'bf16' },
]

const threads = cpu.threads
const instructionSet = cpu.instructionSet
afterEach(() => {
  cpu.threads = threads
  cpu.instructionSet = instructionSet
})

test('golden numbers', () => {
  // The identity as head: logits 2, 1, 0, -1.
  const head = matrix([0, 1, 2, 3].map((v) => [0, 1, 2, 3].map((d) => Number(v === d))))
  const inputs = { hidden: matrix([[2, 1, 0, -1]]), head, token: new Int32Array([1]) }
  const { logp, entropy, logsumexp } = linearTokenLogprob(inputs, { temperature: 0.7 })
  golden(logp, [-1.6992452593], 1)
  golden(entropy, [0.7020279765004136], 1)
  golden(logsumexp, [3.1278166878324276], 1)
  const grads = { logsumexp, entropy, gradLogp: filled(1, 1), gradEntropy: filled(1, 1) }
  const { gradHidden, gradHead } = linearTokenLogprobBackward({ ...inputs, ...grads }, { temperature: 0.7 })
  const expected = [-1.0898075415 - 0.4700930012, 1.1673979217 + 0.2604467348, 0.1518313322 - 0.0625905016]
  expected.push(0.0578149341 - 0.0149998786)
  golden(gradHidden, expected, 1)
  golden(
    gradHead,
    expected.flatMap((g) => [2 * g, g, 0, -g]),
    1,
  )
})

describe('against float64', () => {
  test.each(cases.flatMap((types) => [1, 0.7].map((temperature) => ({ ...types, temperature }))))(
    'hidden $hidden, head $head, bias $headBias, temperature $temperature',
    ({ temperature, ...types }) => {
      const b = batch(types)
      for (const mask of [undefined, b.mask]) {
        const expected = reference(b, mask, temperature)
        const plain = reference(b, mask, temperature, Math.fround)
        const forward = linearTokenLogprob({ ...b.inputs, mask }, { temperature })
        for (const name of outputNames) accurate(forward[name], expected[name], plain[name])

        const inputs = { ...b.inputs, mask, logsumexp: forward.logsumexp }
        const { gradLogp, gradEntropy } = b.grads
        const result = linearTokenLogprobBackward({ ...inputs, gradLogp }, { temperature })
        const [exact, rounded] = [expected.gradients(gradLogp), plain.gradients(gradLogp)]
        for (const name of gradientNames) if (result[name]) accurate(result[name], exact[name], rounded[name])

        const both = { ...inputs, entropy: forward.entropy, gradLogp, gradEntropy }
        const [exactBoth, roundedBoth] = [
          expected.gradients(gradLogp, gradEntropy),
          plain.gradients(gradLogp, gradEntropy),
        ]
        for (const chunkRows of [null, 5]) {
          const own = linearTokenLogprobBackward(both, { temperature, chunkRows })
          expect(Object.keys(own)).toEqual(types.headBias ? [...gradientNames] : ['gradHidden', 'gradHead'])
          expect([own.gradHidden.dtype, own.gradHead.dtype]).toEqual([types.hidden, types.head])
          for (const name of gradientNames) if (own[name]) accurate(own[name], exactBoth[name], roundedBoth[name])
        }
      }
    },
  )

  test('gradients of 16-bit arrays in float32', () => {
    const b = batch({ hidden: 'bf16', head: 'f16', headBias: 'bf16' })
    const { logsumexp } = linearTokenLogprob(b.inputs)
    const { gradLogp } = b.grads
    const out = {
      gradHidden: array(filled(b.R * b.D, 7), [b.R, b.D]),
      gradHead: array(filled(b.V * b.D, 7), [b.V, b.D]),
      gradHeadBias: array(filled(b.V, 7), [b.V]),
    }
    const exact = reference(b, undefined, 1).gradients(gradLogp)
    const plain = reference(b, undefined, 1, Math.fround).gradients(gradLogp)
    for (const chunkRows of [null, 4]) {
      const result = linearTokenLogprobBackward({ ...b.inputs, logsumexp, gradLogp }, { out, chunkRows })
      for (const name of gradientNames) accurate(result[name] as HostArray, exact[name], plain[name])
    }
  })

  test('central differences', () => {
    const b = batch({ hidden: 'f32', head: 'f32', headBias: 'f32' }, { R: 3, D: 4, V: 11, T: 6 })
    const { logsumexp, entropy } = linearTokenLogprob(b.inputs, { temperature: 0.8 })
    const result = linearTokenLogprobBackward({ ...b.inputs, logsumexp, entropy, ...b.grads }, { temperature: 0.8 })
    const { token, row } = b.inputs
    const loss = (inputs: LinearInputs) => {
      const f = tokenLogprobReference({ logits: linearLogits(inputs), V: b.V, token, row, temperature: 0.8 })
      return f.logp.reduce(
        (sum, logp, t) => sum + logp * (b.grads.gradLogp[t] ?? 0) + (f.entropy[t] ?? 0) * (b.grads.gradEntropy[t] ?? 0),
        0,
      )
    }
    const step = 1e-5
    for (const [name, input] of [
      ['gradHidden', 'hidden'],
      ['gradHead', 'head'],
      ['gradHeadBias', 'headBias'],
    ] as const) {
      const x = Array.from(b.plain[input] as ArrayLike<number>)
      const slopes = x.map((value, i) => {
        if (!Number.isFinite(value)) return 0
        const moved = (by: number) => loss({ ...b.plain, [input]: x.map((y, j) => (j === i ? y + by : y)) })
        return (moved(step) - moved(-step)) / (2 * step)
      })
      // The gradient is computed in float32; the differences are good to the square of the step.
      close((result[name] as HostArray).data, slopes, 1e-6)
    }
  })
})

describe('the same bits', () => {
  const b = batch({ hidden: 'f32', head: 'bf16', headBias: 'f32' })
  const at = (chunkRows: number | null) => {
    const forward = linearTokenLogprob({ ...b.inputs, mask: b.mask }, { chunkRows })
    const { logsumexp, entropy } = forward
    const back = linearTokenLogprobBackward(
      { ...b.inputs, mask: b.mask, logsumexp, entropy, ...b.grads },
      { chunkRows },
    )
    return { ...forward, ...back }
  }
  test.each([1, 3, 64])('chunkRows %d: logp, entropy, logsumexp and gradHidden', (chunkRows) => {
    const [expected, actual] = [at(null), at(chunkRows)]
    for (const name of [...outputNames, 'gradHidden'] as const) identical(actual[name], expected[name])
  })
  test.each([1, 2, 3, 8])('%d threads', (count) => {
    const expected = at(5)
    cpu.threads = count
    const actual = at(5)
    for (const name of [...outputNames, ...gradientNames]) {
      identical(actual[name] as HostArray, expected[name] as HostArray)
    }
  })
  test('a row gets what it gets alone', () => {
    const { logp } = linearTokenLogprob(b.inputs)
    for (const t of [0, 6, 19]) {
      const r = b.inputs.row[t] as number
      const hidden = array((b.inputs.hidden.data as Float32Array).slice(r * b.D, (r + 1) * b.D), [1, b.D])
      const alone = linearTokenLogprob({ ...b.inputs, hidden, token: b.inputs.token.slice(t, t + 1), row: undefined })
      expect(alone.logp.data[0]).toBe(logp.data[t])
    }
  })
  test('from the promises', async () => {
    const forward = linearTokenLogprob(b.inputs)
    identical((await promises.linearTokenLogprob(b.inputs)).logp, forward.logp)
    const inputs = { ...b.inputs, logsumexp: forward.logsumexp, gradLogp: b.grads.gradLogp }
    const { gradHead } = await promises.linearTokenLogprobBackward(inputs)
    identical(gradHead, linearTokenLogprobBackward(inputs).gradHead)
  })
  test('every instruction set is accurate', () => {
    const [expected, plain] = [reference(b, undefined, 1), reference(b, undefined, 1, Math.fround)]
    const { gradLogp } = b.grads
    const [exact, rounded] = [expected.gradients(gradLogp), plain.gradients(gradLogp)]
    const available = ['baseline', 'avx2', 'avx512', 'neon'].filter((name) => native.setInstructionSet(name))
    expect(available.length).toBeGreaterThan(0)
    for (const name of available) {
      cpu.instructionSet = name
      const forward = linearTokenLogprob(b.inputs)
      for (const output of outputNames) accurate(forward[output], expected[output], plain[output])
      const back = linearTokenLogprobBackward({ ...b.inputs, logsumexp: forward.logsumexp, gradLogp })
      for (const output of gradientNames) accurate(back[output] as HostArray, exact[output], rounded[output])
    }
  })
})

describe('edges', () => {
  const inputs = {
    hidden: matrix([
      [1, 2],
      [3, -1],
      [0.5, 1],
    ]),
    head: matrix([
      [1, 0],
      [0, 1],
      [1, 1],
      [-1, 0.5],
    ]),
    token: new Int32Array([0, 3, 2]),
  }
  const withRow = (r: number, value: number) => {
    const data = inputs.hidden.data.slice()
    data.fill(value, 2 * r, 2 * r + 2)
    return { ...inputs, hidden: array(data, [3, 2]) }
  }

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('%d in a row without unmasked tokens touches nothing', (value) => {
    const mask = new Uint8Array([1, 0, 1])
    const tokens = { token: new Int32Array([0, -5, 2]), mask }
    const expected = linearTokenLogprob({ ...inputs, mask })
    const bad = { ...withRow(1, value), ...tokens }
    const forward = linearTokenLogprob(bad)
    for (const name of outputNames) {
      identical(forward[name], expected[name])
      expect(forward[name].data[1]).toBe(0)
    }
    const gradLogp = new Float32Array([1, value, 2])
    const grads = { logsumexp: forward.logsumexp, gradLogp }
    const good = linearTokenLogprobBackward({ ...inputs, mask, ...grads })
    const result = linearTokenLogprobBackward({ ...bad, ...grads })
    identical(result.gradHead, good.gradHead)
    identical(result.gradHidden, good.gradHidden)
    expect(Array.from(result.gradHidden.data.subarray(2, 4))).toEqual([0, 0])
  })

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('%d in a row with gradient 0 leaks nothing', (value) => {
    const { logsumexp, entropy } = linearTokenLogprob(inputs)
    const grads = {
      logsumexp,
      entropy,
      gradLogp: new Float32Array([1, 0, 2]),
      gradEntropy: new Float32Array([1, -0, 0]),
    }
    for (const chunkRows of [1, 2, 64]) {
      const good = linearTokenLogprobBackward({ ...inputs, ...grads }, { chunkRows })
      const result = linearTokenLogprobBackward({ ...withRow(1, value), ...grads }, { chunkRows })
      for (const name of ['gradHidden', 'gradHead'] as const) identical(result[name], good[name])
      expect(Array.from(result.gradHidden.data.subarray(2, 4))).toEqual([0, 0])
      expect(result.gradHead.data.every(Number.isFinite)).toBe(true)
    }
  })

  test('gradients of a shared row that cancel are no gradient of 0', () => {
    const { hidden, head } = inputs
    const shared = { hidden: array(hidden.data.slice(0, 2), [1, 2]), head, token: new Int32Array([0, 3]) }
    const row = new Int32Array(2)
    const { logsumexp } = linearTokenLogprob({ ...shared, row })
    const gradLogp = new Float32Array([1, -1])
    const { gradHidden, gradHead } = linearTokenLogprobBackward({ ...shared, row, logsumexp, gradLogp })
    expect(Array.from(gradHidden.data)).toEqual([2, -0.5])
    expect(Array.from(gradHead.data)).toEqual([1, 2, 0, 0, 0, 0, -1, -2])
  })

  test('NaN in a row that counts shows in that row alone', () => {
    const bad = withRow(1, Number.NaN)
    const forward = linearTokenLogprob(bad)
    for (const name of outputNames) expect(Array.from(forward[name].data, Number.isNaN)).toEqual([false, true, false])
    const { gradHidden } = linearTokenLogprobBackward({ ...bad, logsumexp: forward.logsumexp, gradLogp: filled(3, 1) })
    expect(Array.from(gradHidden.data, Number.isNaN)).toEqual([false, false, true, true, false, false])
  })

  test('a bias of -inf excludes whole blocks of the vocabulary', () => {
    const [D, V] = [3, 2000]
    const r = random(2)
    const hidden = array(r.normals(2 * D), [2, D])
    const head = array(r.normals(V * D), [V, D])
    const bias = filled(V, Number.NEGATIVE_INFINITY)
    for (let v = 1100; v < 1110; v++) bias[v] = 0
    const few = array(head.data.slice(1100 * D, 1110 * D), [10, D])
    const own = linearTokenLogprob({ hidden, head, headBias: array(bias), token: new Int32Array([1103, 5]) })
    const expected = linearTokenLogprob({ hidden, head: few, token: new Int32Array([3, 4]) })
    identical(own.entropy, expected.entropy)
    identical(own.logsumexp, expected.logsumexp)
    expect(Array.from(own.logp.data)).toEqual([expected.logp.data[0], Number.NEGATIVE_INFINITY])
    // Only -inf: there is no distribution.
    const none = { hidden, head, headBias: array(filled(V, Number.NEGATIVE_INFINITY)), token: new Int32Array(2) }
    expect(Array.from(linearTokenLogprob(none).logp.data)).toEqual([Number.NaN, Number.NaN])
  })

  test('no tokens, no rows, nothing in the head', () => {
    const none = { token: new Int32Array(0), row: new Int32Array(0) }
    expect(linearTokenLogprob({ ...inputs, ...none }).logp.data.length).toBe(0)
    const out = { gradHead: array(filled(8, 7), [4, 2]), gradHidden: array(filled(6, 7), [3, 2]) }
    const grads = { logsumexp: filled(0, 0), gradLogp: filled(0, 0) }
    const result = linearTokenLogprobBackward({ ...inputs, ...none, ...grads }, { out })
    expect(Array.from(result.gradHead.data)).toEqual(Array(8).fill(0))
    expect(Array.from(result.gradHidden.data)).toEqual(Array(6).fill(0))
    const noRows = { ...inputs, hidden: array(new Float32Array(0), [0, 2]), token: none.token }
    expect(linearTokenLogprob(noRows).logp.data.length).toBe(0)
    // Without hidden sizes every logit is 0.
    const empty = { hidden: array(new Float32Array(0), [1, 0]), head: array(new Float32Array(0), [5, 0]) }
    const { logp } = linearTokenLogprob({ ...empty, token: new Int32Array([4]) })
    golden(logp, [-Math.log(5)], 1)
  })

  test('outputs that are not wanted', () => {
    const { logp, entropy, logsumexp } = linearTokenLogprob(inputs)
    identical(linearTokenLogprob(inputs, { out: { logp: null } }).logsumexp, logsumexp)
    identical(linearTokenLogprob(inputs, { out: { entropy: null, logsumexp: null } }).logp, logp)
    const grads = { ...inputs, logsumexp, entropy, gradLogp: filled(3, 1) }
    const all = linearTokenLogprobBackward(grads)
    identical(linearTokenLogprobBackward(grads, { out: { gradHead: null } }).gradHidden, all.gradHidden)
    identical(linearTokenLogprobBackward(grads, { out: { gradHidden: null } }).gradHead, all.gradHead)
  })

  test('agrees with tokenLogprob on the logits themselves', () => {
    const b = batch({ hidden: 'f32', head: 'f32' })
    const { token, row } = b.inputs
    const logits = array(Float32Array.from(linearLogits(b.plain)), [b.R, b.V])
    const [own, explicit] = [linearTokenLogprob(b.inputs), tokenLogprob({ logits, token, row })]
    const rounded = tokenLogprobReference(
      { logits: linearLogits(b.plain, Math.fround), V: b.V, token, row },
      Math.fround,
    )
    for (const name of outputNames) accurate(own[name], explicit[name].data, rounded[name])
  })
})

describe('bad input', () => {
  const good = {
    hidden: matrix([
      [1, 2],
      [3, 4],
    ]),
    head: matrix([
      [1, 2],
      [3, 4],
      [5, 6],
    ]),
    token: new Int32Array([0, 2]),
  }
  const grads = { logsumexp: filled(2, 3), gradLogp: filled(2, 1) }
  const both = (bad: object, expected: Parameters<typeof refuses>[1]) => {
    refuses(() => linearTokenLogprob({ ...good, ...bad }), expected)
    refuses(() => linearTokenLogprobBackward({ ...good, ...grads, ...bad }), expected)
  }
  const value = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_VALUE', argument })
  const shape = (argument: string, message?: RegExp) => ({
    error: RangeError,
    code: 'ERR_GRPO_SHAPE',
    argument,
    ...(message && { message }),
  })

  test('ids out of range', () => {
    both({ token: new Int32Array([0, 3]) }, value('token'))
    both({ token: new Int32Array([-1, 0]) }, value('token'))
    both({ row: new Int32Array([0, 2]) }, value('row'))
  })
  test('shapes that do not fit', () => {
    both({ head: matrix([[1, 2, 3]]) }, shape('head', /D = 2 from hidden/))
    both({ headBias: array(filled(2, 0)) }, shape('headBias', /V = 3 from head/))
    both({ mask: new Uint8Array(3) }, shape('mask'))
    const three = { token: new Int32Array(3), logsumexp: filled(3, 0), gradLogp: filled(3, 0) }
    const error = shape('token', /has length 3, expected 2 \(R = 2 from hidden\).* row /)
    refuses(() => linearTokenLogprob({ ...good, token: three.token }), error)
    refuses(() => linearTokenLogprobBackward({ ...good, ...three }), error)
  })
  test('options', () => {
    for (const options of [{ temperature: 0 }, { temperature: Number.NaN }, { chunkRows: 0 }, { chunkRows: 1.5 }]) {
      const error = { error: RangeError, code: 'ERR_GRPO_OPTION', argument: Object.keys(options)[0] as string }
      refuses(() => linearTokenLogprob(good, options), error)
      refuses(() => linearTokenLogprobBackward({ ...good, ...grads }, options), error)
    }
  })
  test('gradEntropy without entropy', () => {
    const error = { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'entropy', message: /gradEntropy is given/ }
    refuses(() => linearTokenLogprobBackward({ ...good, ...grads, gradEntropy: filled(2, 1) }), error)
  })
})
