import { describe, expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { rankingLoss, tpo } from '../../../lib/recipes/methods/tpo.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const r = [0.3, 0.1, -0.2]
/** One token per rollout, whose log-ratio is r. */
const prompt = {
  rewards: [1, 0.5, 0.5],
  groupStart: [0, 3],
  sequenceStart: [0, 1, 2, 3],
  logp: Float32Array.from(r, (x) => x - 0.5),
  refLogp: new Float32Array(3).fill(-0.5),
}
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))

describe('three responses', () => {
  golden('tpo', 'LambdaRank', (check) => {
    const { loss, gradLogp } = optimizationStep(tpo({ beta: 1 }), prompt)
    check.float32(loss, 0.3868866219)
    // The first response is above the others, which are equal: their gradients are lambda sigmoid(-(r[0] - r[j])).
    const lambdas = [1, 2].map((j) => gradLogp!.data[j]! / sigmoid(r[j]! - r[0]!))
    check.float32(lambdas, [0.3119053946, 0.4225555943])
    const tie = { ...prompt, rewards: [0.5, 0.5], groupStart: [0, 2], sequenceStart: [0, 1, 2] }
    const { logp, refLogp } = prompt
    check.float32(optimizationStep(tpo(), { ...tie, logp: logp.subarray(1), refLogp: refLogp.subarray(1) }).loss, 0)
  })
  golden('tpo', 'pairwise, as in the code', (check) => {
    check.float32(optimizationStep(tpo({ beta: 1, form: 'pairwise' }), prompt).loss, 0.5884543447)
    check.float32(optimizationStep(tpo({ beta: 1, form: 'pairwise_diagonal' }), prompt).loss, 0.935027935)
  })
})

edge('tpo', 'the gradient of each form against central differences', () => {
  const values = [0.2, 1, 0.5, 0.5]
  const scores = [0.4, 0.1, -0.3, 0.9]
  for (const form of ['lambda_rank', 'pairwise', 'pairwise_diagonal'] as const) {
    // The ranks do not change within the steps, so that the lambdas are constants.
    const { gradient } = rankingLoss(scores, values, form)
    closeIn64(
      gradient,
      centralDifferences((x) => rankingLoss(x, values, form).loss, scores),
    )
  }
})

const ragged = {
  rewards: [1, 0, 0.5, 0, 1, 0, 1],
  groupStart: [0, 3, 4, 4, 7],
  sequenceStart: [0, 2, 3, 5, 6, 8, 9, 10],
  mask: [1, 1, 1, 1, 0, 1, 1, 1, 1, 0],
  logp: Float32Array.of(-1, -0.5, -0.25, -3, Number.NaN, -1.25, -2, -0.75, -0.5, -1),
  refLogp: Float32Array.of(-1.5, -0.75, -0.5, -3.25, -1, -1.5, -1, -1, -1, -1.25),
  stepWeight: Float32Array.of(1.5, 2, 0.5, 1, Number.NaN, 1, 0.25, 1.75, 2, 1),
}

edge('tpo', 'ragged groups with step weights: the equation, averaged over all four prompts', () => {
  const exact = (logp: number[]) => {
    const s = [[0, 1], [2], [3], [5], [6, 7], [8]].map((list) =>
      list.reduce((a, t) => a + 0.5 * ragged.stepWeight[t]! * (logp[t]! - ragged.refLogp[t]!), 0),
    )
    const pair = (i: number, j: number, lambda: number) => lambda * Math.log1p(Math.exp(s[j]! - s[i]!))
    const discount = (rank: number) => 1 / Math.log(1 + rank)
    // Scores 0.625, 0.0625, 0.125 and 0.09375, 0.5: the ranks are 1, 3, 2 and 2, 1.
    const first =
      pair(0, 1, (2 - 1) * (discount(1) - discount(3))) +
      pair(0, 2, (2 - Math.SQRT2) * (discount(1) - discount(2))) +
      pair(2, 1, (Math.SQRT2 - 1) * (discount(2) - discount(3)))
    return (first + pair(4, 5, (2 - 1) * (discount(1) - discount(2)))) / 4
  }
  const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
  const { loss, gradLogp } = optimizationStep(tpo(), ragged)
  closeIn32([loss], [exact(finite)])
  closeIn32(gradLogp!.data, centralDifferences(exact, finite))
})

edge('tpo', 'equal scores are ranked in their order', () => {
  const start = { ...prompt, logp: prompt.refLogp }
  const discount = (rank: number) => 1 / Math.log(1 + rank)
  const lambdas = [2, 3].map((rank) => (2 - Math.SQRT2) * (discount(1) - discount(rank)))
  closeIn32([optimizationStep(tpo(), start).loss], [(lambdas[0]! + lambdas[1]!) * Math.LN2])
})

edge('tpo', 'equal values: nothing to rank; the pairwise form has log 2 per pair and no gradient', () => {
  const equal = { ...prompt, rewards: [1, 1, 1] }
  const { loss, gradLogp } = optimizationStep(tpo(), equal)
  expect([loss, ...gradLogp!.data]).toEqual([0, 0, 0, 0])
  const pairwise = optimizationStep(tpo({ form: 'pairwise' }), equal)
  closeIn32([pairwise.loss], [Math.LN2])
  expect(Array.from(pairwise.gradLogp!.data, Math.abs)).toEqual([0, 0, 0])
})

edge('tpo', 'groups of one, everything masked: loss 0, gradients 0', () => {
  for (const form of ['lambda_rank', 'pairwise', 'pairwise_diagonal'] as const) {
    for (const change of [{ groupStart: [0, 1, 2, 3] }, { mask: [0, 0, 0] }]) {
      const { loss, gradLogp } = optimizationStep(tpo({ form }), { ...prompt, ...change })
      expect([loss, ...gradLogp!.data]).toEqual([0, 0, 0, 0])
    }
  }
})

edge('tpo', 'the adaptive weight of a step: 0 for opposite hidden states, 2 for equal directions', () => {
  const { adaptiveWeight } = tpo().sample
  expect([adaptiveWeight([1, 2], [-2, -4]), adaptiveWeight([1, 2], [2, 4]), adaptiveWeight([1, 0], [0, 3])]).toEqual([0, 2, 1]) // biome-ignore format: short
  expect(adaptiveWeight([0, 0], [1, 2])).toBe(1)
  expect(() => adaptiveWeight([1], [1, 2])).toThrow('tpo: first has 2 values, expected 1 (from hidden)')
})

edge('tpo', 'without a reference', () => {
  const { refLogp, ...batch } = prompt
  expect(() => optimizationStep(tpo(), batch)).toThrow(/tpo: refLogp is missing from the batch/)
})
