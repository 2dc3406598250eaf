// tokenLogprob and its backward pass where rows are masked, shared, extreme, apart or not finite; golden numbers and accuracy
// are held in token_logprob.test.ts.
import { describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { array, cpu, toBf16, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { golden, identical, refuses, values } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { batch, filled, forwardOf, logitsOf, rows } from './support/logits_cases.js'

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

  // The difference of two logsumexps of that size has no digits left.
  test.each([1e10, 1e15, 1e30])('two equal logits of %d have gradients of a half', (size) => {
    expect(backward([size, size], 0, 1)).toEqual([0.5, -0.5])
  })
  // There the exponential leaves the normal numbers of float32, and its exponent the bits that it has.
  const usual = cpu.instructionSet
  const setsHere = backend === 'cpu' ? instructionSetNames.filter((name) => native.setInstructionSet(name)) : ['none']
  cpu.instructionSet = usual
  test.each(setsHere)('logits from 80 to 110 below the largest, with %s', (name) => {
    if (backend === 'cpu') cpu.instructionSet = name
    try {
      const R = 481
      const below = Float32Array.from({ length: R }, (_, r) => 80 + r / 16)
      for (const columns of [2, 40]) {
        // The largest is 0, all the others are far below it.
        const logits = array(Float32Array.from({ length: R * columns }, (_, i) => (i % columns === 1 ? 0 : -below[Math.floor(i / columns)]!)), [R, columns]) // biome-ignore format: a line
        const inputs = { logits, token: new Int32Array(R) }
        const forward = tokenLogprob(inputs)
        expect(forward.logp.data).toEqual(below.map((x) => -x))
        expect(forward.logsumexp.data).toEqual(new Float32Array(R))
        const grads = { gradLogp: filled(R, 1), gradEntropy: filled(R, 1) }
        const { gradLogits } = tokenLogprobBackward({ ...inputs, ...forwardOf(forward), ...grads })
        const own = values(gradLogits)
        for (let i = 0; i < R * columns; i++) {
          const expected = i % columns === 0 ? 1 : i % columns === 1 ? -1 : 0
          expect(Math.abs((own[i] as number) - expected)).toBeLessThanOrEqual(columns * 112 * Math.exp(-80))
        }
        expect(Math.max(...forward.entropy.data)).toBeLessThanOrEqual(columns * 81 * Math.exp(-80))
        expect(Math.min(...forward.entropy.data)).toBeGreaterThanOrEqual(0)
      }
    } finally {
      cpu.instructionSet = usual
    }
  })
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
  test('an entropy of which there is no gradient is not looked at', () => {
    const logits = rows([1, 2, 3], [0.5, -1, 2])
    const token = Int32Array.of(2, 0)
    const { logsumexp } = tokenLogprob({ logits, token })
    const given = { logits, token, logsumexp, gradLogp: Float32Array.of(1, -2) }
    const expected = tokenLogprobBackward(given).gradLogits
    for (const nobodys of [NaN, Infinity, 77]) {
      const { gradLogits } = tokenLogprobBackward({ ...given, entropy: filled(2, nobodys) })
      identical(gradLogits, expected)
    }
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
  // Of both kernels. Strides say at which bytes of 16 the rows begin, and where there is room for the gradient in place.
  const widths = [67, 4999].flatMap((V) => (['f32', 'bf16', 'f16'] as const).map((dtype) => ({ V, dtype })))
  test.each(widths)('$V columns of $dtype have the same bits wherever rows begin', ({ V, dtype }) => {
    const R = 9
    const normals = batch(dtype).r.normals(R * V, 3)
    const token = Int32Array.from({ length: R }, (_, t) => [0, V - 1, 7][t % 3] as number)
    const of = (stride: number) => {
      const spread = new Float32Array((R - 1) * stride + V).fill(0.5)
      for (let r = 0; r < R; r++) spread.set(normals.subarray(r * V, (r + 1) * V), r * stride)
      const { data } = logitsOf(dtype, spread, spread.length)
      const logits = array(data as Uint16Array, [R, V], dtype as 'bf16', { stride })
      const given = { logits, token }
      const forward = tokenLogprob(given)
      const grads = { ...forwardOf(forward), gradLogp: filled(R, 0.75), gradEntropy: filled(R, -0.5) }
      const own = tokenLogprobBackward({ ...given, ...grads }).gradLogits
      const wide = tokenLogprobBackward(
        { ...given, ...grads },
        { out: { gradLogits: array(new Float32Array(R * V), [R, V]) } },
      )
      tokenLogprobBackward({ ...given, ...grads }, { out: { gradLogits: logits } })
      for (let r = 0; r < R; r++) {
        const row = (data as Uint16Array).subarray(r * stride, r * stride + V)
        expect(row).toEqual((own.data as Uint16Array).subarray(r * V, (r + 1) * V))
        const gap = (data as Uint16Array).subarray(r * stride + V, (r + 1) * stride)
        expect(new Set(gap).size).toBeLessThanOrEqual(1)
      }
      return [forward.logp, forward.entropy, forward.logsumexp, own, wide.gradLogits]
    }
    const aligned = of(V + 8 - (V % 8))
    for (const gap of [0, 1, 2, 3, 6, 12]) of(V + gap).forEach((x, i) => void identical(x, aligned[i] as typeof x))
  })
  // On a device it takes 17 GB, and an array that cuda.upload refuses.
  cpuTest('more than 2^31 elements', () => {
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
  // Beside a tie by 2^-30: rounded to float32 first it would be that tie, and go to the number whose last digit is even.
  test.each([
    ['bf16', 2 ** -8],
    ['f16', 2 ** -11],
  ] as const)('the entries of targets are rounded once to %s', (dtype, half) => {
    for (const V of [2, 5000])
      for (const sign of [1, -1])
        for (const [tie, beside, expected] of [
          [1 + half, 2 ** -30, 1 + 2 * half],
          [1 + 3 * half, -(2 ** -30), 1 + 2 * half],
        ] as const) {
          const logits = logitsOf(dtype, new Float32Array(V).fill(-Infinity, 0, V - 1), V)
          const inputs = { logits, token: new Int32Array([0, 0]), row: new Int32Array(2) }
          const { logsumexp } = tokenLogprob(inputs)
          const gradLogp = new Float32Array([sign * tie, sign * beside])
          const { gradLogits } = tokenLogprobBackward({ ...inputs, logsumexp, gradLogp })
          const where = `${V} columns, ${sign} * (${tie} + ${beside})`
          expect(values(gradLogits as typeof logits)[0], where).toBe(sign * expected)
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
    if (backend !== 'cpu') return // the copies on a device lie apart
    const overlap = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'gradLogits' }
    refuses(() => tokenLogprobBackward({ ...good, logits: first }, { out: { gradLogits: second } }), overlap)
  })
})
