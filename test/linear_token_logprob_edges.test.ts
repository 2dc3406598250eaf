import { describe, expect, test } from 'vitest'
import { array, linearTokenLogprob, linearTokenLogprobBackward, tokenLogprob } from '../lib/index.js'
import { golden, identical, refuses } from './support/compare.js'
import { filled, floats, matrix } from './support/linear_cases.js'
import { random } from './support/random.js'

const outputNames = ['logp', 'entropy', 'logsumexp'] as const

test('a part of a head without valid columns adds nothing to gradHidden', () => {
  const hidden = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const given = { token: Int32Array.of(0, 0), logsumexp: Float32Array.of(1, 1), gradLogp: Float32Array.of(1, 1) }
  const head = array(new Float32Array(4).fill(1), [2, 2])
  const padding = linearTokenLogprobBackward({ hidden, head, ...given }, { vocabStart: 4, validVocab: 0 })
  const none = linearTokenLogprobBackward(
    { hidden, head: array(new Float32Array(0), [0, 2]), ...given },
    { vocabStart: 4 },
  )
  for (const { gradHidden } of [padding, none]) expect(Array.from(gradHidden.data)).toEqual([0, 0, 0, 0])
  expect(Array.from(padding.gradHead.data)).toEqual([0, 0, 0, 0])
})

// Beyond 512 ids the CPU takes a row in several parts.
test.each([3, 100, 512, 513, 600, 1100])('a part of a head of %d ids, all -inf', (V) => {
  const hidden = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const head = array(new Float32Array(2 * V).fill(1), [V, 2])
  const inputs = { hidden, head, headBias: new Float32Array(V).fill(-Infinity), token: Int32Array.of(1, 4 * V) }
  const logits = array(new Float32Array(2 * V).fill(-Infinity), [2, V])
  const part = linearTokenLogprob(inputs, { vocabStart: 0 })
  const same = tokenLogprob({ logits, token: inputs.token }, { vocabStart: 0 })
  for (const name of outputNames) identical(part[name], same[name])
  expect(Array.from(part.logsumexp.data)).toEqual([-Infinity, -Infinity])
})

test('an entropy of which there is no gradient is not looked at', () => {
  const [hidden, head] = [array(Float32Array.of(1, 2, 3, -1), [2, 2]), array(Float32Array.of(1, 0, 0, 1, 1, 1), [3, 2])]
  const token = Int32Array.of(2, 0)
  const { logsumexp } = linearTokenLogprob({ hidden, head, token })
  const given = { hidden, head, token, logsumexp, gradLogp: Float32Array.of(1, -2) }
  const expected = linearTokenLogprobBackward(given)
  for (const nobodys of [Number.NaN, Number.POSITIVE_INFINITY, 77]) {
    const actual = linearTokenLogprobBackward({ ...given, entropy: filled(2, nobodys) })
    identical(actual.gradHidden, expected.gradHidden)
    identical(actual.gradHead, expected.gradHead)
  }
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

  // f16 has a narrow range: what a large gradient is scaled by may not take the digits of others.
  test.each(['f32', 'bf16', 'f16'] as const)('a large gradient leaves those of other tokens alone: %s', (dtype) => {
    const [V, D] = [16, 8]
    const r = random(5)
    const side = (i: number) => (i % 2 === 0 ? 24 : -24)
    // Logits of +-576: the probabilities of row 0 for odd tokens are exactly 0, those of row 1 for even ones.
    const data = (n: number) => r.normals(n * D).map((x, i) => (i % D === 0 ? side(i / D) : x))
    const hidden = floats(dtype, data(2), [2, D])
    const forward = { hidden, head: floats(dtype, data(V), [V, D]), token: new Int32Array([2, 3]) }
    const { logsumexp } = linearTokenLogprob(forward)
    const odd = (size: number) => {
      const out = { gradHead: array(filled(V * D, 7), [V, D]) }
      const gradLogp = new Float32Array([size, 1])
      const { gradHead } = linearTokenLogprobBackward({ ...forward, logsumexp, gradLogp }, { out })
      return Array.from(gradHead.data as Float32Array).filter((_, i) => Math.floor(i / D) % 2 === 1)
    }
    const expected = odd(0)
    expect(expected.filter((x) => x !== 0).length).toBeGreaterThan(D)
    for (const size of [1, 1e10, 1e20, 1e30]) expect(odd(size)).toEqual(expected)
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
    for (let v = 1100; v < 1108; v++) bias[v] = 0 // two groups of four on a device, which adds up groups
    const few = array(head.data.slice(1100 * D, 1108 * D), [8, D])
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
