// What rejection does to the losses of pairs and rankings, and where a correction clamps.
import { expect } from 'vitest'
import { type AnyRecipe, optimizationStep, recipes } from '../../../lib/recipes/index.js'
import { type Correction, withCorrection } from '../../../lib/recipes/parts/corrections.js'
import { entropy, five } from '../fixture.js'
import { edge } from '../golden.js'

const grpo = recipes.grpo({ klCoef: 0 })
const open = { low: 0, high: 1000 }
const weightsOf = (correction: Correction, given: object) =>
  optimizationStep(withCorrection(grpo, correction), given as typeof five).weights

// Two rollouts of one token, of which the engine has seen the second one otherwise: k1 is 0 and -2.
const compared = {
  groupStart: [0, 2],
  sequenceStart: [0, 1, 2],
  rewards: [1, 0],
  logp: Float32Array.of(-1, -2),
  oldLogp: Float32Array.of(-1, -2),
  refLogp: Float32Array.of(-1, -2.5),
  rolloutLogp: Float32Array.of(-1, -4),
  chosen: [0],
  rejected: [1],
  chosenFromRejected: [0],
  rejectedFromRejected: [1],
  chosenFromChosen: [0],
  rejectedFromChosen: [1],
}

edge('corrections', 'a pair or a ranking with a rollout that is rejected compares nothing', () => {
  const { simpo, rdpo, apo, srpo, tpo } = recipes
  const simpoTrl = simpo({ defaults: 'trl' })
  for (const recipe of [simpo(), simpoTrl, rdpo(), apo(), srpo(), tpo(), tpo({ form: 'pairwise' })] as AnyRecipe[]) {
    const plain = optimizationStep(recipe, compared as never)
    const rejecting = withCorrection(recipe, { reject: [{ statistic: 'seq_mean_k1', high: 1.5 }] })
    const { loss, gradLogp } = optimizationStep(rejecting, compared as never)
    expect(plain.loss, recipe.name).not.toBe(0)
    expect([loss, ...gradLogp!.data], recipe.name).toEqual([0, 0, 0])
  }
})

edge('corrections', 'the likelihood that simpo adds is a mean over the tokens that are left', () => {
  // A chosen rollout of three tokens, of which the second is rejected, and another of one.
  const given = {
    sequenceStart: [0, 3, 4, 5],
    logp: Float32Array.of(-1, -2, -3, -4, -5),
    oldLogp: new Float32Array(5),
    rolloutLogp: Float32Array.of(0, -9, 0, 0, 0),
    chosen: [0, 1],
    rejected: [2, 2],
  }
  const recipe = (nllCoef: number) =>
    withCorrection(recipes.simpo({ nllCoef }), { reject: [{ statistic: 'token_k2', high: 1 }] })
  const likelihood = optimizationStep(recipe(1), given).loss - optimizationStep(recipe(0), given).loss
  expect(likelihood).toBeCloseTo((1 + 3 + 4) / 3, 6)
})

edge(
  'corrections',
  'the log-ratio of a rollout is clamped after the sum, for rejection each before it, as in verl',
  () => {
    const given = {
      ...five,
      rolloutLogp: Float32Array.of(-30, 29, 0, 0, 0), // log-ratios 30 and -29
    }
    const { weight } = weightsOf({ importance: { mode: 'sequence_truncate', ...open } }, given)
    expect(weight![0]).toBe(Math.fround(Math.E))
    const { mask } = weightsOf({ reject: [{ statistic: 'seq_sum_k1', high: 2 }] }, given)
    expect(Array.from(mask!)).toEqual([1, 1, 1, 1, 1])
  },
)

