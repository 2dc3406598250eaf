// What a trainer logs: every method on its example, numbers against float64 equations, and when they are computed.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { names, presetNames, recipeOf } from '../../../examples/recipes/describe.js'
import { exampleBatch, columns as given, logp as givenLogp } from '../../../examples/recipes/example_batch.js'
import { type HostArray, lossStats, tokenLogprob } from '../../../lib/index.js'
import {
  type AnyRecipe,
  optimizationStep,
  prepareStep,
  presets,
  recipe,
  recipes,
  type StepMetrics,
  withCorrection,
} from '../../../lib/recipes/index.js'

const withOwnLoss = ['apo', 'disco', 'drpo', 'klCov', 'rdpo', 'real', 'regGrpo', 'simpo', 'srpo', 'tgdpo', 'tpo']
const withoutLoss = ['trainingFreeGrpo']
const all = [...names, ...presetNames]

/** As float32 holds them. */
const [logp, oldLogp, refLogp, rolloutLogp, entropy] = [
  ...[givenLogp, given.oldLogp, given.refLogp, given.rolloutLogp, given.entropy],
].map((x) => x.map(Math.fround)) as [number[], number[], number[], number[], number[]]

const ofBatch = ['rolloutsKept', 'rolloutsKeptShare', 'tokensKept', 'tokensKeptShare', 'tokensMaskedShare']
const ofEngine = [
  ...['engineMismatchMean', 'engineRatioMin', 'engineRatioMean', 'engineRatioMax', 'engineEffectiveSampleSize'],
]
const ofLoss = [
  ...['loss', 'policyLoss', 'klLoss', 'entropy', 'clipFraction', 'clipFractionLow', 'clipFractionHigh'],
  ...['dualClipFraction', 'ratioMean', 'ratioMin', 'ratioMax', 'approxKl', 'kl', 'tokens', 'sequences'],
  ...['nonFinite', 'badIndex'],
]
const step = (recipe: AnyRecipe, more: object = {}) =>
  optimizationStep(recipe, { ...exampleBatch(recipe), ...more } as Record<string, unknown>) as ReturnType<
    typeof optimizationStep
  > & { metrics: StepMetrics }

describe.each(all)('%s', (name) => {
  const recipe = recipeOf(name)

  test('has finite numbers under every name', () => {
    const batch = exampleBatch(recipe)
    const prepared = prepareStep(recipe, batch)
    const expected = [
      ...(prepared.rewards === undefined ? [] : ['rewardMean', 'rewardStd', 'groupsWithoutSignal']),
      ...((prepared.advantage ?? prepared.tokenAdvantage) === undefined ? [] : ['advantageMean', 'advantageStd']),
      ...ofBatch,
      ...(recipe.description.columns?.truncated === undefined ? [] : ['truncatedShare']),
      ...ofEngine,
    ]
    expect(Object.keys(prepared.metrics).sort()).toEqual(expected.sort())
    for (const [key, value] of Object.entries(prepared.metrics)) expect(Number.isFinite(value), key).toBe(true)
    if (withoutLoss.includes(name)) return
    const { metrics, stats, loss } = step(recipe)
    expect(Object.keys(metrics).sort()).toEqual([...expected, ...ofLoss].sort())
    for (const [key, value] of Object.entries(metrics)) expect(Number.isFinite(value), key).toBe(true)
    expect(metrics).toMatchObject(prepared.metrics)
    expect(metrics.loss).toBe(loss)
    expect(stats === undefined).toBe(withOwnLoss.includes(name))
    if (stats !== undefined) expect(metrics).toMatchObject(lossStats(stats))
  })
})

const sum = (x: readonly number[]) => x.reduce((total, value) => total + value, 0)
const mean = (x: readonly number[]) => sum(x) / x.length
const std = (x: readonly number[]) => Math.sqrt(sum(x.map((value) => (value - mean(x)) ** 2)) / (x.length - 1))
/** The limit of policyLoss for its statistics: all of them are float64, of float32 columns. */
const near = (x: number | undefined, y: number) =>
  expect(Math.abs(x! - y)).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(y)))

