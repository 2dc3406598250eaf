// What all operations on logits take beside them: temperatures of rows, padding of the vocabulary, parts of it. The
// operations on logits, and those that form them from hidden states.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  lossStats,
  mergeTokenLogprob,
  policyLoss,
  policyLossFromLogits,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { type LogitsInputs, tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { accurate, accurateRows, golden, identical, refuses, values } from './support/compare.js'
import { gradientNames } from './support/linear_cases.js'
import { type LogitsDType, logitsOf } from './support/logits_cases.js'
import { type Batch, batch, D, names, V, valid } from './support/option_cases.js'
import { random } from './support/random.js'

const dtypes: LogitsDType[] = ['f32', 'bf16']
// Every one of them, and every two; the logits lie between -10 and 14, where a cap of 6 bends them all.
const settings = [
  { rowTemperature: true, validVocab: null, softcap: null },
  { rowTemperature: false, validVocab: valid, softcap: null },
  { rowTemperature: false, validVocab: null, softcap: 6 },
  { rowTemperature: true, validVocab: valid, softcap: null },
  { rowTemperature: true, validVocab: null, softcap: 30 },
  { rowTemperature: false, validVocab: valid, softcap: 6 },
]
const plainOf = (b: Batch, logits: ArrayLike<number>): LogitsInputs => ({ logits, V, ...b.inputs, ...b.options })

/** The matrices without the padding, which the equation does not know. */
function matricesOf({ linear, options }: Batch) {
  const rows = options.validVocab ?? V
  const [hidden, head, headBias] = [linear.hidden, linear.head, linear.headBias].map(values) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  return { hidden, head: head.slice(0, rows * D), headBias: headBias.slice(0, rows), D, rows }
}

/** Rows of the columns that there are, as rows of V with padding. */
function widened(x: ArrayLike<number>, columns: number): Float64Array {
  const wide = new Float64Array((x.length / columns) * V)
  for (let i = 0; i < x.length; i++) wide[Math.floor(i / columns) * V + (i % columns)] = x[i] as number
  return wide
}
const trimmed = (x: ArrayLike<number>, columns: number) => Array.from(x).filter((_, i) => i % V < columns)

/**
 * Of the operations on hidden states: exact, and by the plain float32 formula. Padding has gradient 0. `given`: the
 * logsumexp and entropy from which the gradients are formed, rounded as they are, instead of those of the logits.
 */
function linearReference(b: Batch, given?: { logsumexp: HostArray; entropy: HostArray }) {
  const matrices = matricesOf(b)
  const of = (round?: (x: number) => number) => {
    const whole = given && { logsumexp: values(given.logsumexp), entropy: values(given.entropy), vocabStart: 0 }
    const plain = { ...plainOf(b, widened(linearLogits(matrices, round), matrices.rows)), whole }
    const gradLogits = tokenLogprobBackwardReference(plain, b.grads.gradLogp, b.grads.gradEntropy, round)
    const gradients = linearGradients(matrices, trimmed(gradLogits, matrices.rows), round)
    const padded = (x: Float64Array, n: number) => Float64Array.from({ length: n }, (_, i) => x[i] ?? 0)
    return {
      forward: tokenLogprobReference(plain, round),
      gradients: {
        gradHidden: gradients.gradHidden,
        gradHead: padded(gradients.gradHead, V * D),
        gradHeadBias: padded(gradients.gradHeadBias, V),
      },
    }
  }
  const [exact, plain] = [of(), of(Math.fround)]
  return {
    forward: { exact: exact.forward, plain: plain.forward },
    gradients: { exact: exact.gradients, plain: plain.gradients },
  }
}

describe.each(dtypes)('%s', (dtype) => {
  describe.each(settings)('own temperatures: $rowTemperature, columns: $validVocab, soft-cap: $softcap', (setting) => {
    test('of logits, forward and backward', () => {
      const b = batch(dtype, setting)
      const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
      const plain = plainOf(b, values(b.logits))
      const [expected, rounded] = [tokenLogprobReference(plain), tokenLogprobReference(plain, Math.fround)]
      for (const name of names) accurate(forward[name], expected[name], rounded[name])

      const { logsumexp, entropy } = forward
      const { gradLogits } = tokenLogprobBackward(
        { logits: b.logits, ...b.inputs, logsumexp, entropy, ...b.grads },
        b.options,
      )
      const of = (round?: (x: number) => number) =>
        tokenLogprobBackwardReference(plain, b.grads.gradLogp, b.grads.gradEntropy, round)
      accurate(gradLogits, of(), of(Math.fround))
    })

    test('from hidden states, forward and backward', () => {
      const b = batch(dtype, setting)
      const { forward: expected, gradients } = linearReference(b)
      const forward = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
      for (const name of names) accurate(forward[name], expected.exact[name], expected.plain[name])
      const { logsumexp, entropy } = forward
      const result = linearTokenLogprobBackward({ ...b.linear, ...b.inputs, logsumexp, entropy, ...b.grads }, b.options)
      for (const name of gradientNames) accurateRows(result[name]!, gradients.exact[name], gradients.plain[name])
    })

    // The operations in one have the bits of the ones that they are made of.
    test.each(['token', 'sequence'] as const)('the losses, ratio of the %s', (ratio) => {
      const b = batch(dtype, setting)
      const policy = {
        oldLogp: random(2).uniforms(b.T, -8, -4),
        advantage: Float32Array.of(1, -0.5),
        sequenceStart: Int32Array.of(0, 9, b.T),
      }
      const objective = { ratio, entropyCoef: 0.02 }
      const steps = (forward: Record<(typeof names)[number], HostArray<'f32'>>) =>
        policyLoss({ ...policy, logp: forward.logp, entropy: forward.entropy, mask: b.inputs.mask }, objective)

      const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
      const byStep = steps(forward)
      const { gradLogp, gradEntropy } = byStep
      const { logsumexp, entropy } = forward
      const { gradLogits } = tokenLogprobBackward(
        { logits: b.logits, ...b.inputs, logsumexp, entropy, gradLogp, gradEntropy: gradEntropy! },
        b.options,
      )
      const fused = policyLossFromLogits({ logits: b.logits, ...b.inputs, ...policy }, { ...b.options, ...objective })
      identical(fused.loss, byStep.loss)
      identical(fused.gradLogits, gradLogits)
      identical(fused.logp, forward.logp)

      const ofHidden = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
      const linear = linearPolicyLoss({ ...b.linear, ...b.inputs, ...policy }, { ...b.options, ...objective })
      const loss = steps(ofHidden)
      identical(linear.loss, loss.loss)
      identical(linear.logp, ofHidden.logp)
      const gradients = linearTokenLogprobBackward(
        {
          ...b.linear,
          ...b.inputs,
          ...{ logsumexp: ofHidden.logsumexp, entropy: ofHidden.entropy },
          ...{ gradLogp: loss.gradLogp, gradEntropy: loss.gradEntropy! },
        },
        b.options,
      )
      for (const name of gradientNames) identical(linear[name]!, gradients[name]!)
    })

    // Rows without a token, tokens without a gradient, padding: what the memory held shows nowhere.
    test.each(['token', 'sequence'] as const)(
      'gradients into memory that holds something, ratio of the %s',
      (ratio) => {
        const b = batch(dtype, setting)
        const advantage = Float32Array.of(1, 0)
        const inputs = { ...b.inputs, advantage, sequenceStart: Int32Array.of(0, 9, b.T) }
        const fromLogits = (out: object) =>
          policyLossFromLogits({ logits: b.logits, ...inputs }, { ...b.options, ratio, out })
        const fromHidden = (out: object) => linearPolicyLoss({ ...b.linear, ...inputs }, { ...b.options, ratio, out })
        const given = { logits: b.logits, ...b.inputs, gradLogp: b.grads.gradLogp.map((x, t) => (t % 3 ? 0 : x)) }
        const { logsumexp } = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
        const backward = (out: object) => tokenLogprobBackward({ ...given, logsumexp }, { ...b.options, out })
        for (const call of [fromLogits, fromHidden, backward] as ((out: object) => Record<string, HostArray>)[]) {
          const clean = Object.entries(call({})).filter(([name]) => name.startsWith('grad'))
          const dirty = clean.map(([name, x]) => [name, { ...x, data: x.data.slice().fill(55) }])
          const again = call(Object.fromEntries(dirty))
          expect(clean).not.toHaveLength(0)
          for (const [name, x] of clean) identical(again[name]!, x)
        }
      },
    )
  })

  test('a head split over ranks: the parts merged are the whole', () => {
    const b = batch(dtype, { rowTemperature: true, validVocab: valid, softcap: 6 })
    const cut = Math.floor(V / 2)
    const parts = [
      { begin: 0, end: cut, validVocab: null },
      { begin: cut, end: V, validVocab: valid - cut },
    ].map(({ begin, end, validVocab }) => {
      const rows = <X extends HostArray>(x: X, shape: number[]) => {
        const width = shape[1] ?? 1
        return array(x.data.slice(begin * width, end * width) as never, shape, x.dtype) as unknown as X
      }
      const linear = {
        hidden: b.linear.hidden,
        head: rows(b.linear.head, [end - begin, D]),
        headBias: rows(b.linear.headBias, [end - begin]),
      }
      return { linear, begin, options: { temperature: 0.8, softcap: 6, validVocab, vocabStart: begin } }
    })
    const { forward } = linearReference(b)
    const merged = mergeTokenLogprob(
      parts.map(({ linear, options }) => linearTokenLogprob({ ...linear, ...b.inputs }, options)),
    )
    for (const name of names) accurate(merged[name], forward.exact[name], forward.plain[name])

    const { logsumexp, entropy } = merged
    const { gradients } = linearReference(b, merged)
    const inFloat32 = (x: HostArray) => array(new Float32Array(x.data.length), [...x.shape])
    const [first, second] = parts.map(({ linear, options }) => {
      const out = { gradHidden: inFloat32(linear.hidden), gradHead: inFloat32(linear.head) }
      const inputs = { ...linear, ...b.inputs, logsumexp, entropy, ...b.grads }
      return linearTokenLogprobBackward(inputs, { ...options, out })
    }) as [Record<(typeof gradientNames)[number], HostArray>, Record<(typeof gradientNames)[number], HostArray>]
    for (const name of ['gradHead', 'gradHeadBias'] as const) {
      const both = Float32Array.from([...Array.from(values(first[name])), ...Array.from(values(second[name]))])
      accurate(array(both), gradients.exact[name], gradients.plain[name])
    }
    const sum = Float32Array.from(values(first.gradHidden), (x, i) => x + (values(second.gradHidden)[i] as number))
    accurate(array(sum), gradients.exact.gradHidden, gradients.plain.gradHidden)
  })
})

// On sm_90 the blocks of a cluster keep such rows in shared memory.
const long = dtypes.flatMap((dtype) => [null, 5].map((softcap) => ({ dtype, softcap })))
test.each(long)(
  'rows of 9,000 columns in $dtype, the last hundred padding, soft-cap $softcap',
  ({ dtype, softcap }) => {
    const r = random(7)
    const [rows, columns, validVocab] = [3, 9000, 8900]
    const data = r.normals(rows * columns, 2)
    for (let i = 0; i < data.length; i++) if (i % columns >= validVocab) data[i] = Number.NaN
    const logits = logitsOf(dtype, data, columns)
    const beside = {
      token: Int32Array.of(0, 8899, 8899, 77),
      row: Int32Array.of(0, 2, 2, 1),
      rowTemperature: Float32Array.of(0.5, 3, 1.5),
    }
    const options = { temperature: 0.7, softcap, validVocab }
    const policy = { tokenAdvantage: Float32Array.of(1, -1, 0.5, 2), sequenceStart: Int32Array.of(0, 4) }
    const plain = { logits: values(logits), V: columns, ...beside, ...options }
    const forward = tokenLogprob({ logits, ...beside }, options)
    const [expected, rounded] = [tokenLogprobReference(plain), tokenLogprobReference(plain, Math.fround)]
    for (const name of names) accurate(forward[name], expected[name], rounded[name])
    const { logp, entropy, logsumexp } = forward
    const { gradLogp, gradEntropy } = policyLoss({ logp, entropy, ...policy }, { entropyCoef: 0.1 })
    const given = { logits, ...beside, logsumexp, entropy, gradLogp, gradEntropy: gradEntropy! }
    const { gradLogits } = tokenLogprobBackward(given, options)
    const of = (round?: (x: number) => number) =>
      tokenLogprobBackwardReference(plain, gradLogp.data, gradEntropy!.data, round)
    accurate(gradLogits, of(), of(Math.fround))
    const inPlace = { ...options, entropyCoef: 0.1, out: { gradLogits: logits } }
    const fused = policyLossFromLogits({ logits, ...beside, ...policy }, inPlace)
    identical(fused.gradLogits, gradLogits)
    identical(fused.logp, logp)
  },
)

test('a part of a head in which no token lies, and one of -inf alone', () => {
  const hidden = array(Float32Array.of(1, 2), [1, 2])
  const head = array(Float32Array.of(1, 0, 0, 1), [2, 2])
  const token = Int32Array.of(7)
  const other = linearTokenLogprob({ hidden, head, token }, { vocabStart: 2 })
  expect(other.logp.data[0]).toBe(-Infinity)
  golden(other.logsumexp, [Math.log(Math.exp(1) + Math.exp(2))])
  const headBias = Float32Array.of(-Infinity, -Infinity)
  const nothing = linearTokenLogprob({ hidden, head, headBias, token }, { vocabStart: 6 })
  expect(names.map((name) => nothing[name].data[0])).toEqual([-Infinity, 0, -Infinity])
})

describe('a soft-cap', () => {
  const of = (logits: number[], options: object, token = 0) => {
    const inputs = { logits: array(Float32Array.from(logits), [1, logits.length]), token: Int32Array.of(token) }
    const forward = tokenLogprob(inputs, options)
    const { logsumexp, entropy } = forward
    const grads = { gradLogp: Float32Array.of(1), gradEntropy: Float32Array.of(0.5) }
    return { forward, ...tokenLogprobBackward({ ...inputs, logsumexp, entropy, ...grads }, options) }
  }
  test('bends logits of 1e30 and infinity to itself, and leaves -inf masked', () => {
    const { forward, gradLogits } = of([1e30, Infinity, -Infinity, -1e30], { softcap: 3 })
    const sum = 2 * Math.exp(3) + Math.exp(-3)
    golden(forward.logsumexp, [Math.log(sum)])
    golden(forward.logp, [3 - Math.log(sum)])
    const [high, low] = [Math.exp(3) / sum, Math.exp(-3) / sum]
    golden(forward.entropy, [-2 * high * Math.log(high) - low * Math.log(low)])
    expect(Array.from(gradLogits.data, Math.abs)).toEqual([0, 0, 0, 0]) // tanh is flat there
    expect(of([1e30, 0], {}).forward.logp.data[0]).toBe(0)
  })
  test('is seen by a NaN, and by a row of -inf alone', () => {
    for (const logits of [
      [1, Number.NaN],
      [-Infinity, -Infinity],
    ]) {
      // biome-ignore format: two rows
      const { forward, gradLogits } = of(logits, { softcap: 3 })
      for (const name of names) expect(forward[name].data[0]).toBeNaN()
      expect(Array.from(gradLogits.data, Number.isNaN)).toEqual([true, true])
    }
    const part = of([-Infinity, -Infinity], { softcap: 3, vocabStart: 0 }).forward
    expect(names.map((name) => part[name].data[0])).toEqual([-Infinity, 0, -Infinity])
  })
  // Where c tanh(z / c) is z to the last digit, nothing is lost to the tangent.
  test.each([1e6, 1e30])('of %d is none', (softcap) => {
    const logits = [0.5, -1.25, 3, 1e-3, 7.5]
    const [capped, plain] = [of(logits, { softcap }, 2), of(logits, {}, 2)]
    for (const name of names) golden(capped.forward[name], Array.from(plain.forward[name].data))
    golden(capped.gradLogits, Array.from(plain.gradLogits.data))
  })
  test('keeps the digits of small logits', () => {
    const small = [1e-6, -2e-6, 3e-6]
    const { forward } = of(small, { softcap: 30, temperature: 1e-6 })
    golden(forward.logp, [1 - Math.log(Math.exp(1) + Math.exp(-2) + Math.exp(3))])
  })
})

// Nobody waits to see what lies on a device: the numbers say it.
if (backend !== 'cpu') {
  test.each([0, -1, Number.NaN, Infinity, 1e-39])(
    'a temperature of %d of a row on a device is NaN, and counted',
    (bad) => {
      const logits = array(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
      const token = Int32Array.of(0, 1)
      const rowTemperature = Float32Array.of(1, bad)
      const { logp, entropy, logsumexp } = tokenLogprob({ logits, token, rowTemperature })
      for (const x of [logp, entropy, logsumexp]) expect(Array.from(x.data, Number.isNaN)).toEqual([false, true])
      const policy = { token, rowTemperature, advantage: Float32Array.of(1, 1), sequenceStart: Int32Array.of(0, 1, 2) }
      const fused = policyLossFromLogits({ logits, ...policy })
      expect(Array.from(fused.gradLogits.data, Number.isNaN)).toEqual([false, false, false, true, true, true])
      const head = array(Float32Array.of(1, 2, 3), [3, 1])
      const linear = linearPolicyLoss({ hidden: array(Float32Array.of(1, 2), [2, 1]), head, ...policy })
      expect(Array.from(linear.gradHidden.data, Number.isNaN)).toEqual([false, true])
      for (const { loss, stats } of [fused, linear]) {
        expect(loss.data[0]).toBeNaN()
        expect(lossStats(stats).badIndex).toBe(1)
      }
      const masked = policyLossFromLogits({ logits, ...policy, mask: Uint8Array.of(1, 0) })
      expect(lossStats(masked.stats).badIndex).toBe(0)
      expect(masked.loss.data[0]).not.toBeNaN()
    },
  )
}

describe('refuses', () => {
  const logits = array(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
  const token = Int32Array.of(0, 1)
  const head = array(Float32Array.of(1, 2, 3), [3, 1])
  const hidden = array(Float32Array.of(1, 2), [2, 1])
  const both = (inputs: object, options: object, expected: Parameters<typeof refuses>[1]) => {
    refuses(() => tokenLogprob({ logits, token, ...inputs }, options), expected)
    refuses(() => linearTokenLogprob({ hidden, head, token, ...inputs }, options), expected)
  }
  cpuTest.each([0, -1, Number.NaN, Infinity, 1e-39])('a temperature of %d of a row that tokens name', (value) => {
    const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'rowTemperature' }
    both({ rowTemperature: Float32Array.of(1, value) }, {}, { ...expected, message: /at 1, expected a number above 0/ })
    tokenLogprob({ logits, token, rowTemperature: Float32Array.of(1, value), mask: Uint8Array.of(1, 0) })
  })
  cpuTest('temperatures of which float32 cannot hold the product', () => {
    const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'rowTemperature' }
    both({ rowTemperature: Float32Array.of(1e-30, 1) }, { temperature: 1e-10 }, expected)
  })
  test.each([0, -30, Number.NaN, Infinity, 1e-39, 1e38])('a soft-cap of %d', (softcap) => {
    both({}, { softcap }, { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'softcap' })
  })
  test('a soft-cap that is too large for the temperature', () => {
    both({}, { softcap: 1e30, temperature: 1e-30 }, { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'softcap' })
  })
  cpuTest('a soft-cap that is too large for the temperature of a row', () => {
    const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'rowTemperature' }
    both({ rowTemperature: Float32Array.of(1e-30, 1) }, { softcap: 1e20 }, expected)
  })
  test('more valid columns than there are, and tokens that are padding', () => {
    both({}, { validVocab: 4 }, { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'validVocab' })
    const expected = {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'token',
      message: /padding of the vocabulary/,
    }
    both({}, { validVocab: 1 }, expected)
    both({ token: Int32Array.of(5, 7) }, { validVocab: 1, vocabStart: 5 }, expected)
    tokenLogprob({ logits, token: Int32Array.of(5, 8) }, { validVocab: 1, vocabStart: 5 })
  })
})
