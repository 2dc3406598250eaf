import { expect } from 'vitest'
import {
  linearTokenLogprob,
  linearTokenLogprobBackward,
  tokenLogprob,
  tokenLogprobBackward,
} from '../../../lib/index.js'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { simpo } from '../../../lib/recipes/methods/simpo.js'
import { centralDifferences, closeIn32 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const pair = {
  sequenceStart: [0, 4, 6],
  logp: Float32Array.of(-0.2, -0.5, -0.3, -0.4, -0.6, -0.4),
  chosen: [0],
  rejected: [1],
}

golden('simpo', 'one pair', (check) => {
  const { loss, gradLogp } = optimizationStep(simpo({ beta: 2.5, gamma: 1.375 }), pair)
  check.float32(-Math.log(Math.expm1(loss)), -1)
  check.float32(loss, 1.3132616875)
  check.float32(gradLogp!.data, [...Array(4).fill(-0.4569116116), ...Array(2).fill(0.9138232233)])
})

// Ragged, with NaN under the mask; the first rollout is in two pairs, once chosen and once rejected; the third has no token
// of the policy, so that the last pair compares nothing.
const ragged = {
  sequenceStart: [0, 2, 3, 4, 7],
  mask: [1, 1, 1, 0, 1, 0, 1],
  logp: Float32Array.of(-1, -0.5, -0.25, -3, -2, Number.NaN, -1.25),
  chosen: [0, 3, 2],
  rejected: [1, 0, 1],
}
const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
/** The published equation for the two pairs that count, with `head` of h. */
const published = (beta: number, gamma: number, nllCoef: number, head: (h: number) => number) => (logp: number[]) => {
  const [a, b, d] = [(logp[0]! + logp[1]!) / 2, logp[2]!, (logp[4]! + logp[6]!) / 2]
  const nll = -(logp[0]! + logp[1]! + logp[4]! + logp[6]!) / 4
  return (head(beta * (a - b) - gamma) + head(beta * (d - a) - gamma)) / 2 + nllCoef * nll
}
const logistic = (smoothing: number) => (h: number) =>
  -(1 - smoothing) * Math.log(sigmoid(h)) - smoothing * Math.log(sigmoid(-h))

edge('simpo', 'ragged rollouts, pairs that share one, and one without tokens: the published equation', () => {
  const cases = [
    [simpo(), published(2, 0.5, 0, logistic(0))],
    [simpo({ beta: 2.5, smoothing: 0.1 }), published(2.5, 0.625, 0, logistic(0.1))],
    [simpo({ defaults: 'trl' }), published(0.1, 0.5, 1, logistic(0))],
    [simpo({ defaults: 'trl', nllCoef: 0 }), published(0.1, 0.5, 0, logistic(0))],
    [simpo({ loss: 'hinge' }), published(2, 0.5, 0, (h) => Math.max(0, 1 - h))],
  ] as const
  for (const [recipe, exact] of cases) {
    const { loss, gradLogp } = optimizationStep(recipe, ragged)
    closeIn32([loss], [exact(finite)])
    closeIn32(gradLogp!.data, centralDifferences(exact, finite))
  }
})

edge('simpo', 'a pair that is far beyond the margin: the hinge is 0, also in its gradient', () => {
  const { loss, gradLogp } = optimizationStep(simpo({ loss: 'hinge', beta: 10, gamma: 0 }), {
    ...pair,
    logp: Float32Array.of(0, 0, 0, 0, -1, -1),
  })
  expect(loss).toBe(0)
  expect(gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('simpo', 'no pairs, equal scores, everything masked', () => {
  const none = optimizationStep(simpo({ defaults: 'trl' }), { ...pair, chosen: [], rejected: [] })
  expect([none.loss, ...none.gradLogp!.data]).toEqual([0, 0, 0, 0, 0, 0, 0])
  const equal = optimizationStep(simpo({ gamma: 0 }), { ...pair, logp: new Float32Array(6).fill(-1) })
  closeIn32([equal.loss], [Math.LN2])
  const masked = optimizationStep(simpo({ defaults: 'trl' }), { ...pair, mask: new Uint8Array(6) })
  expect(masked.loss).toBe(0)
  expect(masked.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('simpo', 'batches that it cannot take', () => {
  const { rejected, ...batch } = pair
  expect(() => optimizationStep(simpo(), batch as never)).toThrow(
    'simpo: rejected is missing from the batch, expected integer[M]: the other rollout of each pair',
  )
  expect(() => optimizationStep(simpo(), { ...pair, rejected: [2] })).toThrow('simpo: rejected has 2 at 0')
})

// The same step from what the log-probabilities come from.
const token = [1, 0, 2, 2, 1, 0]
const number = (i: number) => Math.sin(7 * i + 1)
const logits = { dtype: 'f32', shape: [6, 3], data: Float32Array.from({ length: 18 }, (_, i) => number(i)) } as const
const head = { dtype: 'f32', shape: [3, 2], data: Float32Array.of(1, -0.5, 0.25, 2, -1, 0.75) } as const
const hidden = {
  dtype: 'f32',
  shape: [6, 2],
  data: Float32Array.from({ length: 12 }, (_, i) => number(i + 50)),
} as const
const { logp: _, ...batch } = pair

edge('simpo', 'from logits: the same loss, and the gradient of tokenLogprob from gradLogp', () => {
  const tokens = { dtype: 'i32', shape: [6], data: Int32Array.from(token) } as const
  const { logp, logsumexp } = tokenLogprob({ logits, token: tokens })
  const direct = optimizationStep(simpo(), { ...batch, logp: logp.data })
  const step = optimizationStep(simpo(), { ...batch, logits, token })
  expect(step.loss).toBe(direct.loss)
  const gradLogp = direct.gradLogp as { dtype: 'f32'; shape: number[]; data: Float32Array }
  const { gradLogits } = tokenLogprobBackward({ logits, token: tokens, logsumexp, gradLogp })
  expect(step.gradLogits!.data).toEqual(gradLogits.data)
  // And that of the loss itself, with the softmax written out.
  const exact = (z: number[]) => {
    const lp = token.map((y, t) => {
      const row = z.slice(3 * t, 3 * t + 3)
      return row[y]! - Math.log(row.reduce((total, u) => total + Math.exp(u), 0))
    })
    const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length
    return logistic(0)(2 * (mean(lp.slice(0, 4)) - mean(lp.slice(4))) - 0.5)
  }
  closeIn32(step.gradLogits!.data as Float32Array, centralDifferences(exact, logits.data))
})

edge('simpo', 'from hidden states: the same loss, and the gradients of linearTokenLogprob from gradLogp', () => {
  const tokens = { dtype: 'i32', shape: [6], data: Int32Array.from(token) } as const
  const { logp, logsumexp } = linearTokenLogprob({ hidden, head, token: tokens })
  const direct = optimizationStep(simpo(), { ...batch, logp: logp.data })
  const step = optimizationStep(simpo(), { ...batch, hidden, head, token })
  expect(step.loss).toBe(direct.loss)
  const gradLogp = direct.gradLogp as { dtype: 'f32'; shape: number[]; data: Float32Array }
  const back = linearTokenLogprobBackward({ hidden, head, token: tokens, logsumexp, gradLogp })
  expect(step.gradHidden!.data).toEqual(back.gradHidden.data)
  expect(step.gradHead!.data).toEqual(back.gradHead.data)
})