describe('a loss of the method’s own', () => {
  test.each(withOwnLoss)('%s: the numbers of its log-probabilities', (name) => {
    const { metrics, loss } = step(recipeOf(name))
    const ratio = logp.map((x, t) => Math.exp(x - oldLogp[t]!))
    expect(metrics.policyLoss).toBe(loss)
    near(metrics.ratioMean, mean(ratio))
    near(metrics.ratioMin, Math.min(...ratio))
    near(metrics.ratioMax, Math.max(...ratio))
    near(metrics.approxKl, mean(logp.map((x, t) => oldLogp[t]! - x)))
    near(metrics.entropy, mean(entropy))
    const toReference = logp.map((x, t) => x - refLogp[t]!)
    near(metrics.kl, mean(toReference.map((x) => Math.exp(-x) - 1 + x)))
    const none = { clipFraction: 0, clipFractionLow: 0, clipFractionHigh: 0, dualClipFraction: 0, klLoss: 0 }
    expect(metrics).toMatchObject({ ...none, tokens: 12, sequences: 8, nonFinite: 0, badIndex: 0 })
  })

  test('without oldLogp the ratio is 1', () => {
    const { metrics } = step(recipes.simpo(), { oldLogp: undefined })
    expect(metrics).toMatchObject({ ratioMin: 1, ratioMean: 1, ratioMax: 1, approxKl: 0 })
    // The policy itself is then held against the engine.
    near(metrics.engineMismatchMean, mean(logp.map((x, t) => Math.abs(x - rolloutLogp[t]!))))
    expect(prepareStep(recipes.simpo(), { ...exampleBatch(recipes.simpo()), oldLogp: undefined } as never).metrics).not.toHaveProperty('engineRatioMean') // biome-ignore format: one line
  })

  test('a token that a correction rejects is not among them', () => {
    const corrected = withCorrection(recipes.klCov(), { reject: [{ statistic: 'token_k1', high: 1.1 }] })
    const kept = oldLogp.filter((old, t) => Math.abs(old - rolloutLogp[t]!) <= Math.log(1.1))
    expect(kept.length).toBeLessThan(12)
    expect(step(corrected).metrics).toMatchObject({ tokens: kept.length, tokensKept: 12 })
  })

  test('from logits it has their entropy', () => {
    const data = Float32Array.from({ length: 60 }, (_, i) => Math.sin(i))
    const logits: HostArray<'f32'> = { dtype: 'f32', shape: [12, 5], data }
    const found = tokenLogprob({ logits, token: Int32Array.from(given.token) })
    const { metrics } = step(recipes.klCov(), { logp: undefined, entropy: undefined, logits })
    near(metrics.entropy, mean(Array.from(found.entropy.data)))
  })

  test('and of log-probabilities that which the policy brings', () => {
    const { logp: _, entropy: __, ...batch } = exampleBatch(recipes.klCov())
    const prepared = prepareStep(recipes.klCov(), batch)
    const policy = { logp: Float32Array.from(logp), entropy: Float32Array.from(entropy, (x) => 2 * x) }
    near(prepared.loss(policy).metrics.entropy, 2 * mean(entropy))
    expect(prepared.loss({ logp: policy.logp }).metrics.entropy).toBe(0)
  })
})

