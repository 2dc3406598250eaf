// The methods whose advantages come from groups, in every form, with rollouts rejected and tokens masked: against float64,
// written from their equations. A rejected rollout enters no statistic, and its tokens learn nothing.
import { expect, test } from 'vitest'
import { makeOf } from '../../examples/recipes/describe.js'
import { policyLoss } from '../../lib/index.js'
import { type AnyRecipe, prepareStep } from '../../lib/recipes/index.js'
import { random } from '../support/random.js'

type Numbers = readonly number[]
interface Data {
  readonly rewards: Numbers
  readonly groups: readonly (readonly number[])[]
  /** Of each rollout its tokens that count. */
  readonly tokens: readonly (readonly number[])[]
  readonly kept: readonly boolean[]
  readonly oldLogp: Numbers
  readonly refLogp: Numbers
  readonly length: number
  readonly scores: Numbers
  readonly scoreWeight: Numbers
  readonly hiddenState: Numbers
  readonly predictionError: Numbers
}
type Options = Readonly<Record<string, unknown>>
/** [N], or [T] */
type Reference = (data: Data, options: Options) => { rollouts: number[] } | { tokens: number[] }

// ---- float64 --------------------------------------------------------------------------------------------------------

const sum = (x: Numbers) => x.reduce((a, b) => a + b, 0)
const mean = (x: Numbers) => (x.length === 0 ? 0 : sum(x) / x.length)
const equal = (x: Numbers) => x.every((value) => value === x[0])
const variance = (x: Numbers, ddof: number) => {
  if (x.length <= ddof || equal(x)) return 0
  const center = mean(x)
  return sum(x.map((value) => (value - center) ** 2)) / (x.length - ddof)
}
const std = (x: Numbers, ddof = 1) => Math.sqrt(variance(x, ddof))
const over = (x: number, divisor: number, spread: number) => (spread === 0 ? x : x / divisor)

/** An advantage of each rollout that is kept, from those of its group: its reward, and the others' with it and without. */
const perGroup = (
  { groups, kept }: Data,
  rewards: Numbers,
  f: (reward: number, all: Numbers, others: Numbers) => number,
) => {
  const result = rewards.map(() => 0)
  for (const group of groups) {
    const members = group.filter((i) => kept[i])
    for (const i of members) result[i] = f(rewards[i]!, members.map((j) => rewards[j]!), members.filter((j) => j !== i).map((j) => rewards[j]!)) // biome-ignore format: one call
  }
  return result
}
const grpoOf =
  (eps: number, singleton: 'zero' | 'raw' = 'zero', scale = true) =>
  (reward: number, all: Numbers) => {
    if (all.length === 1) return singleton === 'zero' ? 0 : scale ? reward / (1 + eps) : reward
    if (equal(all)) return 0
    return scale ? (reward - mean(all)) / (std(all) + eps) : reward - mean(all)
  }
/** To the unmasked tokens of the rollouts that are kept, the others 0. */
const spread = ({ tokens, kept, length }: Data, x: Numbers, all = false) => {
  const result = Array<number>(length).fill(0)
  tokens.forEach((list, i) => {
    if (kept[i] || all) for (const t of list) result[t] = x[i]!
  })
  return result
}
const counted = ({ tokens, kept }: Data) => tokens.flatMap((list, i) => (kept[i] ? list : []))

