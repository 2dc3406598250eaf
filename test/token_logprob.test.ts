import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { array, type HostArray, toBf16, toF16, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import { accurate, close, golden, identical, refuses, ulp, values } from './compare.js'
import { random } from './random.js'
import {
  tokenLogprobBackwardReference as backwardReference,
  type LogitsInputs,
  tokenLogprobReference as reference,
} from './references/token_logprob.js'

type Logits = HostArray<'f32' | 'bf16' | 'f16'>
type LogitsDType = Logits['dtype']

const logitsOf = (dtype: LogitsDType, data: Float32Array, V: number): Logits => {
  const shape = [data.length / V, V]
  if (dtype === 'f32') return array(data, shape)
  return dtype === 'bf16' ? array(toBf16(data), shape, 'bf16') : array(toF16(data), shape, 'f16')
}
const rows = (...list: number[][]): Logits => logitsOf('f32', Float32Array.from(list.flat()), list[0]!.length)
const numbers = (x: HostArray) => Array.from(values(x))
const filled = (n: number, value: number) => new Float32Array(n).fill(value)

/** 23 rows of 301 columns, some of them -inf, for 40 tokens; the last row belongs to no token, the first to several. */
function batch(dtype: LogitsDType, seed = 3) {
  const r = random(seed)
  const [R, V, T] = [23, 301, 40]
  const data = r.normals(R * V, 3, 2)
  for (let i = 0; i < data.length; i++) if (r.uniform() < 0.05) data[i] = -Infinity
  const row = Int32Array.from({ length: T }, (_, t) => (t < 6 ? 0 : r.integer(R - 1)))
  const token = Int32Array.from({ length: T }, (_, t) => (t < 3 ? 17 : r.integer(V)))
  return { logits: logitsOf(dtype, data, V), token, row, mask: r.mask(T, 0.8), R, V, T, r }
}
const plainOf = (b: { logits: Logits; V: number } & Omit<LogitsInputs, 'logits'>): LogitsInputs => ({
  ...b,
  logits: values(b.logits),
})

const dtypes: LogitsDType[] = ['f32', 'bf16', 'f16']

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

const forwardOf = ({ entropy, logsumexp }: { entropy: HostArray<'f32'>; logsumexp: HostArray<'f32'> }) => ({
  entropy,
  logsumexp,
})

describe('edges', () => {
  const one = (list: number[], token = 0) => {
    const forward = tokenLogprob({ logits: rows(list), token: new Int32Array([token]) })
    return [forward.logp, forward.entropy, forward.logsumexp].map((x) => x.data[0] as number)
  }
  const backward = (list: number[], token: number, a: number, b = 0) => {
    const inputs = { logits: rows(list), token: new Int32Array([token]) }
    const grads = { gradLogp: filled(1, a), gradEntropy: filled(1, b) }
    return Array.from(tokenLogprobBackward({ ...inputs, ...forwardOf(tokenLogprob(inputs)), ...grads }).gradLogits.data)
  }

  test('one column', () => {
    expect(one([3.5])).toEqual([0, 0, 3.5])
    expect(backward([3.5], 0, 2, 3)).toEqual([0])
  })
  test('one possible token: entropy exactly 0, gradient exactly 0', () => {
    expect(one([-Infinity, 1e4, -Infinity], 1)).toEqual([0, 0, 1e4])
    expect(backward([-Infinity, 1e4, -Infinity], 1, 2, 3)).toEqual([0, 0, 0])
    expect(one([0, 200, 0], 1)).toEqual([0, 0, 200])
  })
  test('a token of probability 0', () => {
    expect(one([0, -Infinity, 0], 1)).toEqual([-Infinity, Math.fround(Math.log(2)), Math.fround(Math.log(2))])
    expect(backward([0, -Infinity, 0], 1, 2)).toEqual([-1, 2, -1])
  })
  test('all logits equal', () => {
    for (const [V, x] of [
      [7, 1e4],
      [1000, -3],
    ] as const) {
      const [logp, entropy] = one(Array(V).fill(x), 3)
      expect([logp, entropy]).toEqual([Math.fround(-Math.log(V)), Math.fround(Math.log(V))])
      // The entropy is at its maximum: a gradient of 0.
      backward(Array(V).fill(x), 3, 0, 1).forEach((g) => expect(Math.abs(g)).toBeLessThan(2 ** -23 / V))
    }
  })
  test.each([[[0, Number.NaN, 1]], [[0, Infinity, 1]], [[-Infinity, -Infinity, -Infinity]]])(
    'no softmax: %j',
    (list) => {
      expect(one(list)).toEqual([Number.NaN, Number.NaN, Number.NaN])
      expect(backward(list, 0, 1)).toEqual([Number.NaN, Number.NaN, Number.NaN])
      expect(backward(list, 0, 0)).toEqual([0, 0, 0])
    },
  )
  test('NaN in a gradient stays in its row', () => {
    const logits = rows([1, 2], [3, 4])
    const token = new Int32Array([0, 1])
    const { logsumexp } = tokenLogprob({ logits, token })
    const gradLogp = new Float32Array([Number.NaN, 1])
    const { data } = tokenLogprobBackward({ logits, token, logsumexp, gradLogp }).gradLogits
    expect(Array.from(data, Number.isNaN)).toEqual([true, true, false, false])
  })
  test('no tokens, no rows', () => {
    const none = { token: new Int32Array(0), row: new Int32Array(0) }
    const logits = rows([1, 2])
    expect(tokenLogprob({ logits, ...none }).logp.data.length).toBe(0)
    const empty = { logsumexp: filled(0, 0), gradLogp: filled(0, 0) }
    expect(Array.from(tokenLogprobBackward({ logits, ...none, ...empty }).gradLogits.data)).toEqual([0, 0])
    const noRows = array(new Float32Array(0), [0, 5])
    expect(tokenLogprob({ logits: noRows, token: none.token }).logp.data.length).toBe(0)
  })
  test('masked tokens and rows without tokens: not looked at, exactly 0, in place too', () => {
    const logits = rows([1, 2, 3], [NaN, NaN, NaN], [4, 5, 6], [Infinity, 0, 0])
    const token = new Int32Array([2, -7, 1, 2 ** 31 - 1])
    const row = new Int32Array([0, 99, 2, -1])
    const mask = new Uint8Array([1, 0, 1, 0])
    const forward = tokenLogprob({ logits, token, row, mask })
    for (const x of [forward.logp, forward.entropy, forward.logsumexp]) {
      expect([x.data[1], x.data[3]]).toEqual([0, 0])
      expect(Array.from(x.data).every(Number.isFinite)).toBe(true)
    }
    const gradLogp = new Float32Array([1, NaN, 0.5, Infinity])
    const inputs = { logits, token, row, mask, ...forwardOf(forward), gradLogp, gradEntropy: gradLogp }
    const { gradLogits } = tokenLogprobBackward(inputs)
    expect(Array.from(gradLogits.data).map((g) => g === 0)).toEqual([
      false, false, false, true, true, true, false, false, false, true, true, true,
    ]) // biome-ignore format: four rows
    const inPlace = tokenLogprobBackward(inputs, { out: { gradLogits: logits } }).gradLogits
    expect(inPlace.data).toBe(logits.data)
    identical(inPlace, gradLogits)
  })
  test('rows that lie apart', () => {
    const b = batch('bf16')
    const stride = b.V + 11
    const spread = new Uint16Array(b.R * stride - 11).fill(0x7fc0)
    for (let r = 0; r < b.R; r++) {
      spread.set((b.logits.data as Uint16Array).subarray(r * b.V, (r + 1) * b.V), r * stride)
    }
    const apart = array(spread, [b.R, b.V], 'bf16')
    const tokens = { token: b.token, row: b.row }
    const dense = tokenLogprob({ logits: b.logits, ...tokens })
    const forward = tokenLogprob({ logits: apart, ...tokens }, { stride })
    identical(forward.logp, dense.logp)
    const grads = { logsumexp: forward.logsumexp, gradLogp: b.r.normals(b.T) }
    const expected = tokenLogprobBackward({ logits: b.logits, ...tokens, ...grads }).gradLogits
    identical(tokenLogprobBackward({ logits: apart, ...tokens, ...grads }, { stride }).gradLogits, expected)
    tokenLogprobBackward({ logits: apart, ...tokens, ...grads }, { stride, out: { gradLogits: apart } })
    for (let r = 0; r < b.R; r++) {
      const written = spread.subarray(r * stride, r * stride + b.V)
      expect(written).toEqual((expected.data as Uint16Array).subarray(r * b.V, (r + 1) * b.V))
      expect(spread.subarray(r * stride + b.V, (r + 1) * stride).every((x) => x === 0x7fc0)).toBe(true)
    }
  })
  test('more than 2^31 elements', () => {
    const [R, V] = [70_000, 32_768]
    const logits = array(new Uint16Array(R * V), [R, V], 'bf16') // zeros: pages that nobody touches cost nothing
    ;(logits.data as Uint16Array)[R * V - 1] = 0x4120 // 10
    const inputs = { logits, token: new Int32Array([V - 1]), row: new Int32Array([R - 1]) }
    const lse = Math.log(V - 1 + Math.exp(10))
    golden(tokenLogprob(inputs).logp, [10 - lse], 1)

    const stride = 2 ** 31 + 64
    const apart = array(new Uint16Array(stride + 2), [2, 2], 'bf16')
    const twoRows = { logits: apart, token: new Int32Array([1, 1]) }
    const grads = { logsumexp: tokenLogprob(twoRows, { stride }).logsumexp, gradLogp: filled(2, 1) }
    tokenLogprobBackward({ ...twoRows, ...grads }, { stride, out: { gradLogits: apart } })
    expect(Array.from(apart.data.subarray(stride))).toEqual(Array.from(toBf16(new Float32Array([-0.5, 0.5]))))
  })
  test('the entries of targets are rounded once to bf16', () => {
    // 1 + 2^-8 + 2^-30: rounded to float32 first it would be a tie, and the tie would go down to 1.
    const logits = logitsOf('bf16', new Float32Array([-Infinity, 0]), 2)
    const inputs = { logits, token: new Int32Array([0, 0]), row: new Int32Array(2) }
    const { logsumexp } = tokenLogprob(inputs)
    const gradLogp = new Float32Array([1 + 2 ** -8, 2 ** -30])
    expect(numbers(tokenLogprobBackward({ ...inputs, logsumexp, gradLogp }).gradLogits)[0]).toBe(1 + 2 ** -7)
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

describe('bad input', () => {
  const logits = rows([1, 2, 3], [4, 5, 6])
  const token = new Int32Array([0, 2])
  const good = { logits, token, logsumexp: filled(2, 3), gradLogp: filled(2, 1) }
  test('T differs from R where row is absent', () => {
    const three = new Int32Array(3)
    const error = {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      argument: 'token',
      message: /2 \(R = 2 from logits\).* row /,
    }
    refuses(() => tokenLogprob({ logits, token: three }), error)
    refuses(
      () => tokenLogprobBackward({ logits, token: three, logsumexp: filled(3, 0), gradLogp: filled(3, 0) }),
      error,
    )
  })
  test('gradEntropy without entropy', () => {
    const error = { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'entropy', message: /gradEntropy is given/ }
    refuses(() => tokenLogprobBackward({ ...good, gradEntropy: filled(2, 1) }), error)
  })
  test('a token outside the vocabulary, a row outside the rows, a temperature of 0', () => {
    const value = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_VALUE', argument })
    refuses(() => tokenLogprob({ logits, token: new Int32Array([0, 3]) }), value('token'))
    refuses(() => tokenLogprob({ logits, token, row: new Int32Array([0, 2]) }), value('row'))
    for (const temperature of [0, -1, Infinity, NaN]) {
      refuses(() => tokenLogprob({ logits, token }, { temperature }), { error: RangeError, code: 'ERR_GRPO_OPTION' })
    }
  })
  test('a gradient in another dtype, or over a part of the logits', () => {
    const half = array(new Uint16Array(6), [2, 3], 'bf16')
    const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'gradLogits' }
    refuses(() => tokenLogprobBackward(good, { out: { gradLogits: half } }), dtype)
    const memory = new Float32Array(7)
    const first = array(memory.subarray(0, 6), [2, 3])
    const second = array(memory.subarray(1), [2, 3])
    const overlap = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'gradLogits' }
    refuses(() => tokenLogprobBackward({ ...good, logits: first }, { out: { gradLogits: second } }), overlap)
  })
})