describe('of a batch', () => {
  const rewards = [1, 0, 0.5, 7, 3, 3, 3, 9]
  const rolloutMask = [1, 1, 1, 0, 1, 1, 1, 0]
  const mask = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]

  test('rewards and their groups, without rejected rollouts', () => {
    const { metrics } = prepareStep(recipes.dapo(), { ...exampleBatch(recipes.dapo()), rewards, rolloutMask } as never)
    const kept = rewards.filter((_, i) => rolloutMask[i])
    near(metrics.rewardMean, mean(kept))
    near(metrics.rewardStd, std(kept))
    expect(metrics.groupsWithoutSignal).toBe(1 / 2)
    expect(metrics).toMatchObject({ rolloutsKept: 6, rolloutsKeptShare: 6 / 8 })
  })

  test('a group without rollouts is none, and a reward that is NaN is left out', () => {
    const batch = {
      ...exampleBatch(presets.trl()),
      rewards: [1, NaN, 1, 1, 0, 2, NaN, NaN],
      groupStart: [0, 4, 4, 6, 8],
    }
    const { metrics } = prepareStep(presets.trl(), batch as never)
    expect(metrics).toMatchObject({ rewardMean: 1, groupsWithoutSignal: 1 / 2 })
    near(metrics.rewardStd, std([1, 1, 1, 0, 2]))
  })

  test('advantages of the rollouts that are kept', () => {
    const advantage = [4, -1, 2, 100, 0, 1, -3, 100]
    const { rewards: _, ...batch } = exampleBatch(recipes.dapo())
    const { metrics } = prepareStep(recipes.dapo(), { ...batch, advantage, rolloutMask } as never)
    const kept = advantage.filter((_, i) => rolloutMask[i])
    near(metrics.advantageMean, mean(kept))
    near(metrics.advantageStd, std(kept))
    expect(metrics).not.toHaveProperty('rewardMean')
    expect(metrics).not.toHaveProperty('groupsWithoutSignal')
  })

  test('equal values have a deviation of exactly 0, and one value too', () => {
    const equal = { ...exampleBatch(recipes.drGrpo({ maxLength: 3 })), rewards: Array(8).fill(0.1) }
    const { metrics } = prepareStep(recipes.drGrpo({ maxLength: 3 }), equal as never)
    expect(metrics).toMatchObject({ rewardMean: 0.1, rewardStd: 0, groupsWithoutSignal: 1, advantageStd: 0 })
    const one = { rewards: [2], groupStart: [0, 1], sequenceStart: [0, 2] }
    expect(prepareStep(recipes.drGrpo({ maxLength: 3 }), one).metrics).toMatchObject({ rewardMean: 2, rewardStd: 0 })
  })

  test('tokens: masked by the batch, and left out by the method', () => {
    // d3s keeps a part of the tokens, of a part of the rollouts.
    const method = recipes.d3s()
    const prepared = prepareStep(method, { ...exampleBatch(method), mask } as never)
    const kept = sum(Array.from(prepared.mask!))
    expect(kept).toBeLessThan(10)
    expect(prepared.metrics).toMatchObject({ tokensKept: kept, tokensKeptShare: kept / 10, tokensMaskedShare: 2 / 12 })
    const rollouts = sum(Array.from(prepared.rollouts))
    expect(prepared.metrics).toMatchObject({ rolloutsKept: rollouts, rolloutsKeptShare: rollouts / 8 })
  })

  test('advantages of tokens are those of the tokens that are kept', () => {
    const tokenAdvantage = Float32Array.from({ length: 12 }, (_, t) => t ** 2)
    const { rewards: _, ...batch } = exampleBatch(recipes.gspoToken())
    const { metrics } = prepareStep(recipes.gspoToken(), { ...batch, tokenAdvantage, mask } as never)
    const kept = Array.from(tokenAdvantage).filter((_, t) => mask[t])
    near(metrics.advantageMean, mean(kept))
    near(metrics.advantageStd, std(kept))
  })

  test('rollouts that were cut off', () => {
    const truncated = [1, 0, 0, 1, 0, 1, 0, 0]
    const method = recipes.thyme()
    expect(prepareStep(method, { ...exampleBatch(method), truncated } as never).metrics.truncatedShare).toBe(3 / 8)
  })

  test('without tokens there are no numbers of tokens', () => {
    const { metrics } = prepareStep(recipes.grpo(), { rewards: [1, 0], groupStart: [0, 2] })
    expect(Object.keys(metrics).sort()).toEqual(['advantageMean', 'advantageStd', 'groupsWithoutSignal', 'rewardMean', 'rewardStd', 'rolloutsKept', 'rolloutsKeptShare']) // biome-ignore format: one line
    const empty = prepareStep(recipes.grpo(), { rewards: [], groupStart: [0], sequenceStart: [0] })
    for (const [key, value] of Object.entries(empty.metrics)) expect(value, key).toBe(0)
  })

  test('a step in which everything is masked has finite numbers', () => {
    for (const name of ['dapo', 'klCov'] as const) {
      const { metrics } = step(recipeOf(name), { mask: Array(12).fill(0) })
      for (const [key, value] of Object.entries(metrics)) expect(Number.isFinite(value), key).toBe(true)
      expect(metrics).toMatchObject({ tokens: 0, ratioMin: 0, ratioMax: 0, engineRatioMin: 0, engineRatioMax: 0 })
    }
  })
})

