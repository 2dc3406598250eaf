// The KL of a token times its weight. With x = logp - refLogp, v the estimator, w the weight and c its clamp, a token adds
//
//   klCoef min(w, c) v(x),   derivative klCoef w (v + v') where w flows to the own token and is below c,
//                                        klCoef c v'      where it is cut
//
// w = 1, the ratio of the surrogate, or exp(logp - oldLogp); everything within +- klTermClamp, constant beyond.
import { describe, expect, test } from 'vitest'
import { type Objective, policyLoss } from '../lib/index.js'
import { exactWeightedGradient } from './references/exact_kl.js'
import type { PolicyCase } from './references/policy_objective.js'
import { ulp } from './support/compare.js'
import { agrees, arraysOf, policyBatch, ratios } from './support/policy_cases.js'

const sum = { surrogate: 'reinforce', aggregate: 'token_sum', klCoef: 1 } as const satisfies Objective
/** Tokens whose surrogate is 0, in sequences that end there. */
const tokens = (logp: number[], refLogp: number[], oldLogp?: number[], ends = [logp.length]): PolicyCase => ({
  logp,
  refLogp,
  ...(oldLogp && { oldLogp }),
  advantage: ends.map(() => 0),
  sequenceStart: [0, ...ends],
})
function run(c: PolicyCase, objective: Objective) {
  const { loss, gradLogp } = policyLoss(arraysOf(c), objective)
  return { loss: loss.data[0] as number, gradient: Array.from(gradLogp.data) }
}
const rounded = (...x: number[]) => x.map(Math.fround)

/** That every number is the exact one rounded to float32: within half a last digit, and what float64 adds to it. */
function nearest(actual: number[], exact: number[]) {
  expect(actual.length).toBe(exact.length)
  const wrong = exact.map((e, i) => [i, actual[i] as number, e] as const)
  expect(wrong.filter(([, a, e]) => !(Math.abs(a - e) <= (ulp(e) / 2) * (1 + 1e-6)))).toEqual([])
}

describe("the token's own ratio", () => {
  test.each(ratios)('ratio %s: three tokens of one sequence, k3 by hand', (ratio) => {
    const [logp, oldLogp, refLogp] = [rounded(-1, -2, -0.5), rounded(-1.4, -1.8, -0.9), rounded(-1.2, -1.5, -1)]
    const x = logp.map((l, t) => l - (refLogp[t] as number))
    const w = logp.map((l, t) => Math.exp(l - (oldLogp[t] as number)))
    const { loss, gradient } = run(tokens(logp, refLogp, oldLogp), {
      ...sum,
      surrogate: 'clip',
      ratio,
      klWeight: 'token_ratio',
    })
    nearest(gradient, x.map((d, t) => (w[t] as number) * d)) // biome-ignore format: one line
    const terms = x.map((d, t) => (w[t] as number) * (Math.exp(-d) - 1 + d))
    nearest([loss], [terms.reduce((a, b) => a + b, 0)])
  })

  test.each(ratios)('ratio %s: the surrogate keeps its own, also clipped and clamped', (ratio) => {
    for (const seed of [31, 32]) {
      const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(seed)
      for (const kl of ['k3', 'k1', 'k2', 'abs'] as const)
        for (const more of [
          {},
          { logRatioClamp: 0.3 },
          { klWeightClamp: 1.2 },
          { klWeightClamp: 0.5, klTermClamp: 0.1 },
        ])
          agrees(c, { ratio, clipLow: 0.1, clipHigh: 0.1, klCoef: 0.4, kl, klWeight: 'token_ratio', ...more })
      const { oldLogp, ...onPolicy } = c
      agrees(onPolicy, { ratio, klCoef: 0.4, klWeight: 'token_ratio' })
    }
  })

  test('a token of VESPO alone in its sequence, within and beyond its clamps', () => {
    for (const d of [24, -24, 19.5, -19.5, 1.5]) {
      for (const klWeight of ['ratio', 'token_ratio'] as const) {
        const c = { ...tokens([-1], [-1.5], [-1 - d]), advantage: [0.75] }
        agrees(c, { surrogate: 'vespo', ratio: 'sequence_product', klCoef: 0.1, klWeight })
      }
    }
  })
})

