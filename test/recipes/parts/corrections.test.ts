import { expect } from 'vitest'
import { optimizationStep, prepareStep, recipes } from '../../../lib/recipes/index.js'
import { clipCov, klCov } from '../../../lib/recipes/methods/cov.js'
import { type Correction, withCorrection } from '../../../lib/recipes/parts/corrections.js'
import { quantile } from '../../../lib/recipes/parts/statistics.js'
import { advantage, entropy, five, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const batch = { ...fixture, advantage }
const both = { ...fixture, advantage: [-1, -1] }
const grpo = recipes.grpo({ klCoef: 0 })
const tokenMean = { objective: { aggregate: 'token_mean' } } as const
const weightsOf = (correction: Correction, given: object = batch) =>
  optimizationStep(withCorrection(grpo, correction), given as typeof batch).weights
const weightOf = (correction: Correction, given?: object) => unmasked(weightsOf(correction, given).weight!)
const open = { low: 0, high: 1000 }

const tokens = [1.1111111111, 0.9090909091, 1, 0.9090909091, 1, 1.0909090909, 1.0416666667]
const products = [1.0101010101, 1.0330578512]
const rows = ([a, b]: readonly number[]) => [a!, a!, a!, b!, b!, b!, b!]

/** Where something that rises with x begins to hold. */
function threshold(holds: (x: number) => boolean): number {
  let [low, high] = [-16, 16]
  for (let i = 0; i < 56; i++) {
    const middle = (low + high) / 2
    if (holds(middle)) high = middle
    else low = middle
  }
  return high
}
const positive = (holds: (x: number) => boolean) => Math.exp(threshold((x) => holds(Math.exp(x))))

golden('corrections', 'the ratios of tokens and their products', (check) => {
  check.float32(weightOf({ importance: { mode: 'token_truncate', ...open } }), tokens)
  check.float32(weightOf({ importance: { mode: 'token_mask', ...open } }), tokens)
  check.float32(weightOf({ importance: { mode: 'token_gate', ...open } }), tokens)
  check.float32(weightOf({ importance: { mode: 'sequence_truncate', ...open } }), rows(products))
  check.float32(weightOf({ importance: { mode: 'sequence_mask', ...open } }), rows(products))
})

golden('corrections', 'the geometric means, where they begin to close the gate', (check) => {
  const closes = (t: number) =>
    positive((high) => weightsOf({ importance: { mode: 'token_gate', low: 0, high } }).weight![t] !== 0)
  check.float32([closes(0), closes(4)], [1.0033557298, 1.0081639426])
})

golden('corrections', 'the drift of rollouts, where the off-policy mask begins to keep them', (check) => {
  const keeps = (t: number) => threshold((offPolicy) => weightsOf({ offPolicy }, both).weight![t] === 1)
  check.float32([keeps(0), keeps(4)], [0.0033841238, -0.255980349])
})

golden('corrections', 'loss and gradient with truncated importance sampling, cap 1.05', (check) => {
  const recipe = withCorrection(grpo, { importance: { mode: 'token_truncate', high: 1.05 } })
  const step = optimizationStep(recipe, batch, undefined, tokenMean)
  check.float32(step.loss, 0.1192640693, 8) // the losses of the tokens are 8 times larger
  check.float32(unmasked(step.gradLogp!.data), [0, -0.1948051948, -0.15, 0, 0.4, 0.12, 0.130952381])
})

golden('corrections', 'loss and gradient with the sequence mask, cap 3', (check) => {
  const recipe = withCorrection(grpo, { importance: { mode: 'sequence_mask' } })
  const step = optimizationStep(recipe, batch, undefined, tokenMean)
  check.float32(step.loss, 0.1279024006, 8)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2164502165, -0.1515151515, 0, 0.4132231405, 0.1180637544, 0.1298701299]) // biome-ignore format: short
})

golden('corrections', 'the entropy quantile', (check) => {
  check.float64(quantile([0.1, 0.5, 0.2, 0.9, 0.4], 0.6), 0.44)
  check.float64(weightsOf({ topEntropy: 0.4 }, { ...five, entropy }).weight!, [0, 1, 0, 1, 0])
})