describe('the engine against the policy that sampled', () => {
  const mask = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
  const method = recipes.dapo()

  test('over the tokens that are kept, without those of which the engine says nothing', () => {
    const ofEngine = rolloutLogp.map((x, t) => (t === 0 || t === 4 ? NaN : x))
    const { metrics } = prepareStep(method, { ...exampleBatch(method), mask, rolloutLogp: ofEngine } as never)
    const places = mask.flatMap((m, t) => (m === 1 && t !== 0 && t !== 4 ? [t] : []))
    const d = places.map((t) => oldLogp[t]! - rolloutLogp[t]!)
    const w = d.map(Math.exp)
    near(metrics.engineMismatchMean, mean(d.map(Math.abs)))
    near(metrics.engineRatioMin, Math.min(...w))
    near(metrics.engineRatioMean, mean(w))
    near(metrics.engineRatioMax, Math.max(...w))
    near(metrics.engineEffectiveSampleSize, sum(w) ** 2 / (w.length * sum(w.map((x) => x * x))))
  })

  test('the ratios are finite whatever the distance, and the effective sample size that of one token', () => {
    const far = rolloutLogp.map((x, t) => (t === 3 ? Math.fround(x + 900) : x))
    const { metrics } = prepareStep(method, { ...exampleBatch(method), oldLogp: far } as never)
    near(metrics.engineRatioMax, Math.exp(20))
    near(metrics.engineMismatchMean, (far[3]! - rolloutLogp[3]!) / 12)
    near(metrics.engineEffectiveSampleSize, (Math.exp(20) + 11) ** 2 / (12 * (Math.exp(40) + 11)))
  })

  test('is absent from a batch without rolloutLogp', () => {
    const { metrics } = step(method, { rolloutLogp: undefined })
    expect(Object.keys(metrics).filter((name) => name.startsWith('engine'))).toEqual([])
  })
})

describe('metrics are computed when they are first looked at, and once', () => {
  const watched = recipe(
    { name: 'watched', paper: { title: 'none' }, source: 'inferred', equation: 'A = R', unknown: 'All of it.' },
    () => ({}),
  )
  const batchOf = () => ({ ...exampleBatch(watched()), rolloutLogp: Float32Array.from(rolloutLogp) }) as never
  const farther = (batch: never) => (batch as { rolloutLogp: Float32Array }).rolloutLogp.fill(-9)

  test('of a prepared batch', () => {
    const batch = batchOf()
    const prepared = prepareStep(watched(), batch)
    farther(batch)
    const { metrics } = prepared
    near(metrics.engineMismatchMean, mean(oldLogp.map((old) => old + 9)))
    ;(batch as { rolloutLogp: Float32Array }).rolloutLogp.fill(-5)
    expect(prepared.metrics).toBe(metrics)
  })

  test('and keep no logits in memory', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const steps = (['dapo', 'klCov'] as const).map((name) => {
      const logits: HostArray<'f32'> = { dtype: 'f32', shape: [12, 5], data: new Float32Array(60) }
      const done = step(recipeOf(name), { logp: undefined, logits })
      return { done, policy: new WeakRef(logits) }
    })
    for (const { done, policy } of steps) {
      for (let i = 0; i < 20 && policy.deref() !== undefined; i++) {
        await new Promise((resolve) => setTimeout(resolve, 1))
        collect()
      }
      expect(policy.deref()).toBeUndefined()
      expect(done.metrics.tokens).toBe(12)
    }
  })

  test('of a step, which does not look at those of its batch', () => {
    const batch = batchOf()
    const done = optimizationStep(watched(), batch)
    farther(batch)
    near(done.metrics.engineMismatchMean, mean(oldLogp.map((old) => old + 9)))
    expect(done.metrics).toBe(done.metrics)
    expect(Object.keys(done)).toContain('metrics')
    expect({ ...done }.metrics).toBe(done.metrics)
    expect(JSON.parse(JSON.stringify(done)).metrics).toEqual(done.metrics)
  })
})
