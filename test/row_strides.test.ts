// Arrays whose rows lie apart, parts of something wider: the bits are those of dense arrays, and what lies between the
// rows is neither read nor written.
import { describe, expect, test } from 'vitest'
import {
  array,
  gatherRows,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  policyLossFromLogits,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { backend } from './support/backend_kind.js'
import { identical, refuses } from './support/compare.js'
import { setsFor } from './support/kept_cases.js'
import { floats, gradientNames } from './support/linear_cases.js'
import { type Batch, batch, D, R, V, valid } from './support/option_cases.js'

type Matrix = HostArray<'f32' | 'bf16' | 'f16'>
const between = (x: Matrix) => (x.dtype === 'f32' ? Number.NaN : 0x7fff) // NaN in all three

// On a device the bits are those of dense arrays where the rows begin at multiples of 16 bytes, as dense ones do there:
// others go through another product.
const [gap5, gap3, gap7, gap2] = backend === 'cpu' ? [5, 3, 7, 2] : [8, 16, 24, 8]

/** The same rows, `gap` elements apart and `gap` from the beginning of their memory. */
function apart(x: Matrix, gap = gap5): Matrix {
  const [rows = 0, columns = 0] = x.shape
  const stride = columns + gap
  const Data = x.data.constructor as Float32ArrayConstructor
  const data = new Data(gap + rows * stride).fill(between(x))
  for (let i = 0; i < rows; i++) data.set(x.data.subarray(i * columns, (i + 1) * columns), gap + i * stride)
  return array(data.subarray(gap) as never, [...x.shape], x.dtype as 'bf16', { stride }) as Matrix
}

/** As a dense array; the elements between the rows have to be what `apart` wrote there. */
function together(x: Matrix): Matrix {
  const [rows = 0, columns = 0] = x.shape
  const stride = x.stride as number
  const data = x.data.slice(0, rows * columns)
  for (let i = 0; i < rows; i++) {
    data.set(x.data.subarray(i * stride, i * stride + columns), i * columns)
    const gap = Array.from(x.data.subarray(i * stride + columns, (i + 1) * stride))
    expect(gap).toEqual(gap.map(() => between(x)))
  }
  return array(data as never, [...x.shape], x.dtype as 'bf16') as Matrix
}

const zeros = (x: Matrix, dtype = x.dtype) => {
  const [rows = 0, columns = 0] = x.shape
  return floats(dtype, new Float32Array(rows * columns), [rows, columns])
}

const policyOf = (b: Batch) => ({
  advantage: Float32Array.of(1, -0.5),
  sequenceStart: Int32Array.of(0, 9, b.T),
})

const cases = (['f32', 'bf16', 'f16'] as const).flatMap((dtype) =>
  [false, true].map((sets) => ({ dtype, sets, what: sets ? 'rows with sets of ids' : 'whole rows' })),
)
describe.each(cases)('hidden states and head in $dtype, $what', ({ dtype, sets }) => {
  const b = batch(dtype, { rowTemperature: true, validVocab: valid, softcap: 6 })
  const { hidden, head, headBias } = b.linear
  const kept = sets ? setsFor(b) : undefined
  const inputs = { ...b.inputs, ...(kept && { keptStart: kept.keptStart, kept: kept.kept }) }
  const wide = { hidden: apart(hidden), head: apart(head, gap3), headBias }

  test('that begin anywhere', () => {
    const odd = [1, 9].map((gap) => {
      const linear = { hidden: apart(hidden, gap), head: apart(head, gap + 2), headBias }
      const { logp, logsumexp, entropy } = linearTokenLogprob({ ...linear, ...inputs }, b.options)
      const out = { gradHidden: apart(zeros(hidden), gap), gradHead: apart(zeros(head), gap) }
      const outer = { logsumexp, entropy, ...b.grads }
      linearTokenLogprobBackward({ ...linear, ...inputs, ...outer }, { ...b.options, out })
      return [logp, together(out.gradHidden), together(out.gradHead)]
    })
    odd[0]?.forEach((x, i) => void identical(x, odd[1]?.[i] as HostArray))
  })

  test('log-probabilities', () => {
    const dense = linearTokenLogprob({ ...b.linear, ...inputs }, b.options)
    const strided = linearTokenLogprob({ ...wide, ...inputs }, b.options)
    for (const name of ['logp', 'entropy', 'logsumexp'] as const) identical(strided[name], dense[name])
  })

  // In chunks of 5 rows the sums go through scratch memory, or through the output where that is float32.
  const ways = [
    { chunkRows: null, accumulate: false, wider: false },
    { chunkRows: 5, accumulate: false, wider: false },
    { chunkRows: 5, accumulate: true, wider: false },
    { chunkRows: null, accumulate: true, wider: true },
  ]
  test.each(ways)('gradients, chunks of $chunkRows, accumulate $accumulate, float32 $wider', (way) => {
    const { wider, ...chosen } = way
    const options = { ...b.options, ...chosen, gradScale: 0.5 }
    const gradients = () => ({
      gradHidden: zeros(hidden, wider ? 'f32' : dtype),
      gradHead: zeros(head, wider ? 'f32' : dtype),
      gradHeadBias: array(new Float32Array(V), [V]),
    })
    const { logsumexp, entropy } = linearTokenLogprob({ ...b.linear, ...inputs }, b.options)
    const outer = { logsumexp, entropy, ...b.grads }
    const backward = (linear: Batch['linear'], out: ReturnType<typeof gradients>) =>
      linearTokenLogprobBackward({ ...linear, ...inputs, ...outer }, { ...options, out })
    const loss = (linear: Batch['linear'], out: ReturnType<typeof gradients>) =>
      linearPolicyLoss({ ...linear, ...inputs, ...policyOf(b) }, { ...options, out })
    for (const compute of [backward, loss]) {
      const dense = compute(b.linear, gradients())
      const { gradHidden, gradHead, gradHeadBias } = gradients()
      const out = { gradHidden: apart(gradHidden, gap7), gradHead: apart(gradHead, gap2), gradHeadBias }
      const strided = compute(wide, out)
      expect(strided.gradHead).toBe(out.gradHead)
      identical(together(strided.gradHidden as Matrix), dense.gradHidden)
      identical(together(strided.gradHead as Matrix), dense.gradHead)
      identical(strided.gradHeadBias as HostArray, dense.gradHeadBias as HostArray)
    }
    const fresh = { ...options, accumulate: false }
    const made = linearTokenLogprobBackward({ ...wide, ...inputs, ...outer }, fresh)
    const dense = linearTokenLogprobBackward({ ...b.linear, ...inputs, ...outer }, fresh)
    for (const name of gradientNames) {
      expect(made[name]?.stride).toBeUndefined()
      identical(made[name] as HostArray, dense[name] as HostArray)
    }
  })
})

describe.each(['f32', 'bf16'] as const)('logits in %s', (dtype) => {
  const b = batch(dtype, { rowTemperature: false, validVocab: valid, softcap: null })
  const wide = apart(b.logits)

  test('that lie apart, by their own stride or by the option', () => {
    const dense = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
    for (const stride of [undefined, V + gap5]) {
      const strided = tokenLogprob({ logits: wide, ...b.inputs }, { ...b.options, stride })
      for (const name of ['logp', 'entropy', 'logsumexp'] as const) identical(strided[name], dense[name])
    }
    refuses(() => tokenLogprob({ logits: wide, ...b.inputs }, { ...b.options, stride: V + gap5 - 1 }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'stride',
      message: new RegExp(`is ${V + gap5 - 1}, but the rows of logits lie ${V + gap5} apart`),
    })
  })

  test('and a gradient that does, in its own memory or in theirs', () => {
    const { logsumexp, entropy } = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
    const backward = (logits: Matrix, out: object) =>
      tokenLogprobBackward({ logits, ...b.inputs, logsumexp, entropy, ...b.grads }, { ...b.options, out }).gradLogits
    const loss = (logits: Matrix, out: object) =>
      policyLossFromLogits({ logits, ...b.inputs, ...policyOf(b) }, { ...b.options, out }).gradLogits
    for (const compute of [backward, loss]) {
      const dense = compute(b.logits, {})
      identical(together(compute(wide, { gradLogits: apart(zeros(b.logits), 9) }) as Matrix), dense)
      identical(compute(wide, { gradLogits: zeros(b.logits) }), dense)
      identical(together(compute(b.logits, { gradLogits: apart(zeros(b.logits), 9) }) as Matrix), dense)
      const own = apart(b.logits)
      identical(together(compute(own, { gradLogits: own }) as Matrix), dense)
    }
  })

  test('and by the option alone, which is not that of a gradient elsewhere in their memory', () => {
    const { logsumexp, entropy } = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
    const backward = (logits: Matrix, options: object) =>
      tokenLogprobBackward({ logits, ...b.inputs, logsumexp, entropy, ...b.grads }, { ...b.options, ...options })
    const dense = backward(b.logits, {}).gradLogits
    const loss = (logits: Matrix, options: object) =>
      policyLossFromLogits({ logits, ...b.inputs, ...policyOf(b) }, { ...b.options, ...options })
    const ofLoss = loss(b.logits, {}).gradLogits
    const extent = wide.data.length
    const memory = new (wide.data.constructor as Float32ArrayConstructor)(extent + 2 * R * V)
    memory.set(wide.data)
    const logits = array(memory.subarray(0, extent) as never, [R, V], dtype as 'bf16') as Matrix
    const part = (i: number) => memory.subarray(extent + i * R * V, extent + (i + 1) * R * V)
    for (const i of [0, 1]) {
      const gradLogits = array(part(i) as never, [R, V], dtype as 'bf16') as Matrix
      const options = { stride: V + gap5, out: { gradLogits } }
      identical((i === 0 ? backward : loss)(logits, options).gradLogits, i === 0 ? dense : ofLoss)
    }
    expect(memory.subarray(0, extent)).toEqual(wide.data)
  })
})

describe('parts of the same wider rows', () => {
  const b = batch('f32', { rowTemperature: false, validVocab: null, softcap: null })
  const outer = { logsumexp: new Float32Array(b.T), ...b.grads, gradEntropy: undefined }
  /** Columns `begin` .. of rows twice as wide as the hidden states. */
  const part = (memory: Float32Array, begin: number) =>
    array(memory.subarray(begin), [R, D], 'f32', { stride: 2 * D }) as HostArray<'f32'>

  test('hidden states in the one half, their gradient in the other', () => {
    const memory = new Float32Array(R * 2 * D + D)
    const hidden = part(memory, 0)
    for (let i = 0; i < R; i++)
      memory.set((b.linear.hidden.data as Float32Array).subarray(i * D, (i + 1) * D), i * 2 * D)
    const call = (given: Matrix, out: object) =>
      linearTokenLogprobBackward({ ...b.linear, hidden: given, ...b.inputs, ...outer }, { out }).gradHidden
    const dense = call(b.linear.hidden, {})
    const gradHidden = call(hidden, { gradHidden: part(memory, D) })
    for (let i = 0; i < R; i++) {
      const row = gradHidden.data.subarray(i * 2 * D, i * 2 * D + D)
      expect(row).toEqual(dense.data.subarray(i * D, (i + 1) * D))
    }
    if (backend !== 'cpu') return // a copy on a device overlaps nothing
    // One column more, and the last of the one lies in the first of the other.
    for (const begin of [D - 1, D + 1]) {
      refuses(() => call(hidden, { gradHidden: part(memory, begin) }), {
        error: RangeError,
        code: 'ERR_GRPO_VALUE',
        argument: 'gradHidden',
        message: /overlaps hidden/,
      })
    }
  })
})

describe('refused', () => {
  const six = new Float32Array(6)
  const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }

  test('strides that are none', () => {
    const make = (sizes: number[], stride: unknown) => array(six, sizes, 'f32', { stride: stride as number })
    for (const stride of [2, -3, 2.5, Number.NaN, 2 ** 60]) {
      refuses(() => make([2, 3], stride), { ...shape, argument: 'data' })
    }
    refuses(() => make([2, 3], '3'), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'data' })
    refuses(() => make([6], 6), { ...shape, argument: 'data', message: /has stride 6, expected none: it has one axis/ })
    refuses(() => make([2, 2], 5), { ...shape, message: /its shape \[2, 2\] with rows 5 apart needs 7/ })
    expect(make([2, 2], 4).stride).toBe(4)
    expect(make([0, 2], 100).stride).toBe(100)
    refuses(() => array(six, [2, 3], 'f32', { strides: 3 } as object), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'strides',
    })
    refuses(() => array(six, [2, 3], 'f32', null as never), { error: TypeError, code: 'ERR_GRPO_TYPE' })
  })

  test('rows that lie apart where an array has to be dense', () => {
    const x = array(six, [2, 2], 'f32', { stride: 3 })
    const index = new Int32Array([1])
    refuses(() => gatherRows({ x, index }), {
      ...shape,
      argument: 'x',
      message: /has rows that lie 3 apart, expected 2: this array has to be dense/,
    })
    const dense = array(six, [3, 2], 'f32', { stride: 2 })
    expect(gatherRows({ x: dense, index }).x.shape).toEqual([1, 2])
  })

  test('the option, where it is not that of the logits', () => {
    const b = batch('f32', { rowTemperature: false, validVocab: null, softcap: null })
    refuses(() => linearTokenLogprob({ ...b.linear, ...b.inputs }, { stride: D } as object), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'stride',
    })
  })
})