edge('corrections', 'entropies that are equal are kept together, and masked ones do not count', () => {
  const kept = (list: number[], topEntropy: number, more: object = {}) =>
    Array.from(weightsOf({ topEntropy }, { ...five, entropy: Float32Array.from(list), ...more }).weight!)
  expect(kept([1, 1, 1, 1, 1], 0.2)).toEqual([1, 1, 1, 1, 1])
  expect(kept([0.3, 0.7, 0.7, 0.1, 0.2], 0.2)).toEqual([0, 1, 1, 0, 0])
  expect(kept([0.3, 9, 0.7, 0.1, 0.2], 0.3, { mask: [1, 0, 1, 1, 1] })).toEqual([0, 1, 1, 0, 0])
  // 1 - 0.75 of four steps is a place, not a spot between two.
  expect(kept([0.1, 0.2, 0.3, 0.4, 0.5], 0.75)).toEqual([0, 1, 1, 1, 1])
  expect(weightsOf({ topEntropy: 1 }, five).weight).toBeUndefined()
})

edge('corrections', 'the KL is neither weighted nor masked, and denominators stay', () => {
  const recipe = withCorrection(recipes.grpo({ klCoef: 1 }), { importance: { mode: 'token_mask', low: 2, high: 3 } })
  const step = optimizationStep(recipe, batch)
  expect(unmasked(step.weights.weight!)).toEqual([0, 0, 0, 0, 0, 0, 0])
  const alone = optimizationStep(recipes.grpo({ klCoef: 1 }), { ...fixture, advantage: [0, 0] })
  expect(step.loss).toBe(alone.loss)
  expect(step.gradLogp).toEqual(alone.gradLogp)
})

edge('corrections', 'outside of the interval: cut to it, or 0', () => {
  const range = { low: 0.95, high: 1.05 }
  const cut = tokens.map((x) => Math.fround(Math.min(Math.max(x, 0.95), 1.05)))
  const inside = tokens.map((x) => x >= 0.95 && x <= 1.05)
  const truncated = weightOf({ importance: { mode: 'token_truncate', ...range } })
  truncated.forEach((w, t) => expect(w).toBeCloseTo(cut[t]!, 6))
  const masked = weightOf({ importance: { mode: 'token_mask', ...range } })
  masked.forEach((w, t) => expect(w).toBeCloseTo(inside[t] ? tokens[t]! : 0, 6))
  expect(weightOf({ importance: { mode: 'sequence_mask', high: 1.02 } }).map((w) => w > 0)).toEqual([true, true, true, false, false, false, false]) // biome-ignore format: short
  expect(weightOf({ importance: { mode: 'sequence_truncate', high: 1.02 } }).slice(3)).toEqual(Array(4).fill(Math.fround(1.02))) // biome-ignore format: short
})

golden('corrections', 'weights divided by their mean, of tokens or of rollouts', (check) => {
  const mean = tokens.reduce((x, y) => x + y) / 7
  check.float32(
    weightOf({ importance: { mode: 'token_truncate', ...open, normalize: true } }),
    tokens.map((x) => x / mean),
  )
  const half = (products[0]! + products[1]!) / 2
  check.float32(
    weightOf({ importance: { mode: 'sequence_truncate', ...open, normalize: true } }),
    rows(products.map((x) => x / half)),
  )
})

const log = tokens.map(Math.log)
const kinds = { k1: (d: number) => -d, k2: (d: number) => d ** 2 / 2, k3: (d: number) => Math.exp(d) - 1 - d }
const over = (f: (list: number[]) => number, list: number[]) => rows([f(list.slice(0, 3)), f(list.slice(3))])
const levels = {
  token: (list: number[]) => list,
  seq_sum: (list: number[]) => over((x) => x.reduce((a, b) => a + b), list),
  seq_mean: (list: number[]) => over((x) => x.reduce((a, b) => a + b) / x.length, list),
  seq_max: (list: number[]) => over((x) => Math.max(...x), list),
}

for (const level of ['token', 'seq_sum', 'seq_mean', 'seq_max'] as const) {
  golden('corrections', `verl's statistics of rejection: ${level}`, (check) => {
    for (const kind of level === 'seq_max' ? (['k2', 'k3'] as const) : (['k1', 'k2', 'k3'] as const)) {
      const statistic = `${level}_${kind}` as NonNullable<Correction['reject']>[number]['statistic']
      const expected = levels[level](log.map(kinds[kind]))
      const low = kind === 'k1' ? { low: 1e-9 } : {}
      const found = [0, 1, 2, 4, 5, 6, 7].map((t) =>
        positive((high) => weightsOf({ reject: [{ statistic, high, ...low }] }).mask![t] === 1),
      )
      // k1 is held against the logs of the bounds; k2 and k3 cancel, from log-ratios of size 0.1, themselves differences of
      // log-probabilities up to 2.3. A statistic of exactly 0 has the smallest bound.
      const bounds = kind === 'k1' ? found.map(Math.log) : found
      check.float32(bounds, expected.map((x) => (kind === 'k1' ? x : Math.max(x, Math.exp(-16)))), 2.3 / 0.1) // biome-ignore format: short
    }
  })
}

