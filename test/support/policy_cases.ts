// Inputs that the tests of the three loss operations share: the golden fixture with its numbers, random batches, and the
// combinations of options.
import { expect } from 'vitest'
import { type HostArray, lossStats, type Objective, type PolicyLossInputs, policyLoss } from '../../lib/index.js'
import { type PolicyCase, policyObjective } from '../references/policy_objective.js'
import { ulp } from './compare.js'
import { random } from './random.js'

/**
 * That `actual` is the float64 result rounded once. Twice that is allowed, and 1e-12 of the largest: sums in another order,
 * and float64 exponentials of another library, show no more.
 */
export function roundedOnce(actual: HostArray, exact: ArrayLike<number>): void {
  expect(actual.data.length).toBe(exact.length)
  const largest = Math.max(0, ...Array.from(exact, Math.abs).filter(Number.isFinite))
  const wrong = Array.from(actual.data, (a, i) => [i, a, exact[i] as number] as const).filter(([, a, e]) => {
    return !Object.is(a, e) && a !== e && !(Math.abs(a - e) <= ulp(e, actual.dtype) + 1e-12 * largest)
  })
  expect(wrong.slice(0, 5).map(([i, a, e]) => `[${i}] is ${a}, expected ${e}`)).toEqual([])
}

/** Numbers that are given to ten decimals, of values up to a few times 1. */
export function tenDecimals(actual: ArrayLike<number>, given: ArrayLike<number>): void {
  expect(actual.length).toBe(given.length)
  const wrong = Array.from(given, (e, i) => [i, actual[i] as number, e] as const).filter(
    ([, a, e]) => !(Math.abs(a - e) < 1e-9),
  )
  expect(wrong).toEqual([])
}

/** The case as arrays of the library. */
export function arraysOf(c: PolicyCase): PolicyLossInputs {
  const types = { sequenceStart: Int32Array, mask: Uint8Array }
  return Object.fromEntries(
    Object.entries(c).map(([name, x]) => [
      name,
      x && (types[name as keyof typeof types] ?? Float32Array).from(x as number[]),
    ]),
  ) as unknown as PolicyLossInputs
}

/** Held against the reference on the same float32 inputs: loss, both gradients and all statistics. */
export function agrees(c: PolicyCase, objective: Objective): void {
  const inputs = arraysOf(c)
  const result = policyLoss(inputs, objective)
  const exact = policyObjective(inputs as unknown as PolicyCase, objective)
  roundedOnce(result.loss, [exact.loss])
  roundedOnce(result.gradLogp, exact.gradLogp)
  if (result.gradEntropy) roundedOnce(result.gradEntropy, exact.gradEntropy)
  const stats = lossStats(result.stats)
  // Sums of terms of the order of 1, which may cancel.
  for (const name of Object.keys(exact.stats) as (keyof typeof stats)[]) {
    const [a, e] = [stats[name], exact.stats[name]]
    if (a !== e) expect(Math.abs(a - e), name).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(e)))
  }
}

// ---- the golden fixture: two sequences of four places, the last of the first one is padding -------------------------

const log = (...p: number[]) => p.map(Math.log)
const oldLogp = log(0.5, 0.2, 0.4, 1, 0.3, 0.1, 0.6, 0.25)
const rolloutLogp = log(0.45, 0.22, 0.4, 1, 0.33, 0.1, 0.55, 0.24)
export const fixture = {
  logp: log(0.7, 0.2, 0.28, 1, 0.21, 0.35, 0.6, 0.275),
  oldLogp,
  refLogp: log(0.6, 0.25, 0.3, 1, 0.3, 0.2, 0.5, 0.3),
  advantage: [1.5, -0.8],
  sequenceStart: [0, 4, 8],
  mask: [1, 1, 1, 0, 1, 1, 1, 1],
} satisfies PolicyCase

