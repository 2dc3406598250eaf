// Outputs lie in memory that holds what is no number: no situation of the operations on rows leaves any of it, nor adds to
// it. all_ops.test.ts has one situation of every operation.
import { describe, expect, test } from 'vitest'
import {
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  policyLossFromLogits,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { identical } from './support/compare.js'
import { setsFor } from './support/kept_cases.js'
import { type FloatType, floats } from './support/linear_cases.js'
import { type Batch, batch, R, valid } from './support/option_cases.js'
import { leftAlone, poisoned, poisons } from './support/poison.js'
import { setsOf } from './support/sets_of.js'

type Results = Record<string, HostArray>
type Call = (out?: object) => Results

/** The calls on a batch. */
function callsOf(b: Batch, more: object, options: object, { gradients = b.grads, wide = false } = {}) {
  const inputs = { ...b.inputs, ...more }
  const policy = { advantage: Float32Array.of(1, -0.5), sequenceStart: Int32Array.of(0, 9, b.T) }
  const { logsumexp, entropy } = tokenLogprob({ logits: b.logits, ...inputs }, b.options)
  const linear = linearTokenLogprob({ ...b.linear, ...inputs }, b.options)
  const given = (out?: object) => ({ ...b.options, ...(out && { out }) }) as object
  const chunks = (out?: object) => ({ ...given(out), ...options }) as object
  /** Gradients in float32 of inputs of 16 bits, if asked for. */
  const own = (call: Call): Call => {
    if (!wide) return call
    const f32 = (x: HostArray) => floats('f32', new Float32Array(x.data.length), [...x.shape])
    const outs = Object.entries(call()).filter(([name]) => name.startsWith('grad'))
    return (out) => call(out ?? Object.fromEntries(outs.map(([name, x]) => [name, f32(x)])))
  }
  return {
    tokenLogprob: (out) => tokenLogprob({ logits: b.logits, ...inputs }, given(out)),
    tokenLogprobBackward: (out) =>
      tokenLogprobBackward({ logits: b.logits, ...inputs, logsumexp, entropy, ...gradients }, given(out)),
    policyLossFromLogits: (out) => policyLossFromLogits({ logits: b.logits, ...inputs, ...policy }, given(out)),
    linearTokenLogprob: (out) => linearTokenLogprob({ ...b.linear, ...inputs }, given(out)),
    linearTokenLogprobBackward: own((out) => {
      const { logsumexp, entropy } = linear
      return linearTokenLogprobBackward({ ...b.linear, ...inputs, logsumexp, entropy, ...gradients }, chunks(out)) as Results // biome-ignore format: a line
    }),
    linearPolicyLoss: own((out) => linearPolicyLoss({ ...b.linear, ...inputs, ...policy }, chunks(out)) as Results),
    'linearPolicyLoss of sequences': own(
      (out) =>
        linearPolicyLoss({ ...b.linear, ...inputs, ...policy }, { ...chunks(out), ratio: 'sequence' }) as Results,
    ),
  } satisfies Record<string, Call>
}

const none = { gradLogp: new Float32Array(17), gradEntropy: new Float32Array(17) }
const situations: [string, (b: Batch) => ReturnType<typeof callsOf>][] = [
  ['whole rows', (b) => callsOf(b, {}, {})],
  ['chunks of five rows', (b) => callsOf(b, {}, { chunkRows: 5 })],
  ['gradients in float32', (b) => callsOf(b, {}, {}, { wide: true })],
  ['chunks, gradients in float32', (b) => callsOf(b, {}, { chunkRows: 5 }, { wide: true })],
  ['sets of some rows', (b) => callsOf(b, pick(setsFor(b)), {})],
  ['sets of all rows', (b) => callsOf(b, pick(setsFor(b, { whole: [] })), {})],
  ['sets of all rows, gradients in float32', (b) => callsOf(b, pick(setsFor(b, { whole: [] })), {}, { wide: true })],
  ['sets of one id each', (b) => callsOf(b, setsOf(Array.from({ length: R }, (_, r) => [(7 * r) % valid])), {})],
  ['every token masked', (b) => callsOf(b, { mask: new Uint8Array(b.T) }, {})],
  ['every token masked, chunks', (b) => callsOf(b, { mask: new Uint8Array(b.T) }, { chunkRows: 5 }, { wide: true })],
  ['one token', (b) => callsOf(b, { mask: Uint8Array.from({ length: b.T }, (_, t) => Number(t === 6)) }, {})],
  ['no gradient', (b) => callsOf(b, {}, {}, { gradients: none })],
  ['no gradient, in float32', (b) => callsOf(b, {}, { chunkRows: 5 }, { gradients: none, wide: true })],
  ['no gradient, sets of all rows', (b) => callsOf(b, pick(setsFor(b, { whole: [] })), {}, { gradients: none })],
]
const pick = ({ keptStart, kept }: { keptStart: Int32Array; kept: Int32Array }) => ({ keptStart, kept })

describe.each<FloatType>(['f32', 'bf16'])('%s', (dtype) => {
  const b = batch(dtype, { rowTemperature: true, validVocab: valid, softcap: 6 })
  describe.each(situations)('%s', (_, situation) => {
    const calls = situation(b) as Record<string, Call>
    test.each(Object.keys(calls))('%s', (name) => {
      const call = calls[name] as Call
      const expected = call()
      for (const poison of poisons) {
        const out = Object.fromEntries(Object.entries(expected).map(([key, x]) => [key, poisoned(x, poison)]))
        const result = call(out)
        for (const [key, x] of Object.entries(out)) {
          identical(result[key] as HostArray, expected[key] as HostArray)
          expect(leftAlone(x, poison), key).toBe(true)
        }
      }
    })
  })
})