const references: Record<string, Reference> = {
  grpo: (data) => ({ rollouts: perGroup(data, data.rewards, grpoOf(1e-4)) }),
  drGrpo: (data) => ({ rollouts: perGroup(data, data.rewards, grpoOf(0, 'zero', false)) }),
  dapo: (data, { eps, singleton }) => ({ rollouts: perGroup(data, data.rewards, grpoOf((eps as number) ?? 1e-6, singleton as 'zero')) }), // biome-ignore format: one call

  rloo(data, { klCoef, normalize, singleton }) {
    const coefficient = (klCoef as number) ?? 0.05
    const kl = data.tokens.map((list) => sum(list.map((t) => data.oldLogp[t]! - data.refLogp[t]!)))
    const rewards = data.rewards.map((reward, i) => reward - coefficient * kl[i]!)
    const raw = perGroup(data, rewards, (reward, all, others) => {
      if (all.length === 1) return singleton === 'raw' ? reward : 0
      return equal(all) ? 0 : reward - mean(others)
    })
    if (!normalize) return { rollouts: raw }
    const list = raw.filter((_, i) => data.kept[i])
    return { rollouts: raw.map((a, i) => (data.kept[i] ? over(a - mean(list), std(list) + 1e-4, std(list)) : 0)) }
  },

  nemoGrpo: (data, { leaveOneOut = true, normalize = true, eps }) => ({
    rollouts: perGroup(data, data.rewards, (reward, all, others) => {
      const set = leaveOneOut ? others : all
      if (all.length === 1 || equal(all)) return 0
      return normalize ? over(reward - mean(set), std(set) + ((eps as number) ?? 1e-6), std(set)) : reward - mean(set)
    }),
  }),

  gdpo(data, { form = 'trl', scale = 'group_std', normalize = true }) {
    const kinds = data.scoreWeight.length
    const [eps, singleton] = form === 'verl' ? ([1e-6, 'raw'] as const) : ([1e-4, 'zero'] as const)
    const total = data.rewards.map(() => 0)
    const scored = data.rewards.map(() => false)
    for (let k = 0; k < kinds; k++) {
      const column = data.rewards.map((_, i) => data.scores[i * kinds + k]!)
      const kept = data.kept.map((keep, i) => keep && !Number.isNaN(column[i]))
      const one = perGroup({ ...data, kept }, column, grpoOf(eps, singleton, scale === 'group_std'))
      one.forEach((a, i) => {
        total[i] = total[i]! + data.scoreWeight[k]! * a
        scored[i] ||= kept[i]!
      })
    }
    if (!normalize) return { rollouts: total }
    if (form === 'trl') {
      const list = total.filter((_, i) => scored[i])
      return { rollouts: total.map((s, i) => (scored[i] ? over(s - mean(list), std(list) + 1e-4, std(list)) : 0)) }
    }
    const known = { ...data, kept: scored }
    const at = counted(known).map((t) => spread(known, total)[t]!)
    const value = spread(known, total.map((s) => over(s - mean(at), Math.sqrt(variance(at, 1) + 1e-8), variance(at, 1)))) // biome-ignore format: one call
    return { tokens: value }
  },

  reinforcePlusPlus(data, { baseline = false, gamma = 1, klCoef = 0.01, whiten = 'verl' }) {
    const rewards = baseline ? perGroup(data, data.rewards, grpoOf(0, 'raw', false)) : data.rewards
    const returns = Array<number>(data.length).fill(0)
    data.tokens.forEach((list, i) => {
      let later = 0
      list.toReversed().forEach((t, k) => {
        const own = -(klCoef as number) * (data.oldLogp[t]! - data.refLogp[t]!) + (k === 0 ? rewards[i]! : 0)
        returns[t] = later = own + (gamma as number) * later
      })
    })
    const places = counted(data)
    const list = places.map((t) => returns[t]!)
    const divisor = {
      verl: over(1, 1 / Math.sqrt(variance(list, 1) + 1e-8), variance(list, 1)),
      openrlhf: Math.sqrt(Math.max(variance(list, 0), 1e-8)),
      center: 1,
    }[whiten as 'verl']
    const result = Array<number>(data.length).fill(0)
    for (const t of places) result[t] = (returns[t]! - mean(list)) / divisor
    return { tokens: result }
  },

  thr(data, { form = 'thr', p = 0, beta = 1 }) {
    const advantage = perGroup(data, data.rewards, grpoOf(1e-4))
    const result = spread(data, advantage)
    const [D, V] = [data.hiddenState.length / data.length, data.predictionError.length / data.length]
    const dot = (x: Numbers, a: number, b: number, n: number) => sum(Array.from({ length: n }, (_, k) => x[a * n + k]! * x[b * n + k]!)) // biome-ignore format: short
    /** g^T M h of a token is a sum over the tokens of the correct rollouts: (g . g') (h . h'). */
    const score = (t: number, right: Numbers) =>
      sum(right.flatMap((i) => data.tokens[i]!).map((u) => dot(data.predictionError, t, u, V) * dot(data.hiddenState, t, u, D))) // biome-ignore format: short
    for (const group of data.groups) {
      const members = group.filter((i) => data.kept[i])
      const right = members.filter((i) => data.rewards[i]! > 0)
      const anchors = right.filter((i) => data.tokens[i]!.length > 0).map((i) => mean(data.tokens[i]!.map((t) => score(t, right)))) // biome-ignore format: short
      if (right.length === 0 || right.length === members.length || anchors.length === 0) continue
      const threshold = (beta as number) * Math.min(...anchors)
      for (const i of members) {
        for (const t of data.tokens[i]!) {
          const s = score(t, right)
          const thr = Math.sign(advantage[i]!) * s
          if (form === 'thr') result[t] = Math.abs(thr) > threshold ? result[t]! * (1 + (p as number) * Math.sign(thr)) : 0
          else if (!right.includes(i) && s > threshold) result[t] = result[t]! * 2 * Math.abs(0.5 - right.length / members.length) // biome-ignore format: one rule
        }
      }
    }
    return { tokens: result }
  },
}