edge('corrections', 'one bound of k1 stands for both', () => {
  const masks = (high: number) => unmasked(weightsOf({ reject: [{ statistic: 'token_k1', high }] }).mask!)
  expect(masks(1.05)).toEqual(tokens.map((x) => Number(x <= 1.05 && x >= 1 / 1.05)))
  expect(masks(1.102)).toEqual([0, 1, 1, 1, 1, 1, 1])
})

edge('corrections', 'what is rejected counts in no denominator', () => {
  const recipe = withCorrection(grpo, { reject: [{ statistic: 'seq_sum_k1', high: 1.02 }] })
  const step = optimizationStep(recipe, batch, undefined, tokenMean)
  expect(unmasked(step.weights.mask!)).toEqual([1, 1, 1, 0, 0, 0, 0])
  expect(step.gradLogp!.data[2]).toBeCloseTo((-1.5 * 0.7) / 3, 6)
})

edge('corrections', 'the off-policy mask: positive advantages stay, without rolloutLogp it takes oldLogp', () => {
  expect(weightOf({ offPolicy: -1 })).toEqual([1, 1, 1, 0, 0, 0, 0])
  expect(weightOf({ offPolicy: -1 }, both)).toEqual([0, 0, 0, 0, 0, 0, 0])
  const { rolloutLogp, ...rest } = both
  // mean of oldLogp - logp: 0.0067 and -0.2478
  expect(weightOf({ offPolicy: 0.006 }, rest)).toEqual([0, 0, 0, 1, 1, 1, 1])
  const { advantage: _, ...without } = rest
  const tokenAdvantage = Float32Array.of(1, -1, 0, 0, -1, 1, -1, -1)
  expect(weightOf({ offPolicy: -1 }, { ...without, tokenAdvantage })).toEqual([1, 0, 1, 0, 1, 0, 0])
})

edge('corrections', 'they multiply with one another, with the method’s own weights, and leave its state', () => {
  const recipe = clipCov({ clipLow: 1, clipHigh: 10, covLow: 0.1, covHigh: 0.3 })
  const importance = { mode: 'token_truncate', ...open } as const
  const once = withCorrection(recipe, { importance, offPolicy: -0.3 })
  const twice = withCorrection(withCorrection(recipe, { importance }), { offPolicy: -0.3 })
  const step = optimizationStep(once, batch)
  const factor = [1, 1, 1, 0, 0, 0, 0]
  unmasked(step.weights.weight!).forEach((w, t) => expect(w).toBeCloseTo(tokens[t]! * factor[t]!, 6))
  expect(step.state!.data).toEqual({ step: 1 })
  expect(optimizationStep(twice, batch).gradLogp).toEqual(step.gradLogp)
  const bounded = withCorrection(recipes.dcpo(), { reject: [{ statistic: 'token_k2', high: 10 }] })
  expect(optimizationStep(bounded, { ...fixture, rewards: [1, 0], prompt: ['a', 'b'] }).weights.ratioLow).toBeDefined()
})

edge('corrections', 'a batch without oldLogp is one of the current policy', () => {
  const { oldLogp, ...rest } = batch
  const weight = weightOf({ importance: { mode: 'token_truncate', ...open } }, rest)
  expect(weight[0]).toBeCloseTo(0.7 / 0.45, 6)
})

edge('corrections', 'everything masked: loss 0, gradients 0', () => {
  const all: Correction = {
    importance: { mode: 'sequence_truncate', normalize: true },
    reject: [{ statistic: 'seq_max_k3', high: 1 }],
    offPolicy: 0,
    topEntropy: 0.5,
  }
  const given = { ...batch, entropy: new Float32Array(8), mask: new Uint8Array(8) }
  const step = optimizationStep(withCorrection(grpo, all), given)
  expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
})