const repeat = (a: number, b: number) => [a, a, a, b, b, b, b]
const truncated = (cap: number) => oldLogp.map((x, i) => Math.min(Math.exp(x - (rolloutLogp[i] as number)), cap))
const product = (s: number) => {
  const places = [0, 1, 2, 3].map((i) => 4 * s + i).filter((t) => fixture.mask[t])
  return Math.exp(places.reduce((sum, t) => sum + (oldLogp[t] as number) - (rolloutLogp[t] as number), 0))
}
/** A value per sequence at each of its four places. */
const each = (a: number, b: number) => [a, a, a, a, b, b, b, b]
const noAdvantage = { advantage: [0, 0] }
const killed = { advantage: [-1.5, 0.8] }
const sum = (x: number[]) => x.reduce((a, b) => a + b, 0)
const k1 = [0.1541506798, -0.2231435513, -0.0689928715, -0.3566749439, 0.5596157879, 0.1823215568, -0.087011377]
const k2 = [0.011881216, 0.0248965222, 0.0023800082, 0.0636085078, 0.1565849151, 0.016620575, 0.0037854899]
const k3 = [0.011293537, 0.0268564487, 0.0024356999, 0.0718964846, 0.1310443594, 0.0156548901, 0.0038977139]
const weightedK3 = [0.0158109518, 0.0268564487, 0.00170499, 0.0503275392, 0.4586552578, 0.0156548901, 0.0042874853]
const tokenMean = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]

/** The KL of "this token or another one", from the rollout's probabilities to the policy's, at the unmasked tokens. */
export const publishedKl = [0.0871766869, 0, 0.0332770452, 0.022335657, 0.1676038597, 0, 0.0015986185]