// ---- the methods in their forms -------------------------------------------------------------------------------------

const booleans = [false, true]
const forms: Record<string, Options[]> = {
  grpo: [{}],
  drGrpo: [{ maxLength: 8 }],
  dapo: [{}, { eps: 0.1 }, { singleton: 'raw' }],
  rloo: ['zero', 'raw'].flatMap((singleton) => booleans.flatMap((normalize) => [0, 0.3].map((klCoef) => ({ singleton, normalize, klCoef })))), // biome-ignore format: a product
  nemoGrpo: booleans.flatMap((leaveOneOut) => booleans.flatMap((normalize) => [1e-6, 0.5].map((eps) => ({ leaveOneOut, normalize, eps })))), // biome-ignore format: a product
  gdpo: ['trl', 'verl'].flatMap((form) => booleans.flatMap((normalize) => ['group_std', 'none'].map((scale) => ({ form, normalize, scale })))), // biome-ignore format: a product
  reinforcePlusPlus: ['verl', 'openrlhf', 'center'].flatMap((whiten) => booleans.flatMap((baseline) => [1, 0.5].map((gamma) => ({ whiten, baseline, gamma, klCoef: gamma === 1 ? 0 : 0.1 })))), // biome-ignore format: a product
  thr: ['thr', 'nthr'].flatMap((form) => [-0.5, 0.25].flatMap((p) => [0.3, 1].map((beta) => ({ form, p, beta })))),
}

/** Ragged groups, an empty one and one of a single rollout; rewards, lengths and masks at random. */
function example(seed: number, rejecting: boolean, rewardsAre: 'ordinary' | 'equal' | 'tiny' = 'ordinary') {
  const flat = rewardsAre === 'equal'
  const unit = rewardsAre === 'tiny' ? 4e-5 : 1
  const { integer, normal, uniform } = random(seed)
  const sizes = [4, 1, 3, 0, 5]
  const groupStart = sizes.reduce((all, n) => all.concat((all.at(-1) as number) + n), [0])
  const N = groupStart.at(-1) as number
  const sequenceStart = Array.from({ length: N }, () => integer(4)).reduce((all, n) => all.concat((all.at(-1) as number) + n), [0]) // biome-ignore format: short
  const T = sequenceStart.at(-1) as number
  const numbers = (n: number, f: () => number) => Array.from({ length: n }, () => Math.fround(f()))
  const batch = {
    groupStart,
    sequenceStart,
    rewards: flat
      ? Array<number>(N).fill(0.7)
      : numbers(N, () => unit * (integer(3) - 1 + (integer(2) === 0 ? 0 : normal() / 8))),
    oldLogp: Float32Array.from(numbers(T, () => -2 * uniform())),
    refLogp: Float32Array.from(numbers(T, () => -2 * uniform())),
    mask: Array.from({ length: T }, () => Number(integer(5) > 0)),
    rolloutMask: rejecting ? Array.from({ length: N }, () => Number(integer(3) > 0)) : Array<number>(N).fill(1),
    scores: numbers(2 * N, () => (integer(6) === 0 ? Number.NaN : flat ? 0.7 : normal())),
    scoreWeight: [1, 0.5],
    hiddenState: numbers(3 * T, normal),
    predictionError: numbers(2 * T, normal),
  }
  const range = (begin: number, end: number) => Array.from({ length: end - begin }, (_, k) => begin + k)
  const data: Data = {
    ...batch,
    oldLogp: Array.from(batch.oldLogp),
    refLogp: Array.from(batch.refLogp),
    groups: sizes.map((_, g) => range(groupStart[g]!, groupStart[g + 1]!)),
    tokens: range(0, N).map((i) => range(sequenceStart[i]!, sequenceStart[i + 1]!).filter((t) => batch.mask[t] === 1)),
    kept: batch.rolloutMask.map(Boolean),
    length: T,
  }
  return { batch, data }
}