edge('corrections', 'log-ratios far outside stay finite, and what lies under the mask is not read', () => {
  const rolloutLogp = Float32Array.of(-800, -1, -1, Number.NaN, -1, -1, -1, -1)
  const weight = weightOf({ importance: { mode: 'token_truncate', low: null, high: null } }, { ...batch, rolloutLogp })
  expect(weight[0]).toBe(Math.fround(Math.exp(20)))
  expect(weightOf({ importance: { mode: 'sequence_mask' } }, { ...batch, rolloutLogp }).every(Number.isFinite)).toBe(
    true,
  )
})

edge('corrections', 'a group of one, and ragged groups', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 2, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const recipe = withCorrection(grpo, {
    importance: { mode: 'sequence_mask' },
    reject: [{ statistic: 'seq_max_k2', high: 1 }],
  })
  const { data } = optimizationStep(recipe, ragged).gradLogp!
  expect(Array.from(data.slice(2))).toEqual([0, 0, 0, 0, 0, 0])
})

edge('corrections', 'a loss of its own takes rejection, but no weights', () => {
  const weighted = withCorrection(klCov(), { importance: { mode: 'token_mask' } })
  expect(() => optimizationStep(weighted, batch)).toThrow(
    'klCov: correction has weights, which the loss of this method does not take: only reject applies',
  )
  const rejecting = withCorrection(klCov(), { reject: [{ statistic: 'seq_sum_k1', high: 1.02 }] })
  expect(optimizationStep(rejecting, batch).gradLogp!.data[5]).toBe(0)
})

edge('corrections', 'columns that are missing', () => {
  const { rolloutLogp, ...rest } = batch
  const step = (correction: Correction) => () => optimizationStep(withCorrection(grpo, correction), rest)
  expect(step({ importance: { mode: 'token_mask' } })).toThrow('grpo: rolloutLogp is missing from the batch')
  expect(step({ topEntropy: 0.2 })).toThrow('grpo: entropy is missing from the batch')
  expect(() => prepareStep(withCorrection(grpo, { topEntropy: 0.2 }), rest)).not.toThrow()
})

edge('corrections', 'what is out of range is refused', () => {
  const refused = (correction: unknown) => () => withCorrection(grpo, correction as Correction)
  expect(refused({ importance: { mode: 'token' } })).toThrow(
    'grpo: importance.mode is token, expected one of token_truncate',
  )
  expect(refused({ importance: { mode: 'token_mask', low: 4 } })).toThrow('grpo: importance.low is 4')
  const importance = { mode: 'token_mask' } as const
  for (const low of ['0.5', true, [1], 1e39] as unknown as number[]) {
    expect(refused({ importance: { ...importance, low, high: null } })).toThrow('grpo: importance.low is ')
  }
  expect(refused({ importance: { ...importance, high: 1e39 } })).toThrow('grpo: importance.high is 1e+39')
  const normalize = 'false' as unknown as boolean
  expect(refused({ importance: { ...importance, normalize } })).toThrow('grpo: importance.normalize is false')
  expect(refused({ topEntropy: '0.5' as unknown as number })).toThrow('grpo: topEntropy is 0.5')
  const statistic = ['token_k2'] as unknown as 'token_k2'
  expect(refused({ reject: [{ statistic, high: 1 }] })).toThrow('grpo: reject.statistic is token_k2')
  expect(refused({ importance: { mode: 'token_mask', high: -1 } })).toThrow('grpo: importance.high is -1')
  expect(refused({ importance: { mode: 'token_mask', high: 0 } })).toThrow(
    'grpo: importance.high is 0, expected a number > 0',
  )
  expect(refused({ reject: [{ statistic: 'seq_max_k1', high: 2 }] })).toThrow('grpo: reject.statistic is seq_max_k1')
  expect(refused({ reject: [{ statistic: 'token_k2', low: 1, high: 2 }] })).toThrow('token_k2 has an upper bound only')
  expect(refused({ reject: [{ statistic: 'token_k2' }] })).toThrow(
    'grpo: reject.high is undefined, expected a number > 0',
  )
  expect(refused({ importance: null })).toThrow('takes an object of fields of importance, got null')
  expect(refused({ offPolicy: Number.NaN })).toThrow('grpo: offPolicy is NaN, expected a number')
  for (const topEntropy of [0, 1.5, Number.NaN]) {
    expect(refused({ topEntropy })).toThrow(`grpo: topEntropy is ${topEntropy}, expected a share: > 0, at most 1`)
  }
})