/** What changes in the fixture, the objective, the loss, and the gradient at the seven unmasked tokens. */
export const goldens: [string, Partial<PolicyCase>, Objective, number, number[]][] = [
  // The clipped surrogate and its aggregations.
  ['TRL grpo', {}, { aggregate: 'sequence_mean' }, -0.085, [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11]],
  ['TRL dapo, verl', {}, {}, 0.11, tokenMean],
  ['Dr. GRPO', {}, { aggregate: 'constant', maxLength: 8 }, 0.048125, [0, -0.09375, -0.065625, 0, 0.175, 0.05, 0.055]],
  ['mean of token sums', {}, { aggregate: 'sequence_sum' }, 0.385, [0, -0.75, -0.525, 0, 1.4, 0.4, 0.44]],
  ['token sum', {}, { aggregate: 'token_sum' }, 0.77, [0, -1.5, -1.05, 0, 2.8, 0.8, 0.88]],
  ['clip-higher', {}, { clipHigh: 0.28 }, 0.0928571429, tokenMean],
  ['dual clip 3', {}, { dualClip: 3 }, 0.0528571429, [0, -0.2142857143, -0.15, 0, 0, 0.1142857143, 0.1257142857]],
  // KL.
  ['k1', noAdvantage, { klCoef: 1, kl: 'k1', aggregate: 'token_sum' }, sum(k1), Array(7).fill(1)],
  ['k2', noAdvantage, { klCoef: 1, kl: 'k2', aggregate: 'token_sum' }, sum(k2), k1],
  ['k3', noAdvantage, { klCoef: 1, aggregate: 'token_sum' }, sum(k3), [0.1428571429, -0.25, -0.0714285714, -0.4285714286, 0.4285714286, 0.1666666667, -0.0909090909]],
  ['k3+', noAdvantage, { klCoef: 1, klGradient: 'k2', aggregate: 'token_sum' }, sum(k3), k1],
  ['abs', noAdvantage, { klCoef: 1, kl: 'abs', aggregate: 'token_sum' }, sum(k1.map(Math.abs)), k1.map(Math.sign)],
  ['ratio × k3', noAdvantage, { klCoef: 1, klWeight: 'ratio', aggregate: 'token_sum' }, sum(weightedK3), [0.2158109518, -0.2231435513, -0.0482950100, -0.2496724608, 1.9586552578, 0.1823215568, -0.0957125147]],
  ['clip + 0.1 k3', {}, { klCoef: 0.1 }, 0.1137582733, [0.0020408163, -0.2178571429, -0.1510204082, -0.0061224490, 0.4061224490, 0.1166666667, 0.1244155844]],
  ['clip + 0.1 ratio × k3', {}, { klCoef: 0.1, klWeight: 'ratio' }, 0.1181899652, [0.0030830136, -0.2174734793, -0.1506899287, -0.0035667494, 0.4279807894, 0.1168903080, 0.1243469641]],
  ['sequence ratio × k3', noAdvantage, { klCoef: 1, klWeight: 'ratio', ratio: 'sequence', aggregate: 'sequence_mean' }, (0.9932883884 * sum(k3.slice(0, 3))) / 6 + (1.2812671524 * sum(k3.slice(3))) / 8, [0.0258893508, -0.0391473889, -0.0095852345, -0.0597307634, 0.0775478601, 0.0356016140, -0.0056513057]],
  // CISPO.
  ['CISPO, TRL cap 5', {}, { surrogate: 'cispo', clipLow: null, clipHigh: 4 }, -0.1226290080, [-0.3, -0.2142857143, -0.15, 0.08, 0.4, 0.1142857143, 0.1257142857]],
  ['CISPO, TRL cap 0.2', {}, { surrogate: 'cispo', clipLow: null, clipHigh: -0.8 }, 0.0379655445, repeat(-0.0428571429, 0.0228571429)],
  ['CISPO, verl', {}, { surrogate: 'cispo' }, 0.1474800288, [-0.2571428571, -0.2142857143, -0.1714285714, 0.0914285714, 0.1371428571, 0.1142857143, 0.1257142857]],
  // Ratios of sequences.
  ['GSPO 3e-4, 4e-4', {}, { ratio: 'sequence', aggregate: 'sequence_mean', clipLow: 3e-4, clipHigh: 4e-4 }, -0.2324594303, repeat(-0.2483220971, 0.1281267152)],
  ['GSPO 0.2', {}, { ratio: 'sequence', aggregate: 'sequence_mean' }, -0.2324594303, repeat(-0.2483220971, 0.1281267152)],
  ['GSPO-token', {}, { ratio: 'sequence_token', aggregate: 'sequence_mean' }, -0.2324594303, repeat(-0.2483220971, 0.1281267152)],
  ['LUSPO', {}, { ratio: 'sequence', aggregate: 'sequence_sum' }, -0.1848714299, repeat(-0.7449662913, 0.5125068610)],
  ['TRL sequence level + dapo', {}, { ratio: 'sequence' }, -0.0528204086, repeat(-0.2128475118, 0.1464305317)],
  ['GSPO, one row killed', killed, { ratio: 'sequence', aggregate: 'sequence_mean' }, 0.2649662913, repeat(0.2483220971, 0)],
  ['GSPO, both rows killed', killed, { ratio: 'sequence', aggregate: 'sequence_mean', clipLow: 3e-4, clipHigh: 4e-4 }, 0.349615, repeat(0, 0)],
  ['TRL RLOO', {}, { ratio: 'sequence_product', aggregate: 'sequence_mean' }, 0.343, repeat(-0.735, 1.078)],
  ['GMPO 0.4', {}, { ratio: 'geometric', aggregate: 'sequence_mean', clipLow: 0.4, clipHigh: 0.4 }, -0.2324594303, repeat(-0.2483220971, 0.1281267152)],
  ['GMPO 0.2', {}, { ratio: 'geometric', aggregate: 'sequence_mean' }, -0.1788570503, [0, -0.2372788274, -0.2372788274, 0, 0.1332448580, 0.1332448580, 0.1332448580]],
  // Other surrogates.
  ['SAPO', {}, { surrogate: 'sapo', aggregate: 'sequence_mean' }, -0.6173598155, [-0.3363650440, -0.25, -0.1711208182, 0.0682918803, 0.0881777899, 0.1, 0.1096973687]],
  ['gpg', {}, { surrogate: 'reinforce' }, 0.1898277223, repeat(-0.2142857143, 0.1142857143)],
  // Weights and advantages per token.
  ['token importance weights, cap 1.05', { weight: truncated(1.05) }, {}, 0.1192640693, [0, -0.1948051948, -0.15, 0, 0.4, 0.12, 0.1309523810]],
  ['sequence importance weights', { weight: each(product(0), product(1)) }, {}, 0.1279024006, [0, -0.2164502165, -0.1515151515, 0, 0.4132231405, 0.1180637544, 0.1298701299]],
  ['VESPO', {}, { surrogate: 'vespo', ratio: 'sequence_product' }, 0.3751072796, repeat(-0.2185259613, 0.0754067046)],
  ['DRO', {}, { surrogate: 'dro', droBeta: 0.5 }, 0.2593329610, [-0.1902519831, -0.2142857143, -0.2397624960, 0.0888089326, 0.2037687835, 0.1142857143, 0.1210935843]],
  ['DPPO, total variation', {}, { surrogate: 'dppo_tv', clipLow: 0.05, clipHigh: 0.1, ratioCap: 20 }, -0.1047796713, tokenMean],
  ['DPPO, binary KL', {}, { surrogate: 'dppo_kl', clipLow: 0.02, clipHigh: 0.05, ratioCap: 20 }, -0.1047796713, tokenMean],
  ['VESPO as weights', { weight: each(1.0197878193, 0.6598086654) }, { surrogate: 'reinforce' }, 0.3751072796, repeat(-0.2185259613, 0.0754067046)],
  ['FIPO', { advantage: undefined, tokenAdvantage: [1.5, 1.5, 1.5, 0, ...[1.2, 1.2, 1.0977557618, 1.1].map((f) => -0.8 * f)] }, { clipHigh: 0.28, dualClip: 10 }, 0.2148863728, [0, -0.2142857143, -0.15, 0, 0.48, 0.1254578013, 0.1382857143]],
] // biome-ignore format: one case per line