edge('corrections', 'a method’s own weights, the drift and the entropies are those before rejection', () => {
  const reject = [{ statistic: 'token_k2', high: 1 }] as const
  const rolloutLogp = Float32Array.of(0, 0, -9, 0, 0)
  const given = { ...five, entropy, rolloutLogp, advantage: [-1, -1] }
  const alone = weightsOf({ offPolicy: -1, topEntropy: 0.4 }, given)
  const both = weightsOf({ offPolicy: -1, topEntropy: 0.4, reject }, given)
  expect(Array.from(both.mask!)).toEqual([1, 1, 0, 1, 1])
  expect(both.weight).toEqual(alone.weight)
  const fipo = { ...given, logp: Float32Array.of(0, 0, 0, 0.1, 0.1), advantage: [1, 1] }
  const rejecting = optimizationStep(withCorrection(recipes.fipo(), { reject }), fipo)
  expect(rejecting.weights.weight).toEqual(optimizationStep(recipes.fipo(), fipo).weights.weight)
})

// Three rollouts of ragged lengths with masked tokens at other places than those of the rollouts' own numbers.
const ragged = {
  groupStart: [0, 3],
  sequenceStart: [0, 4, 6, 9],
  rewards: [1, 0, 0.5],
  mask: [1, 0, 1, 1, 1, 1, 0, 1, 1],
}
const ratios = [0.1, 2, -0.3, 0.2, 0.9, -0.4, -3, 0.6, 0.5] // log-ratios; those of masked tokens are the largest
const estimates = { k1: (d: number) => -d, k2: (d: number) => d ** 2 / 2, k3: (d: number) => Math.exp(d) - 1 - d }
const levels = {
  token: (_: number[], own: number) => own,
  seq_sum: (all: number[]) => all.reduce((a, b) => a + b, 0),
  seq_mean: (all: number[]) => all.reduce((a, b) => a + b, 0) / all.length,
  seq_max: (all: number[]) => Math.max(...all),
}
const statistics = Object.keys(levels).flatMap((level) =>
  Object.keys(estimates).flatMap((kind) => (level === 'seq_max' && kind === 'k1' ? [] : [{ level, kind }])),
)
for (const { level, kind } of statistics as { level: keyof typeof levels; kind: keyof typeof estimates }[]) {
  edge('corrections', `${level}_${kind} is one of the tokens that count`, () => {
    const logp = new Float32Array(9)
    const given = { ...ragged, logp, oldLogp: logp, rolloutLogp: Float32Array.from(ratios, (d) => -d) }
    const sequenceOf = (t: number) => (t < 4 ? 0 : t < 6 ? 1 : 2)
    const live = ragged.mask.flatMap((counts, t) => (counts ? [t] : []))
    const x = (t: number) => estimates[kind](ratios[t] as number)
    const values = live.map((t) => levels[level](live.filter((u) => sequenceOf(u) === sequenceOf(t)).map(x), x(t)))
    const sorted = [...new Set(values)].sort((a, b) => a - b)
    expect(sorted.length).toBeGreaterThan(1)
    // Between two neighbours each; k1 is held between the log of high and of low.
    for (let i = 1; i < sorted.length; i++) {
      const most = ((sorted[i - 1] as number) + (sorted[i] as number)) / 2
      const bounds = kind === 'k1' ? { low: 1e-6, high: Math.exp(most) } : { high: most }
      const { mask } = weightsOf({ reject: [{ statistic: `${level}_${kind}` as 'token_k1', ...bounds }] }, given)
      expect(live.map((t) => mask![t])).toEqual(values.map((value) => Number(value <= most)))
    }
  })
}

edge('corrections', 'one bound of k1 below 1 leaves nothing between it and its inverse', () => {
  const reject = (bounds: object) => () =>
    withCorrection(grpo, { reject: [{ statistic: 'token_k1', ...bounds } as never] })
  expect(reject({ high: 0.5 })).toThrow(
    'grpo: reject.high is 0.5, expected at least 1 without low, which is then 1 / high',
  )
  expect(reject({ low: 0.1, high: 0.5 })).not.toThrow()
  expect(reject({ high: 1 })).not.toThrow()
})
