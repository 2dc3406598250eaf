// What all operations that write gradients take: a factor, and a gradient that is added to what is there.
import { describe, expect, test } from 'vitest'
import {
  array,
  gaussianKlBackward,
  gaussianLogprobBackward,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  policyLoss,
  policyLossFromLogits,
  prefixAttention,
  prefixAttentionBackward,
  prefixLayout,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { golden, identical, refuses, values } from './support/compare.js'
import { floats } from './support/linear_cases.js'
import { filled } from './support/logits_cases.js'
import { batch, D, V, valid } from './support/option_cases.js'
import { random } from './support/random.js'

describe('gradScale', () => {
  const b = batch('f32', { rowTemperature: true, validVocab: valid, softcap: 6 })
  const policy = {
    oldLogp: random(2).uniforms(b.T, -8, -4),
    advantage: Float32Array.of(1, -0.5),
    sequenceStart: Int32Array.of(0, 9, b.T),
  }
  const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
  const { mask } = b.inputs
  const vectors = () => array(random(4).normals(b.T * 2), [b.T, 2])
  const calls: Record<string, (gradScale?: number) => Record<string, HostArray>> = {
    policyLoss: (gradScale = 1) =>
      policyLoss({ logp: forward.logp, entropy: forward.entropy, mask, ...policy }, { entropyCoef: 0.02, gradScale }),
    policyLossFromLogits: (gradScale = 1) =>
      policyLossFromLogits(
        { logits: b.logits, ...b.inputs, ...policy },
        { ...b.options, entropyCoef: 0.02, gradScale },
      ),
    linearPolicyLoss: (gradScale = 1) =>
      linearPolicyLoss({ ...b.linear, ...b.inputs, ...policy }, { ...b.options, ratio: 'sequence', gradScale }),
    tokenLogprobBackward: (gradScale = 1) =>
      tokenLogprobBackward(
        { logits: b.logits, ...b.inputs, logsumexp: forward.logsumexp, entropy: forward.entropy, ...b.grads },
        { ...b.options, gradScale },
      ),
    linearTokenLogprobBackward: (gradScale = 1) => {
      const { logsumexp, entropy } = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
      return linearTokenLogprobBackward(
        { ...b.linear, ...b.inputs, logsumexp, entropy, ...b.grads },
        { ...b.options, gradScale },
      )
    },
    gaussianLogprobBackward: (gradScale = 1) =>
      gaussianLogprobBackward(
        {
          x: vectors(),
          mean: array(random(6).normals(b.T * 2), [b.T, 2]),
          std: filled(b.T, 0.7),
          oldMean: array(random(8).normals(b.T * 2), [b.T, 2]),
          gradLogp: b.grads.gradLogp,
          gradLogRatio: b.grads.gradEntropy,
        },
        { gradScale },
      ),
    gaussianKlBackward: (gradScale = 1) =>
      gaussianKlBackward(
        {
          mean: vectors(),
          refMean: array(random(6).normals(b.T * 2), [b.T, 2]),
          std: filled(b.T, 0.7),
          gradKl: b.grads.gradLogp,
        },
        { gradScale },
      ),
    ...Object.fromEntries(
      (['f32', 'bf16', 'f16'] as const).map((dtype) => [
        `prefixAttentionBackward of ${dtype}`,
        (gradScale = 1) => {
          const layout = prefixLayout([{ prefix: 5, responses: [3, 70] }])
          const heads = (seed: number, H: number) => floats(dtype, random(seed).normals(78 * H * 8), [78, H, 8])
          const inputs = { q: heads(1, 4), k: heads(2, 2), v: heads(3, 2), layout }
          const f32 = (H: number) => array(new Float32Array(78 * H * 8), [78, H, 8]) // f16 ends at 65504 and at 6e-5
          const out = dtype === 'f16' ? { gradQ: f32(4), gradK: f32(2), gradV: f32(2) } : {}
          return prefixAttentionBackward(
            { ...inputs, ...prefixAttention(inputs), gradOut: heads(4, 4) },
            { gradScale, scale: 0.3, out },
          )
        },
      ]),
    ),
  }
  // A power of two changes no digit, but the sign and the exponent.
  test.each(Object.keys(calls))('%s: every gradient times -1024, and nothing else', (name) => {
    const [plain, scaled] = [calls[name]!(), calls[name]!(-1024)]
    for (const [key, x] of Object.entries(plain)) {
      const factor = key.startsWith('grad') ? -1024 : 1
      const expected = Array.from(values(x), (v) => v * factor + 0)
      expect(
        Array.from(values(scaled[key]!), (v) => v + 0),
        key,
      ).toEqual(expected)
    }
    const zero = Object.entries(calls[name]!(0)).filter(([key]) => key.startsWith('grad'))
    expect(zero).not.toHaveLength(0)
    for (const [key, x] of zero)
      expect(
        Array.from(values(x)).filter((v) => v !== 0),
        key,
      ).toEqual([])
  })
  test.each(Object.keys(calls))('%s refuses what is no factor', (name) => {
    for (const gradScale of [Number.NaN, Infinity, 1e39]) {
      refuses(() => calls[name]!(gradScale), { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'gradScale' })
    }
  })
})

// Each is rounded once, in its own dtype, whatever that of the other is.
const dtypes = [
  { dtype: 'f32', ofBias: 'f32' },
  { dtype: 'f32', ofBias: 'bf16' },
  { dtype: 'bf16', ofBias: 'f32' },
  { dtype: 'bf16', ofBias: 'f16' },
] as const
describe.each(dtypes)('accumulate, gradHead in $dtype and gradHeadBias in $ofBias', ({ dtype, ofBias }) => {
  const b = batch('bf16', { rowTemperature: true, validVocab: valid, softcap: 6 })
  const { hidden, head } = b.linear
  const headBias = floats(ofBias, b.linear.headBias.data as Float32Array, [V])
  const linear = { hidden, head, headBias }
  const forward = linearTokenLogprob({ ...linear, ...b.inputs }, b.options)
  const { logsumexp, entropy } = forward
  const inputs = { ...linear, ...b.inputs, logsumexp, entropy, ...b.grads }
  const held = () => ({
    gradHead: floats(dtype, random(8).normals(V * D), [V, D]),
    gradHeadBias: floats(ofBias, random(9).normals(V), [V]),
  })
  const exact = () => ({
    gradHead: array(new Float32Array(V * D), [V, D]),
    gradHeadBias: array(new Float32Array(V), [V]),
  })

  test.each([null, 5])('what was there and the gradient, rounded once; chunks of %s rows', (chunkRows) => {
    const options = { ...b.options, chunkRows, gradScale: 0.5 }
    const alone = linearTokenLogprobBackward(inputs, { ...options, out: exact() })
    const out = held()
    const sums = linearTokenLogprobBackward(inputs, { ...options, accumulate: true, out })
    const before = held()
    for (const name of ['gradHead', 'gradHeadBias'] as const) {
      const [x, y] = [values(before[name]), values(alone[name]!)]
      golden(
        sums[name]!,
        Float64Array.from(x, (v, i) => v + (y[i] as number)),
        1,
      )
    }
    // The padding of the vocabulary is left alone, to the bit.
    const padding = ({ gradHead, gradHeadBias }: Record<string, HostArray>) => [
      ...Array.from(values(gradHead!)).slice(valid * D),
      ...Array.from(values(gradHeadBias!)).slice(valid),
    ]
    expect(padding(sums as never)).toEqual(padding(before))
    identical(sums.gradHidden, linearTokenLogprobBackward(inputs, options).gradHidden)
  })

  test('masked tokens alone leave what was there', () => {
    const out = held()
    const mask = new Uint8Array(b.T)
    const { gradHead, gradHeadBias } = linearTokenLogprobBackward(
      { ...inputs, mask },
      { ...b.options, accumulate: true, out },
    )
    identical(gradHead, held().gradHead)
    identical(gradHeadBias!, held().gradHeadBias)
  })

  test('the loss adds the same', () => {
    const policy = { advantage: Float32Array.of(1, -0.5), sequenceStart: Int32Array.of(0, 9, b.T) }
    const call = (options: object) =>
      linearPolicyLoss({ ...linear, ...b.inputs, ...policy }, { ...b.options, ...options })
    for (const ratio of ['token', 'sequence'] as const) {
      const alone = call({ ratio, out: exact() })
      const sums = call({ ratio, accumulate: true, out: held() })
      for (const name of ['gradHead', 'gradHeadBias'] as const) {
        const [x, y] = [values(held()[name]), values(alone[name]!)]
        golden(
          sums[name]!,
          Float64Array.from(x, (v, i) => v + (y[i] as number)),
          1,
        )
      }
    }
  })

  test('needs the arrays to which it adds', () => {
    const missing = { error: TypeError, code: 'ERR_GRPO_MISSING' }
    const call = (options: object) => linearTokenLogprobBackward(inputs, { ...b.options, accumulate: true, ...options })
    refuses(() => call({}), { ...missing, argument: 'gradHead' })
    refuses(() => call({ out: { gradHead: held().gradHead } }), { ...missing, argument: 'gradHeadBias' })
    const wrong = { gradHead: floats('f16', new Float32Array(V * D), [V, D]), gradHeadBias: null }
    refuses(() => call({ out: wrong }), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'gradHead' })
    expect(call({ out: { gradHead: null, gradHeadBias: null } }).gradHead).toBeUndefined()
  })
})
