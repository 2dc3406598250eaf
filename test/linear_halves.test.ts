import { describe, expect, test } from 'vitest'
import { array, type HostArray, linearTokenLogprob, linearTokenLogprobBackward } from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference } from './references/token_logprob.js'
import { accurateRows, identical, values } from './support/compare.js'
import { floats } from './support/linear_cases.js'
import { random } from './support/random.js'
import { fewOnDevice } from './support/sweep.js'

// Gradients of 16-bit hidden states and heads: those in bf16 are products of float16 factors, scaled by powers of two,
// on a device.
const [R, D, V] = [13, 40, 301]
type Half = 'bf16' | 'f16'

interface Scales {
  headScale?: (v: number, d: number) => number
  gradScale?: (r: number) => number
}

function batch(dtype: Half, { headScale = () => 0.5, gradScale = () => 1 }: Scales = {}) {
  const r = random(7)
  const inputs = {
    hidden: floats(dtype, r.normals(R * D), [R, D]),
    head: floats(
      dtype,
      r.normals(V * D).map((x, i) => x * headScale(Math.floor(i / D), i % D)),
      [V, D],
    ),
    token: Int32Array.from({ length: R }, () => r.integer(V)),
  }
  const { logsumexp } = linearTokenLogprob(inputs)
  return { ...inputs, logsumexp, gradLogp: r.normals(R).map((x, i) => x * gradScale(i)) }
}

function reference({ hidden, head, token, gradLogp }: ReturnType<typeof batch>, round = (x: number) => x) {
  const matrices = { hidden: values(hidden), head: values(head), D }
  const logits = { logits: linearLogits(matrices, round), V, token }
  return linearGradients(matrices, tokenLogprobBackwardReference(logits, gradLogp, undefined, round), round)
}

/** Numbers first, first + step, ... of a matrix: a row or a column of it. */
const part = (x: HostArray, first: number, step: number, count: number) => {
  const own = Uint16Array.from({ length: count }, (_, i) => x.data[first + i * step] as number)
  return array(own, [count], x.dtype as Half)
}
const pick = (x: Float64Array, first: number, step: number, count: number) =>
  Float64Array.from({ length: count }, (_, i) => x[first + i * step] as number)