// ---- random batches and all combinations ----------------------------------------------------------------------------

type Arrays = {
  [Name in keyof PolicyCase]: Name extends 'sequenceStart'
    ? Int32Array
    : Name extends 'mask'
      ? Uint8Array
      : Float32Array
}

/** Seven sequences, one empty and one fully masked; ratios from 0.3 to 3, some advantages and weights 0. */
export function policyBatch(seed: number): Required<Arrays> {
  const r = random(seed)
  const sequenceStart = Int32Array.from([0, 5, 5, 6, 11, 13, 20, 26])
  const T = 26
  const logp = r.uniforms(T, -4, -0.05)
  const near = (spread: number) => logp.map((x) => x + spread * (2 * r.uniform() - 1))
  const some = (x: Float32Array) => x.map((v) => (r.uniform() < 0.12 ? 0 : v))
  const mask = r.mask(T, 0.8)
  mask.fill(0, 11, 13)
  return {
    logp,
    oldLogp: near(1.1),
    refLogp: near(1.1),
    advantage: some(r.normals(7)),
    tokenAdvantage: some(r.normals(T)),
    sequenceStart,
    mask,
    weight: some(r.uniforms(T, 0.3, 2)),
    entropy: r.uniforms(T, 0, 3),
    ratioLow: r.uniforms(T, 0.4, 0.9),
    ratioHigh: r.uniforms(T, 1.1, 2),
  } as Required<Arrays>
}

export const surrogates = ['clip', 'cispo', 'sapo', 'reinforce', 'vespo', 'dro', 'dppo_tv', 'dppo_kl'] as const
export const ratios = ['token', 'sequence', 'sequence_token', 'sequence_product', 'geometric'] as const
export const aggregates = ['token_mean', 'sequence_mean', 'sequence_sum', 'constant', 'token_sum'] as const

/** Whether the two go together. */
export function fits(surrogate: (typeof surrogates)[number], ratio: (typeof ratios)[number]): boolean {
  if (surrogate === 'vespo') return ratio === 'sequence_product'
  if (/^d/.test(surrogate)) return ratio === 'token'
  return ratio !== 'geometric' || surrogate === 'clip'
}

/** Whether ratioLow and ratioHigh may be given. */
export const takesBounds = (surrogate: (typeof surrogates)[number]): boolean =>
  fits(surrogate, 'token') && !surrogate.startsWith('dppo')

/** Options of the surrogate's own, those that it needs among them. */
export function ownOptions(surrogate: (typeof surrogates)[number], seed = 0): Objective {
  if (surrogate === 'dro') return { droBeta: seed % 2 ? 0.3 : 2 }
  if (surrogate.startsWith('dppo')) return { ratioCap: seed % 2 ? 1.2 : null }
  if (surrogate !== 'vespo' || seed % 2 === 0) return {}
  return { powerPositive: 0.7, decayPositive: 0.4, powerNegative: 1.1, decayNegative: 1e-4 }
}

/** Every kl, its gradient, its weight and clamps of all three, and of their product. */
export const klOptions: Objective[] = [{}]
for (const kl of ['k3', 'k1', 'k2', 'abs'] as const)
  for (const klGradient of ['exact', 'k2'] as const)
    for (const klWeight of ['none', 'ratio', 'token_ratio'] as const)
      for (const clamps of [{}, { klClamp: 0.6, klValueClamp: 0.1 }, { klTermClamp: 0.2 }]) {
        const own = klWeight === 'none' || klOptions.length % 2 === 0 ? {} : { klWeightClamp: 1.1 }
        klOptions.push({ klCoef: 0.3, kl, klGradient, klWeight, ...clamps, ...own })
      }

export const clampOptions: Objective[] = [
  {},
  { logRatioClamp: 0.4 },
  { clipLow: null, clipHigh: 0.5, tauPositive: 2, tauNegative: 0.5 },
  { clipLow: 0.1, clipHigh: null },
]
