import { expect, test } from 'vitest'
import {
  array,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { cpuTest } from './support/backend_kind.js'

// Coefficients of which each sum in another order is another number: 2^60 - 2^60 + 1 is 1, and 1 + 2^60 - 2^60 is 0. On a
// device the tokens of a row are counted and placed in whatever order they come.
const n = 301
const T = 2 * n
const row = Int32Array.from({ length: T }, (_, t) => t % 2)
const gradLogp = Float32Array.from({ length: T }, (_, t) => {
  const i = t >> 1
  if (i === (t % 2 === 0 ? n - 1 : 0)) return 1
  return (i + t) % 2 === 0 ? 2 ** 60 : -(2 ** 60)
})
const token = new Int32Array(T)

// A device adds those of a row in the order of a butterfly.
cpuTest('the coefficients of a row are added in the order of its tokens', () => {
  const logits = array(new Float32Array(4), [2, 2])
  const { logsumexp } = tokenLogprob({ logits, token, row })
  const { gradLogits } = tokenLogprobBackward({ logits, token, row, logsumexp, gradLogp })
  expect(Array.from(gradLogits.data, (x) => x + 0)).toEqual([0.5, -0.5, 0, 0]) // -0 is 0
})

test('of hidden states too', () => {
  const [hidden, head] = [array(Float32Array.of(1, 1), [2, 1]), array(new Float32Array(2), [2, 1])]
  const { logsumexp } = linearTokenLogprob({ hidden, head, token, row })
  const { gradHead } = linearTokenLogprobBackward({ hidden, head, token, row, logsumexp, gradLogp })
  expect(Array.from(gradHead.data, (x) => x + 0)).toEqual([0.5, -0.5])
})