const cases = Object.entries(forms).flatMap(([name, list]) => list.map((options) => ({ name, options })))

test.each(cases)('$name $options', ({ name, options }) => {
  const method = makeOf(name)(options as never) as AnyRecipe
  const columns = Object.keys(method.description.columns ?? {})
  for (let seed = 1; seed <= 12; seed++) {
    const { batch, data } = example(seed, seed % 3 > 0, seed === 12 ? 'equal' : seed > 9 ? 'tiny' : 'ordinary')
    const own = Object.entries(batch).filter(([key]) => !/^(scores|scoreWeight|hiddenState|predictionError)$/.test(key) || columns.includes(key)) // biome-ignore format: short
    const { advantage, tokenAdvantage } = prepareStep(method, Object.fromEntries(own) as never)
    const expected = references[name]!(data, options)
    const isTokens = 'tokens' in expected
    const [found, wanted] = isTokens ? [tokenAdvantage, expected.tokens] : [advantage, expected.rollouts]
    expect(found, `${seed}: ${isTokens ? 'per token' : 'per rollout'}`).toBeDefined()
    // What is masked in the loss may be anything there.
    const places = isTokens ? counted(data) : wanted.map((_, i) => i)
    // float32 inputs and outputs: a few of the last digits of the largest number, which differences come from.
    const limit = 2 ** -20 * Math.max(1, ...wanted.map(Math.abs))
    for (const k of places) expect(Math.abs(found![k]! - wanted[k]!), `${seed}, [${k}]: ${found![k]}, expected ${wanted[k]}`).toBeLessThanOrEqual(limit) // biome-ignore format: one line
    if (!isTokens) data.kept.forEach((keep, i) => expect(keep ? 0 : found![i], `rejected ${i}`).toBe(0))
  }
})

test('a rejected rollout learns nothing, and its reward and tokens change nothing elsewhere', () => {
  for (const { name, options } of cases) {
    const method = makeOf(name)(options as never) as AnyRecipe
    const columns = Object.keys(method.description.columns ?? {})
    const { batch, data } = example(5, true)
    const own = (given: typeof batch) => Object.fromEntries(Object.entries(given).filter(([key]) => !/^(scores|scoreWeight|hiddenState|predictionError)$/.test(key) || columns.includes(key))) // biome-ignore format: short
    const other = { ...batch, rewards: batch.rewards.map((reward, i) => (data.kept[i] ? reward : 50 - i)), scores: batch.scores.map((x, k) => (data.kept[k >> 1] ? x : k)) } // biome-ignore format: one batch
    const step = (given: typeof batch) => prepareStep(method, own(given) as never)
    const [one, two] = [step(batch), step(other)]
    const label = `${name} ${JSON.stringify(options)}`
    expect(two.advantage, label).toEqual(one.advantage)
    if (one.tokenAdvantage !== undefined) for (const t of counted(data)) expect(two.tokenAdvantage![t], label).toBe(one.tokenAdvantage[t]) // biome-ignore format: one line
  }
})

test('nemoGrpo: a log-ratio to the reference is held within 20, the value of the KL within 10', () => {
  const { objective } = makeOf('nemoGrpo')({ klCoef: 1, clipLow: 0.2, clipHigh: 0.2 }) as AnyRecipe
  // x = logp - refLogp: the value is k3(x) = exp(-x) - 1 + x, at most 10; the gradient x, but 0 where the ratio is held.
  for (const x of [0.5, -2, 9.5, 15, 19.5, 25, -25]) {
    const held = Math.min(Math.max(x, -20), 20)
    const value = Math.min(Math.exp(-held) - 1 + held, 10)
    const inputs = { logp: Float32Array.of(-30), oldLogp: Float32Array.of(-30), refLogp: Float32Array.of(-30 - x), advantage: Float32Array.of(0), sequenceStart: Int32Array.of(0, 1) } // biome-ignore format: one call
    const { loss } = policyLoss(inputs, objective as object)
    expect(loss.data[0], `x = ${x}`).toBeCloseTo(value, 4)
  }
})
