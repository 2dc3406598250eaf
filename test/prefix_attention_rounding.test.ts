// One term of f16 in each product: on a device the error of bf16 results is that of rounding them, to 5 %. (bf16
// factors, as FlashAttention and cuDNN have them, would be 1.4 times that.)
import { expect, test } from 'vitest'
import { prefixAttention, prefixAttentionBackward } from '../lib/index.js'
import { attentionGradients, attentionReference } from './references/attention.js'
import { exactly, type FloatArray, floats, problem } from './support/attention_cases.js'

test('root mean square errors relative to those of rounding alone, head size 128', () => {
  const sizes = { H: 2, K: 1, D: 128, E: 128 }
  const { s, q, k, v, gradOut, layout, sees } = problem({ length: [100, 40], parent: [-1, 0] }, sizes, 'bf16')
  const numbers = { q: exactly(q), k: exactly(k), v: exactly(v), gradOut: exactly(gradOut) }
  const exact = attentionReference(numbers, sees, s)
  const forward = prefixAttention({ q, k, v, layout })
  const handed = { logsumexp: exact.logsumexp, out: exactly(forward.out as FloatArray) }
  const gradients = attentionGradients({ ...numbers, ...handed }, sees, s)
  const backward = prefixAttentionBackward({ q, k, v, gradOut, layout, ...forward })
  const error = (x: ArrayLike<number>, of: ArrayLike<number>) =>
    Math.sqrt(Array.from(of, (y, i) => (y - (x[i] as number)) ** 2).reduce((a, b) => a + b, 0))
  const ratio = (x: FloatArray, of: Float64Array) =>
    error(exactly(x), of) / error(exactly(floats(Float32Array.from(of), [of.length], 'bf16')), of)
  expect(ratio(forward.out as FloatArray, exact.out), 'out').toBeLessThan(1.05)
  for (const name of ['gradQ', 'gradK', 'gradV'] as const)
    expect(ratio(backward[name] as FloatArray, gradients[name]), name).toBeLessThan(1.05)
})
