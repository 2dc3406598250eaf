import { describe, expect, test } from 'vitest'
import { array, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import {
  tokenLogprobBackwardReference as backwardReference,
  tokenLogprobReference as reference,
} from './references/token_logprob.js'
import { accurate, close, exactly, golden, identical, refuses, ulp, values } from './support/compare.js'
import { batch, dtypes, filled, forwardOf, logitsOf, plainOf, rows } from './support/logits_cases.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

describe('golden numbers', () => {
  const logits = rows([2, 1, 0, -1])
  const token = new Int32Array([1])
  const options = { temperature: 0.7 }
  const { logp, entropy, logsumexp } = tokenLogprob({ logits, token }, options)
  const gradient = (a: number, b: number) =>
    tokenLogprobBackward(
      { logits, token, logsumexp, entropy, gradLogp: filled(1, a), gradEntropy: filled(1, b) },
      options,
    ).gradLogits

  test('forward', () => {
    golden(logp, [-1.6992452593], 1)
    golden(entropy, [0.7020279765004136], 1)
    golden(logsumexp, [3.1278166878324276], 1)
  })
  test('d logp', () => golden(gradient(1, 0), [-1.0898075415, 1.1673979217, -0.0625905016, -0.0149998786], 1))
  test('d entropy', () => golden(gradient(0, 1), [-0.4700930012, 0.2604467348, 0.1518313322, 0.0578149341], 1))
})

describe('against float64', () => {
  const cases = dtypes.flatMap((dtype) => [1, 0.7, 3].map((temperature) => ({ dtype, temperature })))

  test.each(cases)('forward $dtype, temperature $temperature', ({ dtype, temperature }) => {
    const b = batch(dtype)
    for (const mask of [undefined, b.mask]) {
      const result = tokenLogprob({ logits: b.logits, token: b.token, row: b.row, mask }, { temperature })
      const inputs = { ...plainOf(b), mask, temperature }
      const [expected, plain] = [reference(inputs), reference(inputs, Math.fround)]
      for (const name of ['logp', 'entropy', 'logsumexp'] as const) accurate(result[name], expected[name], plain[name])
    }
  })

  test.each(cases)('backward $dtype, temperature $temperature', ({ dtype, temperature }) => {
    const b = batch(dtype)
    const gradLogp = b.r.normals(b.T)
    const gradEntropy = b.r.normals(b.T)
    const inputs = { logits: b.logits, token: b.token, row: b.row }
    for (const mask of [undefined, b.mask]) {
      const forward = tokenLogprob({ ...inputs, mask }, { temperature })
      const { logsumexp, entropy } = forward
      const exact = { ...plainOf(b), mask, temperature }
      const grads = [
        { gradLogp },
        { gradLogp, gradEntropy, entropy },
        { gradLogp: filled(b.T, 0), gradEntropy, entropy },
      ]
      for (const grad of grads) {
        const expected = backwardReference(exact, grad.gradLogp, grad.gradEntropy)
        const plain = backwardReference(exact, grad.gradLogp, grad.gradEntropy, Math.fround)
        const outs = dtype === 'f32' ? [undefined] : [undefined, filled(b.R * b.V, 5)]
        for (const data of outs) {
          const out = data && { gradLogits: array(data, [b.R, b.V]) }
          const all = { ...inputs, mask, logsumexp, ...grad }
          const { gradLogits } = tokenLogprobBackward(all, { temperature, ...(out && { out }) })
          expect(gradLogits.dtype).toBe(data ? 'f32' : dtype)
          accurate(gradLogits, expected, plain)
        }
      }
    }
  })

  // A GPU's fast power of two, which long rows of 16-bit logits take, is off by up to 2^-22: few large terms show it most.
  test.each(dtypes.flatMap((dtype) => [2, 3, 8].map((large) => ({ dtype, large }))))(
    'long rows of $dtype in which $large logits count',
    ({ dtype, large }) => {
      const [R, V] = [24, 4999]
      const r = random(21 + large)
      const data = r.normals(R * V, 1, -30)
      const token = Int32Array.from({ length: R }, () => r.integer(V - large))
      for (let t = 0; t < R; t++)
        for (let i = 0; i < large; i++) data[t * V + token[t]! + i] = r.normal() - (t % 2 ? 0 : 12)
      const logits = logitsOf(dtype, data, V)
      const result = tokenLogprob({ logits, token }, { temperature: 0.9 })
      const inputs = { logits: values(logits), V, token, temperature: 0.9 }
      const [expected, plain] = [reference(inputs), reference(inputs, Math.fround)]
      for (const name of ['logp', 'entropy', 'logsumexp'] as const) accurate(result[name], expected[name], plain[name])

      const [gradLogp, gradEntropy] = [r.normals(R), r.normals(R)]
      const gradients = { ...forwardOf(result), gradLogp, gradEntropy }
      const out = { gradLogits: array(filled(R * V, 5), [R, V]) }
      const { gradLogits } = tokenLogprobBackward({ logits, token, ...gradients }, { temperature: 0.9, out })
      const [exact, rounded] = [undefined, Math.fround].map((round) =>
        backwardReference(inputs, gradLogp, gradEntropy, round),
      )
      accurate(gradLogits, exact!, rounded!)
    },
  )

  test('a vocabulary of 151,936', () => {
    const V = 151_936
    const data = random(5).normals(2 * V, 2.5)
    const logits = logitsOf('f32', data, V)
    const token = new Int32Array([7, V - 1])
    const result = tokenLogprob({ logits, token })
    const expected = reference({ logits: data, V, token })
    // One rounding to float32: no error of the sum over the vocabulary shows.
    for (const name of ['logp', 'entropy', 'logsumexp'] as const) golden(result[name], expected[name], 1)
  })

  test('central differences', () => {
    const b = batch('f32', 11)
    const [V, T] = [7, 9]
    const data = b.r.normals(4 * V)
    const token = Int32Array.from({ length: T }, () => b.r.integer(V))
    const row = Int32Array.from({ length: T }, () => b.r.integer(4))
    const [a, h] = [b.r.normals(T), b.r.normals(T)]
    const logits = logitsOf('f32', data, V)
    const forward = tokenLogprob({ logits, token, row }, { temperature: 0.8 })
    const { gradLogits } = tokenLogprobBackward(
      { logits, token, row, ...forwardOf(forward), gradLogp: a, gradEntropy: h },
      { temperature: 0.8 },
    )
    const loss = (x: number[]) => {
      const f = reference({ logits: x, V, token, row, temperature: 0.8 })
      return f.logp.reduce((sum, lp, t) => sum + lp * a[t]! + f.entropy[t]! * h[t]!, 0)
    }
    const step = 1e-5
    const slopes = Array.from(data, (_, i) => {
      const moved = (by: number) => loss(Array.from(data, (x, j) => (j === i ? x + by : x)))
      return (moved(step) - moved(-step)) / (2 * step)
    })
    // The gradient is rounded to float32; the differences are good to the square of the step.
    close(gradLogits.data, slopes, 1e-7)
  })
})

describe('properties', () => {
  test('adding a constant to a row changes no bit of logp, entropy and gradient', () => {
    const b = batch('f32', 4)
    const data = Float32Array.from(b.logits.data as Float32Array, (x) => Math.round(x * 256) / 256)
    const tokens = { token: b.token, row: b.row }
    const gradLogp = b.r.normals(b.T)
    const at = (shift: number) => {
      const logits = logitsOf(
        'f32',
        data.map((x) => x + shift),
        b.V,
      )
      const forward = tokenLogprob({ logits, ...tokens })
      const grads = { ...forwardOf(forward), gradLogp, gradEntropy: gradLogp }
      return { ...forward, ...tokenLogprobBackward({ logits, ...tokens, ...grads }) }
    }
    const expected = at(0)
    for (const shift of [1e4, -1e4, 64]) {
      const moved = at(shift)
      for (const name of ['logp', 'entropy', 'gradLogits'] as const) identical(moved[name], expected[name])
    }
  })
  test.each(dtypes)('each row of the gradient sums to 0: %s', (dtype) => {
    const b = batch(dtype, 8)
    const inputs = { logits: b.logits, token: b.token, row: b.row, mask: b.mask }
    const forward = tokenLogprob(inputs)
    const grads = { ...forwardOf(forward), gradLogp: b.r.normals(b.T), gradEntropy: b.r.normals(b.T) }
    const out = { gradLogits: array(filled(b.R * b.V, 0), [b.R, b.V]) }
    const { data } = tokenLogprobBackward({ ...inputs, ...grads }, { out }).gradLogits
    for (let r = 0; r < b.R; r++) {
      const row = (data as Float32Array).subarray(r * b.V, (r + 1) * b.V)
      const size = row.reduce((sum, g) => sum + Math.abs(g), 0)
      // Rounding of each entry to float32, and the few last digits of its exponential.
      expect(Math.abs(row.reduce((sum, g) => sum + g, 0))).toBeLessThanOrEqual(2 ** -21 * size)
    }
  })
  test('a row that several tokens share gets the sum of what each alone gives', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.float({ min: -2, max: 2, noNaN: true })), {
          minLength: 1,
          maxLength: 12,
        }),
        fc.array(fc.float({ min: -5, max: 5, noNaN: true }), { minLength: 5, maxLength: 5 }),
        (tokens, list) => {
          const logits = rows(list)
          const token = Int32Array.from(tokens, ([id]) => id)
          const gradLogp = Float32Array.from(tokens, ([, g]) => g)
          const row = new Int32Array(tokens.length)
          const { logsumexp } = tokenLogprob({ logits, token, row })
          const { gradLogits } = tokenLogprobBackward({ logits, token, row, logsumexp, gradLogp })
          const exact = { logits: list, V: 5, token, row }
          const size = gradLogp.reduce((sum, g) => sum + Math.abs(g), 0)
          const expected = backwardReference(exact, gradLogp)
          expected.forEach((g, v) => {
            expect(Math.abs((gradLogits.data[v] as number) - g)).toBeLessThanOrEqual(2 ** -22 * size + ulp(0))
          })
        },
      ),
    )
  })
  test('a row gets the bits that it gets alone', () => {
    const b = batch('f16', 9)
    const { logp } = tokenLogprob({ logits: b.logits, token: b.token, row: b.row })
    for (const t of [0, 7, 39]) {
      const r = b.row[t] as number
      const own = logitsOf('f16', Float32Array.from(values(b.logits)).slice(r * b.V, (r + 1) * b.V), b.V)
      const alone = tokenLogprob({ logits: own, token: b.token.slice(t, t + 1) })
      expect(alone.logp.data[0]).toBe(logp.data[t])
    }
  })
})

test('a part of a vocabulary begins at an id: vocabStart is below 2^31', () => {
  const logits = rows([0, 0])
  const token = new Int32Array([2 ** 31 - 1])
  const forward = tokenLogprob({ logits, token }, { vocabStart: 2 ** 31 - 1 })
  golden(forward.logp, [-Math.LN2], 1)
  const backward = { logits, token, ...forwardOf(forward), gradLogp: new Float32Array(1) }
  for (const vocabStart of [2 ** 31, 2 ** 40])
    for (const run of [
      () => tokenLogprob({ logits, token }, { vocabStart }),
      () => tokenLogprobBackward(backward, { vocabStart }),
    ])
      refuses(run, {
        error: RangeError,
        code: 'ERR_GRPO_OPTION',
        argument: 'vocabStart',
        message: exactly(`vocabStart is ${vocabStart}, expected 0 to 2147483647`),
      })
})
