// Numbers that a kernel narrows to float32, or divides by there: softmax(logits / temperature), softmax(scale q . k). What
// float32 cannot hold, or not the inverse of, is refused; at the ends of what it can hold the equations are exact.
import { describe, expect, test } from 'vitest'
import * as lib from '../lib/index.js'
import { array } from '../lib/index.js'
import { exactly, golden, refuses } from './support/compare.js'

const option = (argument: string, value: string) => ({
  error: RangeError,
  code: 'ERR_GRPO_OPTION',
  argument,
  message: exactly(
    `${argument} is ${value}, expected a number of 1.2e-38 to 8.5e37, which float32 can hold with its inverse`,
  ),
})

describe('temperature', () => {
  test.each([2 ** -126, 2 ** 126])('%d', (temperature) => {
    const logits = array(new Float32Array([0, temperature, -Infinity]), [1, 3])
    const { logp, logsumexp } = lib.tokenLogprob({ logits, token: new Int32Array([1]) }, { temperature })
    golden(logsumexp, [Math.log(1 + Math.E)])
    golden(logp, [-Math.log1p(1 / Math.E)])
  })
  test('1e-39 and 1e38, in every operation', () => {
    const logits = array(new Float32Array(6), [2, 3])
    const linear = { hidden: array(new Float32Array(4), [2, 2]), head: array(new Float32Array(6), [3, 2]) }
    const token = new Int32Array(2)
    const gradients = { logsumexp: new Float32Array(2), gradLogp: new Float32Array(2) }
    const policy = { sequenceStart: new Int32Array([0, 2]), advantage: new Float32Array(1) }
    const operations = [
      (temperature: number) => lib.tokenLogprob({ logits, token }, { temperature }),
      (temperature: number) => lib.tokenLogprobBackward({ logits, token, ...gradients }, { temperature }),
      (temperature: number) => lib.policyLossFromLogits({ logits, token, ...policy }, { temperature }),
      (temperature: number) => lib.linearTokenLogprob({ ...linear, token }, { temperature }),
      (temperature: number) => lib.linearTokenLogprobBackward({ ...linear, token, ...gradients }, { temperature }),
      (temperature: number) => lib.linearPolicyLoss({ ...linear, token, ...policy }, { temperature }),
    ]
    for (const run of operations) {
      refuses(() => run(1e-39), option('temperature', '1e-39'))
      refuses(() => run(1e38), option('temperature', '1e+38'))
      expect(() => run(1e37)).not.toThrow()
    }
  })
})

describe('scale of attention', () => {
  const layout = lib.prefixLayout([{ prefix: 2, responses: [] }])
  const rows = (...x: number[]) => array(Float32Array.from(x), [2, 1, 1])
  const run = (scale: number, root = Math.sqrt(1 / scale)) =>
    lib.prefixAttention({ q: rows(root, root), k: rows(root, 2 * root), v: rows(3, 5), layout }, { scale })

  test.each([2 ** -126, 2 ** 126])('%d: scores 1 and 2', (scale) => {
    const { out, logsumexp } = run(scale)
    golden(logsumexp, [1, Math.log(Math.E + Math.E ** 2)])
    golden(out, [3, (3 + 5 * Math.E) / (1 + Math.E)])
  })
  test('0: the mean; below 0', () => {
    golden(run(0, 1).out, [3, 4])
    golden(run(-1, 1).out, [3, (3 * Math.E + 5) / (1 + Math.E)])
  })
  test('1e39, 1e-39 and their negatives', () => {
    for (const [scale, text] of [
      [1e39, '1e+39'],
      [-1e39, '-1e+39'],
      [1e-39, '1e-39'],
      [-1e-39, '-1e-39'],
    ] as const)
      refuses(() => run(scale, 1), option('scale', text))
    const backward = { q: rows(1, 1), k: rows(1, 1), v: rows(1, 1), out: rows(1, 1), gradOut: rows(1, 1), layout }
    const inputs = { ...backward, logsumexp: array(new Float32Array(2), [2, 1]) }
    refuses(() => lib.prefixAttentionBackward(inputs, { scale: 1e39 }), option('scale', '1e+39'))
  })
})