describe('gradients of 16 bits', () => {
  const dtypes: Half[] = ['bf16', 'f16']

  test.each(dtypes)('%s: rows whose gradients span 2^60 are each as accurate as alone', (dtype) => {
    // f16 results end at 65504 and lose digits below 2^-14.
    const gradScale = (r: number) => 2 ** (dtype === 'f16' ? (r % 5) - 2 : 5 * r - 30)
    const b = batch(dtype, { gradScale })
    const { gradHidden, gradHead } = linearTokenLogprobBackward(b)
    const [exact, plain] = [reference(b), reference(b, Math.fround)]
    for (let r = 0; r < R; r++)
      accurateRows(
        part(gradHidden, r * D, 1, D),
        pick(exact.gradHidden, r * D, 1, D),
        pick(plain.gradHidden, r * D, 1, D),
      )
    accurateRows(gradHead, exact.gradHead, plain.gradHead)
  })

  test('bf16: gradients of 1e30 and of 1e-30', () => {
    for (const size of fewOnDevice([1e30], [1e-30])) {
      const b = batch('bf16', { gradScale: () => size })
      const { gradHidden, gradHead } = linearTokenLogprobBackward(b)
      const [exact, plain] = [reference(b), reference(b, Math.fround)]
      accurateRows(gradHidden, exact.gradHidden, plain.gradHidden)
      accurateRows(gradHead, exact.gradHead, plain.gradHead)
    }
  })

  // As float16 of one power of two the small columns would be 0.
  test('bf16: a head whose columns span 2^48 keeps the digits of each', () => {
    const b = batch('bf16', { headScale: (_, d) => 2 ** (-48 * (d / (D - 1))) })
    const { gradHidden, gradHead } = linearTokenLogprobBackward(b)
    const [exact, plain] = [reference(b), reference(b, Math.fround)]
    for (let d = 0; d < D; d++)
      accurateRows(part(gradHidden, d, D, R), pick(exact.gradHidden, d, D, R), pick(plain.gradHidden, d, D, R))
    accurateRows(gradHead, exact.gradHead, plain.gradHead)
  })

  test('bf16: a head of 2^100, and one of 2^-100', () => {
    for (const exponent of fewOnDevice([100], [-100])) {
      const b = batch('bf16', { headScale: () => 2 ** exponent * 0.5 })
      const hidden = floats(
        'bf16',
        Float32Array.from(values(b.hidden), (x) => x * 2 ** -exponent),
        [R, D],
      )
      const own = { ...b, hidden, logsumexp: linearTokenLogprob({ hidden, head: b.head, token: b.token }).logsumexp }
      const { gradHidden, gradHead } = linearTokenLogprobBackward(own)
      const [exact, plain] = [reference(own), reference(own, Math.fround)]
      accurateRows(gradHidden, exact.gradHidden, plain.gradHidden)
      accurateRows(gradHead, exact.gradHead, plain.gradHead)
    }
  })

  test.each(dtypes)('%s: a token of probability 1 but for 1e-6', (dtype) => {
    const { hidden, head, gradLogp } = batch(dtype)
    const bias = new Float32Array(V).fill(-25)
    bias[7] = 0
    const inputs = { hidden, head, headBias: floats(dtype, bias, [V]), token: new Int32Array(R).fill(7) }
    const { logsumexp } = linearTokenLogprob(inputs)
    const { gradHidden } = linearTokenLogprobBackward({ ...inputs, logsumexp, gradLogp })
    const matrices = { hidden: values(hidden), head: values(head), headBias: values(inputs.headBias), D }
    const [exact, plain] = [(x: number) => x, Math.fround].map((round) => {
      const logits = { logits: linearLogits(matrices, round), V, token: inputs.token }
      return linearGradients(matrices, tokenLogprobBackwardReference(logits, gradLogp, undefined, round), round)
    })
    accurateRows(gradHidden, exact!.gradHidden, plain!.gradHidden)
  })

  test('bf16 hidden states and an f16 head', () => {
    const b = { ...batch('bf16'), head: batch('f16').head }
    const logsumexp = linearTokenLogprob({ hidden: b.hidden, head: b.head, token: b.token }).logsumexp
    const { gradHidden } = linearTokenLogprobBackward({ ...b, logsumexp }, { out: { gradHead: null } })
    accurateRows(gradHidden, reference(b).gradHidden, reference(b, Math.fround).gradHidden)
  })

  test.each(dtypes)('%s: the same bits in every chunk, and of a row alone', (dtype) => {
    const b = batch(dtype, { gradScale: (r) => 2 ** (r - 6) })
    const whole = linearTokenLogprobBackward(b).gradHidden
    for (const chunkRows of fewOnDevice([5], [1, 12]))
      identical(linearTokenLogprobBackward(b, { chunkRows }).gradHidden, whole)
    const r = 4
    const one = <A extends Float32Array | Int32Array>(x: A) => x.slice(r, r + 1) as A
    const alone = linearTokenLogprobBackward({
      hidden: array((b.hidden.data as Uint16Array).slice(r * D, (r + 1) * D), [1, D], dtype),
      head: b.head,
      token: one(b.token),
      logsumexp: one(b.logsumexp.data),
      gradLogp: one(b.gradLogp),
    })
    identical(alone.gradHidden, array((whole.data as Uint16Array).slice(r * D, (r + 1) * D), [1, D], dtype))
  })

  test.each(dtypes)('%s: NaN and infinity stay in their row', (dtype) => {
    const b = batch(dtype)
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const gradLogp = b.gradLogp.slice()
      gradLogp[3] = value
      const { gradHidden, gradHead } = linearTokenLogprobBackward({ ...b, gradLogp })
      const finite = Array.from(values(gradHidden), Number.isFinite)
      expect(finite.every((x, i) => x === (Math.floor(i / D) !== 3))).toBe(true)
      expect(Array.from(values(gradHead), Number.isFinite).includes(true)).toBe(false)
    }
  })
})
