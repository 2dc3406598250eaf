import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { rdpo } from '../../../lib/recipes/methods/rdpo.js'
import { tgdpo } from '../../../lib/recipes/methods/tgdpo.js'
import { centralDifferences, closeIn32 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const pair = {
  sequenceStart: [0, 3, 5],
  logp: Float32Array.of(-1, -0.5, -0.2, -2, -1),
  refLogp: Float32Array.of(-1.2, -0.4, -0.6, -1.5, -1.1),
  rewardLogp: Float32Array.of(-0.9, -0.3, -0.1, -2.5, -1.4),
  chosen: [0],
  rejected: [1],
}

golden('tgdpo', 'one pair', (check) => {
  const { loss, gradLogp } = optimizationStep(tgdpo(), pair)
  // The margin is what is left of log-probabilities twenty times as large.
  check.float32(-Math.log(Math.expm1(loss)), 0.0936, 20)
  check.float32(loss, 0.6474419010306723)
  const slope = 0.1 / (1 + Math.exp(0.0936))
  check.float32(
    Array.from(gradLogp!.data.subarray(0, 3), (g) => -g / slope),
    [1.015, 1.005, 1.025],
  )
  check.float32(
    Array.from(gradLogp!.data.subarray(3), (g) => g / slope),
    [1.05, 1.015],
  )
  check.float32(optimizationStep(tgdpo({ alpha: 0 }), pair).loss, 0.6491593390256101)
})

edge('tgdpo', 'alpha 0 is DPO', () => {
  const [guided, dpo] = [optimizationStep(tgdpo({ alpha: 0 }), pair), optimizationStep(rdpo({ form: 'dpo' }), pair)]
  closeIn32([guided.loss], [dpo.loss])
  closeIn32(guided.gradLogp!.data, dpo.gradLogp!.data)
})

// A rollout that is chosen in one pair and rejected in another has two weights; one place is NaN under the mask; with this
// alpha some weights are below 0.
const ragged = {
  sequenceStart: [0, 2, 3, 4, 7],
  mask: [1, 1, 1, 0, 1, 0, 1],
  logp: Float32Array.of(-1, -0.5, -0.25, -3, -2, Number.NaN, -1.25),
  refLogp: Float32Array.of(-1.5, -0.75, -0.5, -3, -1, Number.NaN, -1.5),
  rewardLogp: Float32Array.of(-1, -2.75, -0.25, -3, -1.5, Number.NaN, -0.5),
  chosen: [0, 3, 2],
  rejected: [1, 0, 1],
}

edge('tgdpo', 'ragged rollouts and pairs that share one: the published equation', () => {
  const [beta, alpha] = [0.5, 2]
  const exact = (logp: number[]) => {
    const score = (list: number[], sign: number) =>
      list.reduce((total, t) => {
        const guidance = beta * (ragged.rewardLogp[t]! - ragged.refLogp[t]!)
        return total + beta * (1 + sign * alpha * guidance) * (logp[t]! - ragged.refLogp[t]!)
      }, 0)
    const pairs = [[[0, 1], [2]], [[4, 6], [0, 1]]] as const // biome-ignore format: the tokens of the pairs
    return pairs.reduce((total, [w, l]) => total + Math.log1p(Math.exp(score([...l], -1) - score([...w], 1))) / 2, 0)
  }
  const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
  const { loss, gradLogp } = optimizationStep(tgdpo({ beta, alpha }), ragged)
  closeIn32([loss], [exact(finite)])
  closeIn32(gradLogp!.data, centralDifferences(exact, finite))
})

edge('tgdpo', 'no pairs, equal log-ratios, everything masked', () => {
  const none = optimizationStep(tgdpo(), { ...pair, chosen: [], rejected: [] })
  expect([none.loss, ...none.gradLogp!.data]).toEqual([0, 0, 0, 0, 0, 0])
  closeIn32([optimizationStep(tgdpo(), { ...pair, logp: pair.refLogp }).loss], [Math.LN2])
  const masked = optimizationStep(tgdpo(), { ...pair, mask: new Uint8Array(5) })
  expect([masked.loss, ...masked.gradLogp!.data]).toEqual([0, 0, 0, 0, 0, 0])
})

edge('tgdpo', 'without the token-level reward model', () => {
  const { rewardLogp, ...batch } = pair
  expect(() => optimizationStep(tgdpo(), batch as never)).toThrow(/tgdpo: rewardLogp is missing from the batch, expected f32\[T\]/) // biome-ignore format: one text
})