describe('clamps', () => {
  const on = (x: number, objective: Objective) => run(tokens([-1], [-1 - x]), { ...sum, ...objective })

  test('a weight at its clamp keeps its gradient; above it the weight is a constant and the KL has its own', () => {
    for (const klWeight of ['ratio', 'token_ratio'] as const) {
      // On-policy the weight is 1.
      expect(on(-0.5, { klWeight, klWeightClamp: 1 }).gradient).toEqual([-0.5])
      const { loss, gradient } = on(-0.5, { klWeight, klWeightClamp: 0.75 })
      nearest([loss, ...gradient], [0.75 * (Math.exp(0.5) - 1.5), 0.75 * (1 - Math.exp(0.5))])
    }
    const ratio = { klWeight: 'ratio', kl: 'k1' } as const
    const c = tokens([-1, -1], [-3, -3], [-1, -2])
    expect(run(c, { ...sum, ...ratio, klWeightClamp: 2 })).toEqual({ loss: 6, gradient: [3, 2] })
  })
  test('a cut weight of a sequence is a constant for all its tokens', () => {
    const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(33)
    for (const ratio of ['sequence', 'sequence_token', 'sequence_product'] as const)
      for (const klWeightClamp of [0.6, 1, 1.3]) agrees(c, { ratio, klCoef: 0.4, klWeight: 'ratio', klWeightClamp })
  })
  test('weight × value at its clamp keeps its gradient; beyond it is a constant, whatever klGradient says', () => {
    const k1 = { kl: 'k1', klWeight: 'ratio' } as const
    expect(on(2, { ...k1, klTermClamp: 2 })).toEqual({ loss: 2, gradient: [3] })
    expect(on(2, { ...k1, klTermClamp: 1.75 })).toEqual({ loss: 1.75, gradient: [0] })
    expect(on(-2, { ...k1, klTermClamp: 2 })).toEqual({ loss: -2, gradient: [-1] })
    expect(on(-2, { ...k1, klTermClamp: 1.75 })).toEqual({ loss: -1.75, gradient: [0] })
    expect(on(2, { ...k1, klGradient: 'k2', klTermClamp: 2 })).toEqual({ loss: 2, gradient: [4] })
    expect(on(2, { ...k1, klGradient: 'k2', klTermClamp: 1.75 })).toEqual({ loss: 1.75, gradient: [0] })
    // Without a weight it is 1; klValueClamp with klGradient 'k2' keeps the gradient, this clamp does not.
    expect(on(2, { kl: 'k1', klTermClamp: 1.75 })).toEqual({ loss: 1.75, gradient: [0] })
    expect(on(2, { kl: 'k1', klGradient: 'k2', klValueClamp: 1.75 })).toEqual({ loss: 1.75, gradient: [2] })
  })
  test('the product is clamped, not its factors: k3 of -5 times exp(-1) is 52.4, and within +-10 it is 10', () => {
    const c = tokens([-6], [-1], [-5])
    expect(run(c, { ...sum, klWeight: 'ratio', klTermClamp: 10 })).toEqual({ loss: 10, gradient: [0] })
    const { loss } = run(c, { ...sum, klWeight: 'ratio', klValueClamp: 10 })
    expect(loss).toBeCloseTo(10 * Math.exp(-1), 5)
  })
})

describe('the gradient of weight × value keeps its digits', () => {
  // The two parts, v and v' of k3, are as large as exp(41) = 6e17 and leave a difference of -41.
  test('k3 on-policy, logp -45, refLogp -4: x is left', () => {
    const c = tokens([-45, -1], [-4, -1])
    for (const klWeight of ['ratio', 'token_ratio'] as const) {
      expect(run(c, { ...sum, klWeight }).gradient).toEqual([-41, 0])
      const coef = { surrogate: 'reinforce', klCoef: 0.04, klWeight } as const
      expect(run(c, { ...coef, aggregate: 'token_sum' }).gradient).toEqual(rounded(-1.64, 0))
      expect(run(c, coef).gradient).toEqual(rounded(-0.82, 0))
    }
  })

  const logps = [-45, -3.25, -0.125, -90]
  const distances = [-86, -60.5, -41, -17, -2.0001, -2, -1.9999, -1.2564, -1.0001, -1, -0.9999, -0.4, -1e-3, 0]
  const grid = logps.flatMap((l) => [...distances, ...distances.map((x) => -x)].map((x) => [l, x] as const))
  const logp = rounded(...grid.map(([l]) => l))
  const refLogp = rounded(...grid.map(([l, x]) => l - x))
  const each = logp.map((_, t) => t + 1)

  describe.each([undefined, 0, 0.7, -1.3])('oldLogp %s below logp', (d) => {
    const oldLogp = d === undefined ? undefined : rounded(...logp.map((l) => l - d))
    test.each(['k3', 'k1', 'k2', 'abs'] as const)('%s', (kl) => {
      for (const klGradient of ['exact', 'k2'] as const) {
        const exact = logp.map((l, t) =>
          exactWeightedGradient(l, oldLogp?.[t] ?? l, refLogp[t] as number, kl, klGradient),
        )
        const options = { ...sum, kl, klGradient }
        // Every ratio of a sequence of one token is that token's own.
        for (const ratio of ['token', 'sequence', 'sequence_token', 'sequence_product'] as const)
          nearest(run(tokens(logp, refLogp, oldLogp, each), { ...options, ratio, klWeight: 'ratio' }).gradient, exact)
        for (const ratio of ['token', 'sequence', 'sequence_token'] as const)
          nearest(run(tokens(logp, refLogp, oldLogp), { ...options, ratio, klWeight: 'token_ratio' }).gradient, exact)
      }
    })
  })

  test('what is masked does not make a token share its sequence', () => {
    const c = { ...tokens([-7, -45, -7], [-1, -4, -1], undefined, [3]), mask: [0, 1, 0] }
    expect(run(c, { ...sum, ratio: 'sequence', klWeight: 'ratio' }).gradient).toEqual([0, -41, 0])
  })

  test('a clamp that holds the value leaves the weight its gradient', () => {
    const c = tokens([-45], [-4])
    expect(run(c, { ...sum, klWeight: 'ratio', klValueClamp: 10 })).toEqual({ loss: 10, gradient: [10] })
    const { gradient } = run(c, { ...sum, klWeight: 'ratio', klClamp: 2 })
    nearest(gradient, [Math.exp(2) - 3])
    expect(run(c, { ...sum, klWeight: 'ratio', klValueClamp: 10, klGradient: 'k2' }).gradient).toEqual([-31])
  })
})
