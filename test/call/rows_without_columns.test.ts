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
