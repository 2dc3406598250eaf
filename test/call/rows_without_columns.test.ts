// Arrays of very many rows and no columns hold nothing: work and memory follow the rows that tokens name, and the outputs.
import { expect } from 'vitest'
import { native } from '../../lib/addon/native.js'
import * as api from '../../lib/index.js'
import { cpuDescribe, cpuTest } from '../support/backend_kind.js'

const most = 2 ** 31 - 1
const none = new Int32Array(0)
const noFloats = new Float32Array(0)
const empty = (dtype: 'f32' | 'bf16', shape: number[]) =>
  dtype === 'f32' ? api.array(noFloats, shape) : api.array(new Uint16Array(0), shape, 'bf16')
const policy = { advantage: noFloats, sequenceStart: Int32Array.of(0) }
const softmax = { logsumexp: noFloats, entropy: noFloats, gradLogp: noFloats, gradEntropy: noFloats }

cpuTest('attention without columns counts what each token sees, and looks at no pair of tokens', () => {
  const P = 160_000 // 1.3e10 pairs for each of four heads
  const layout = api.prefixLayout([
    { prefix: P - 9, responses: [2, 0, 3] },
    { prefix: 0, responses: [4] },
  ])
  const inputs = { q: empty('f32', [P, 4, 0]), k: empty('f32', [P, 1, 0]), v: empty('f32', [P, 1, 0]), layout }
  const before = performance.now()
  const { out, logsumexp } = api.prefixAttention(inputs)
  api.prefixAttentionBackward({ ...inputs, gradOut: out, out, logsumexp })
  api.prefixAttention(inputs, { scale: 0.5, out: { logsumexp: null } })
  expect(performance.now() - before).toBeLessThan(1000)
  // The second response begins anew after the prefix, and the last tree after nothing.
  const seen = Array.from({ length: P }, (_, p) => (p < P - 7 ? p + 1 : p < P - 4 ? p - 1 : p - P + 5))
  expect(logsumexp.data.every((x, i) => x === Math.fround(Math.log(seen[i >> 2] as number)))).toBe(true)
  // Of a v with columns the output is their mean, by the same weights.
  const small = api.prefixLayout([{ prefix: 2, responses: [1, 2] }])
  const five = { q: empty('f32', [5, 2, 0]), k: empty('f32', [5, 1, 0]), layout: small }
  const v = api.array(new Float32Array([1, 2, 6, 9, 3]), [5, 1, 1])
  const mean = api.prefixAttention({ ...five, v })
  expect(Array.from(mean.out.data)).toEqual([1, 1, 1.5, 1.5, 3, 3, 4, 4, 3.75, 3.75])
  expect(mean.logsumexp.data).toEqual(api.prefixAttention({ ...five, v }, { out: { out: null } }).logsumexp.data)
})

cpuDescribe.each(['f32', 'bf16'] as const)('%s', (dtype) => {
  const logits = empty(dtype, [most, 0])
  const tokens = { token: none, row: none }
  // Hidden states without columns, and a head without columns for the largest vocabulary.
  const linear = { hidden: empty(dtype, [most, 0]), head: empty(dtype, [most, 0]), ...tokens }
  const ratio = 'sequence' as const
  const calls: [string, () => unknown][] = [
    ['tokenLogprob', () => api.tokenLogprob({ logits, ...tokens })],
    ['tokenLogprobBackward', () => api.tokenLogprobBackward({ logits, ...tokens, ...softmax })],
    ['policyLossFromLogits', () => api.policyLossFromLogits({ logits, ...tokens, ...policy })],
    ['policyLossFromLogits, sequences', () => api.policyLossFromLogits({ logits, ...tokens, ...policy }, { ratio })],
    ['linearTokenLogprob', () => api.linearTokenLogprob(linear)],
    ['linearTokenLogprobBackward', () => api.linearTokenLogprobBackward({ ...linear, ...softmax })],
    ['linearPolicyLoss', () => api.linearPolicyLoss({ ...linear, ...policy })],
    ['linearPolicyLoss, sequences', () => api.linearPolicyLoss({ ...linear, ...policy }, { ratio })],
    ['gatherRows', () => api.gatherRows({ x: logits, index: new Int32Array(1000) })],
    ['scatterRows', () => api.scatterRows({ x: empty(dtype, [9, 0]), index: new Int32Array(9) }, { rows: most })],
  ]

  cpuTest.each(calls)('%s', (_, call) => {
    native.scratchPeak(true)
    const before = performance.now()
    call()
    // Microseconds, where the rows took seconds; the matrix product has buffers of 1 MiB a thread, where rows took 17 GB.
    expect(performance.now() - before).toBeLessThan(1000)
    expect(native.scratchPeak(true)).toBeLessThan(2 ** 28)
  })

  cpuTest('one token of the last of very many rows', () => {
    const row = Int32Array.of(most - 1)
    const inputs = { hidden: linear.hidden, head: empty(dtype, [3, 0]), token: Int32Array.of(2), row }
    const before = performance.now()
    const { logp, entropy } = api.linearTokenLogprob(inputs)
    expect([logp.data[0], entropy.data[0]]).toEqual([Math.fround(-Math.log(3)), Math.fround(Math.log(3))])
    const loss = api.linearPolicyLoss({ ...inputs, advantage: Float32Array.of(2), sequenceStart: Int32Array.of(0, 1) })
    expect(loss.loss.data[0]).toBe(-2)
    // A part of a vocabulary that has no columns.
    const part = api.tokenLogprob({ logits, token: Int32Array.of(7), row }, { vocabStart: 4 })
    expect([part.logp.data[0], part.entropy.data[0], part.logsumexp.data[0]]).toEqual([-Infinity, 0, -Infinity])
    expect(performance.now() - before).toBeLessThan(1000)
  })
})
