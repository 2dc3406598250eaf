import { describe, expect } from 'vitest'
import { exampleBatch } from '../../../examples/recipes/example_batch.js'
import { type AnyRecipe, optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { presets } from '../../../lib/recipes/presets/index.js'
import { fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { batch, expectStep, off, step } from '../preset_steps.js'

const { liger, nemo, openrlhf, slime, trl, unsloth, verl } = presets

const rewards = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }
const advantagesOf = (recipe: AnyRecipe) => prepareStep(recipe, rewards as never).advantage!

describe('advantages', () => {
  const zero = [0, 0, 0, 0]
  golden('trl', 'of the group, of the batch, unscaled', (check) => {
    check.float32(advantagesOf(trl()), [1.3053097494, -0.7831858496, 0.2610619499, -0.7831858496, ...zero])
    check.float32(advantagesOf(trl({ scaleRewards: 'batch' })), [1.3641442499, -0.81848655, 0.27282885, -0.81848655, ...zero]) // biome-ignore format: short
    check.float32(advantagesOf(trl({ scaleRewards: 'none' })), [0.625, -0.375, 0.125, -0.375, ...zero])
  })
  golden('verl', 'grpo, unscaled, rloo', (check) => {
    check.float32(advantagesOf(verl()), [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154, ...zero])
    check.float32(advantagesOf(verl({ normAdvByStd: false })), [0.625, -0.375, 0.125, -0.375, ...zero])
    for (const advEstimator of ['rloo', 'rloo_vectorized'] as const) {
      check.float32(advantagesOf(verl({ advEstimator })), [0.8333333333, -0.5, 0.1666666667, -0.5, ...zero])
    }
  })
  golden('openrlhf', 'group_norm', (check) => {
    const recipe = openrlhf({ klCoef: 0 })
    check.float32(advantagesOf(recipe), [1.3055824169, -0.7833494502, 0.2611164834, -0.7833494502, ...zero])
  })
  golden('nemo', 'leave one out', (check) => {
    check.float32(advantagesOf(nemo()), [2.886741346, -0.999998, 0.2886746346, -0.999998, ...zero])
  })
  golden('slime', 'the divisor of verl', (check) => {
    check.float32(advantagesOf(slime()), [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154, ...zero])
  })
  edge('verl', 'a group of one: the reward itself, 0 for rloo_vectorized', () => {
    const one = (recipe: AnyRecipe) => Array.from(prepareStep(recipe, { rewards: [3], groupStart: [0, 1] } as never).advantage!) // biome-ignore format: short
    expect(one(verl())[0]).toBeCloseTo(3 / 1.000001, 6)
    expect(one(verl({ advEstimator: 'rloo' }))).toEqual([3])
    expect(one(verl({ advEstimator: 'rloo_vectorized' }))).toEqual([0])
    expect(one(trl())).toEqual([0])
    expect(one(nemo())).toEqual([0])
  })
})

describe('corrections', () => {
  golden('trl', 'on by default: the sequence mask', (check) => {
    expectStep(check, trl(), 0.1279024006, [0, -0.2164502165, -0.1515151515, 0, 0.4132231405, 0.1180637544, 0.1298701299], 8) // biome-ignore format: short
  })
  golden('trl', 'truncated weights of tokens', (check) => {
    const recipe = trl({ importanceSamplingMode: 'token_truncate', importanceSamplingMax: 1.05 })
    expectStep(check, recipe, 0.1192640693, [0, -0.1948051948, -0.15, 0, 0.4, 0.12, 0.130952381], 8)
  })
  edge('trl', 'without rolloutLogp there is nothing to correct', () => {
    const { rolloutLogp, ...rest } = batch
    expect(step(trl(), rest).loss).toBe(step(trl(off)).loss)
  })
  edge('verl', 'one threshold cuts, two mask; the mean may be divided out', () => {
    const weightOf = (options: Parameters<typeof verl>[0]) => optimizationStep(verl(options), batch).weights.weight
    expect(weightOf({})).toBeUndefined()
    expect(weightOf({ rolloutIs: 'token', rolloutIsThreshold: 1 })![0]).toBe(1)
    expect(weightOf({ rolloutIs: 'token', rolloutIsThreshold: 1, rolloutIsLow: 0.5 })![0]).toBe(0)
    expect(weightOf({ rolloutIs: 'sequence' })![0]).toBeCloseTo(1.0101010101, 6)
    const mean = (1.0101010101 + 1.0330578512) / 2
    expect(weightOf({ rolloutIs: 'sequence', rolloutIsBatchNormalize: true })![0]).toBeCloseTo(1.0101010101 / mean, 6)
  })
  edge('openrlhf', 'each correction; the mean of a rollout opens its gate', () => {
    const weightOf = (options: Parameters<typeof openrlhf>[0]) =>
      unmasked(optimizationStep(openrlhf(options), batch).weights.weight!).map((x) => Number(x.toFixed(4)))
    const range = { isLow: 0.95, isHigh: 1.05 }
    expect(weightOf({ isCorrection: 'tis', ...range })).toEqual([1.05, 0.95, 1, 0.95, 1, 1.05, 1.0417])
    expect(weightOf({ isCorrection: 'icepop', ...range })).toEqual([0, 0, 1, 0, 1, 0, 1.0417])
    const narrow = { isLow: 0.995, isHigh: 1.005 } // 1.0034 and 1.0082
    expect(weightOf({ isCorrection: 'seq-mask-tis', ...narrow })).toEqual([1.1111, 0.9091, 1, 0, 0, 0, 0])
  })
  edge('nemo', 'a correction asks for its largest weight', () => {
    expect(() => nemo({ correction: 'tis' })).toThrow('nemo: correctionMax is null, but correction is tis')
    const { weight } = optimizationStep(nemo({ correction: 'tis', correctionMax: 1.05 }), batch).weights
    expect(weight![0]).toBe(Math.fround(1.05))
  })
  edge('slime', 'weights of tokens, and the off-policy mask', () => {
    const far = Float32Array.from(fixture.rolloutLogp, (x, t) => (t === 0 ? x - 3 : x))
    expect(optimizationStep(slime({ useTis: true }), { ...batch, rolloutLogp: far }).weights.weight![0]).toBe(2)
    // mean_t (oldLogp - logp) is 0.0067 and -0.248.
    const { weight } = optimizationStep(slime({ opsmDelta: 1e-4 }), { ...batch, advantage: [-1, -1] }).weights
    expect(unmasked(weight!)).toEqual([0, 0, 0, 1, 1, 1, 1])
  })
  edge('trl', 'the off-policy mask, and the entropy quantile', () => {
    const { weight } = optimizationStep(trl({ ...off, offPolicyMaskThreshold: 0 }), {
      ...batch,
      advantage: [-1, 1],
    }).weights
    expect(unmasked(weight!)).toEqual([0, 0, 0, 1, 1, 1, 1])
    const entropy = Float32Array.of(0.1, 0.5, 0.2, 9, 0.9, 0.4, 0.3, 0.05)
    const top = optimizationStep(trl({ ...off, topEntropyQuantile: 0.2 }), { ...batch, entropy }).weights
    expect(unmasked(top.weight!)).toEqual([0, 1, 0, 1, 0, 0, 0])
  })
})

describe('defaults', () => {
  const truncated = [1, 0]
  edge('trl', 'truncated rollouts: masked on request, in the statistics, and counted among the rollouts', () => {
    const given = { ...fixture, groupStart: [0, 2], rewards: [1, 0], truncated }
    const options = { ...off, lossType: 'grpo' } as const
    const masked = optimizationStep(trl({ ...options, maskTruncated: true }), given)
    const plain = optimizationStep(trl(options), given)
    expect(masked.advantage).toEqual(plain.advantage)
    expect(Array.from(masked.rollouts)).toEqual([0, 1])
    expect(() => prepareStep(trl({ maskTruncated: true }), { ...given, truncated: undefined })).toThrow(
      'trl: truncated is missing from the batch, expected flag[N]: which rollouts reached the limit',
    )
    expect(Array.from(masked.gradLogp!.data)).toEqual([0, 0, 0, 0, ...plain.gradLogp!.data.slice(4)])
  })
  edge('unsloth', 'dapo masks truncated rollouts, whatever is given', () => {
    const given = { ...fixture, groupStart: [0, 2], rewards: [1, 0], truncated }
    expect(Array.from(prepareStep(unsloth({ lossType: 'dapo' }), given).rollouts)).toEqual([0, 1])
    expect(Array.from(prepareStep(unsloth(), given).rollouts)).toEqual([1, 1])
  })
  edge('unsloth', 'beta is 0.001, and there is no correction', () => {
    const k3 = step(unsloth({ beta: 1 })).loss - step(unsloth({ beta: 0 })).loss
    expect(step(unsloth()).loss - step(unsloth({ beta: 0 })).loss).toBeCloseTo(1e-3 * k3, 7)
  })
  edge('liger', 'beta is 0.04; the triton function clips higher; dr_grpo may take the longest rollout', () => {
    const k3 = step(liger({ beta: 1 })).loss - step(liger({ beta: 0 })).loss
    expect(step(liger()).loss - step(liger({ beta: 0 })).loss).toBeCloseTo(0.04 * k3, 6)
    const logp = fixture.logp.map((x, t) => (t === 0 ? Math.log(0.5 * 1.3) : x))
    expect(step(liger({ beta: 0 }), { ...batch, logp }).gradLogp!.data[0]).toBe(0)
    const wide = step(liger({ beta: 0, form: 'triton' }), { ...batch, logp })
    expect(wide.gradLogp!.data[0]).toBeCloseTo((-1.5 * 1.3) / 7, 6)
    const constant = step(liger({ beta: 0, form: 'triton', lossType: 'dr_grpo', epsilonHigh: 0.2 })) // 2 rollouts × 4 places
    expect(constant.loss).toBeCloseTo(0.77 / 8, 6)
  })
  edge('verl', 'seq-mean-token-sum-norm takes the longest rollout', () => {
    expect(step(verl({ lossAggMode: 'seq-mean-token-sum-norm', clipRatioC: 10 })).loss).toBeCloseTo(0.77 / 8, 6)
    expect(step(verl({ lossAggMode: 'token-sum', clipRatioC: 10 })).loss).toBeCloseTo(0.77, 6)
  })
  edge('verl', 'log-ratios beyond 20 have no gradient', () => {
    const oldLogp = Float32Array.from(fixture.oldLogp, (x, t) => (t === 2 ? x - 25 : x))
    const options = { clipRatioHigh: 1e12, clipRatioC: 1e13 }
    expect(step(verl(options), { ...batch, oldLogp }).gradLogp!.data[2]).toBe(0)
  })
  for (const lossMode of ['vanilla', 'cispo', 'dppo_tv', 'dppo_kl'] as const) {
    edge('verl', `log-ratios beyond 20 are all the same to ${lossMode}`, () => {
      const advantage = [-1, -1]
      const lossOf = (by: number) => {
        const oldLogp = Float32Array.from(fixture.oldLogp, (x, t) => (t === 2 ? x - by : x))
        const wide = { clipRatioHigh: 1e12, clipRatioC: 1e13 }
        return step(verl({ lossMode, ...wide }), { ...batch, advantage, oldLogp }).loss
      }
      expect(lossOf(125)).toBe(lossOf(25))
      expect(lossOf(19)).not.toBe(lossOf(25))
    })
  }
  edge('openrlhf', 'log-ratios of tokens are within 20', () => {
    const advantage = [-1, -1]
    const oldLogp = Float32Array.from(fixture.oldLogp, (x, t) => (t === 2 ? x - 125 : x))
    const { loss, gradLogp } = step(openrlhf({ epsClipHigh: 1e12 }), { ...batch, advantage, oldLogp })
    expect(loss / (Math.exp(20) / 7)).toBeCloseTo(1, 6)
    expect(gradLogp!.data[2]).toBe(0)
  })
  edge('openrlhf', 'the KL in the loss', () => {
    const given = { ...fixture, advantage: [0, 0] }
    const recipe = openrlhf({ useKlLoss: true, klCoef: 1 })
    expect(Array.from(unmasked(step(recipe, given).gradLogp!.data))).toEqual(Array(7).fill(Math.fround(1 / 7)))
  })
  edge('trl', 'a rollout without tokens counts among the rollouts', () => {
    const given = { ...batch, mask: [1, 1, 1, 0, 0, 0, 0, 0] }
    expect(step(trl({ ...off, lossType: 'grpo' }), given).gradLogp!.data[2]).toBeCloseTo((-1.5 * 0.7) / 6, 6)
  })
  edge('trl', 'entropy is a mean over tokens with every loss type', () => {
    const given = { ...batch, entropy: new Float32Array(8).fill(2) }
    for (const lossType of ['dapo', 'grpo', 'dr_grpo', 'sapo'] as const) {
      const plain = step(trl({ ...off, lossType }), given)
      const bonus = step(trl({ ...off, lossType, entropyCoef: 0.5 }), given)
      expect(bonus.loss - plain.loss).toBeCloseTo(-1, 6)
    }
  })
  edge('trl', 'options that contradict each other', () => {
    expect(() => trl({ lossType: 'luspo' })).toThrow(
      'trl: importanceSamplingLevel is token, expected sequence for luspo',
    )
    expect(() => trl({ delta: 1.1 })).toThrow(
      'trl: delta is 1.1, expected a number above the clip interval, which ends at 1.2',
    )
    expect(() => trl({ delta: 3, lossType: 'sapo' })).toThrow('trl: delta is 3, expected null')
    const min = { importanceSamplingMode: 'token_mask', importanceSamplingMin: 0.5 } as const
    expect(() => trl({ lossType: 'vespo', ...min })).toThrow(
      'trl: importanceSamplingMin is 0.5, expected null for vespo',
    )
    expect(() => trl({ lossType: 'vespo' })).toThrow(
      'trl: importanceSamplingMode is sequence_mask, expected token_truncate',
    )
    expect(() => liger({ lossType: 'sapo', importanceSamplingLevel: 'sequence' })).toThrow('expected token for sapo')
    expect(() => verl({ lossMode: 'dro' })).toThrow('verl: droBeta is null, but lossMode is dro')
  })
})

for (const [name, preset] of Object.entries(presets)) {
  const recipe = preset() as AnyRecipe
  edge(name, 'the example batch; all masked; equal rewards; ragged groups', () => {
    const example = exampleBatch(recipe)
    const run = (more: object) => step(recipe, { ...example, ...more })
    expect(Number.isFinite(run({}).loss)).toBe(true)
    const masked = run({ mask: new Uint8Array(12) })
    expect([masked.loss, ...masked.gradLogp!.data].every((x) => x === 0)).toBe(true)
    const equal = prepareStep(recipe, { ...example, refLogp: example.oldLogp, rewards: Array(8).fill(1) } as never)
    expect(Array.from(equal.advantage ?? equal.tokenAdvantage!).every((x) => x === 0)).toBe(true)
    expect(Number.isFinite(run({ groupStart: [0, 1, 1, 8] }).loss)).toBe(true)
  })
  edge(name, 'rewards that are missing', () => {
    const { rewards: _, ...rest } = exampleBatch(recipe)
    expect(() => prepareStep(recipe, rest as never)).toThrow(`${name}: rewards is missing from the batch`)
  })
}

describe('what a trainer does beyond its loss', () => {
  const group = { ...fixture, groupStart: [0, 2], rewards: [1, 0] }
  edge('openrlhf', 'a rejected rollout has advantage 0, without the KL of the reward', () => {
    const { tokenAdvantage } = prepareStep(openrlhf({ klCoef: 0.5 }), { ...group, rolloutMask: [1, 0] })
    expect(Array.from(tokenAdvantage!.slice(4))).toEqual([0, 0, 0, 0])
    expect(tokenAdvantage![0]).not.toBe(0)
  })
  edge('trl', 'a rollout that nothing has scored is in no statistic and has advantage 0', () => {
    const given = { rewards: [1, Number.NaN, 0, 0.5, Number.NaN], groupStart: [0, 3, 5] }
    for (const preset of [trl, unsloth, liger]) {
      const { advantage } = prepareStep(preset(), given)
      const half = Math.fround(0.5 / (Math.SQRT1_2 + 1e-4))
      expect(Array.from(advantage!)).toEqual([half, 0, -half, 0, 0])
    }
    const rejecting = prepareStep(trl({ scaleRewards: 'none' }), { ...given, rolloutMask: [0, 1, 1, 1, 1] })
    expect(Array.from(rejecting.advantage!)).toEqual([0, 0, 0, 0, 0])
  })
  edge('liger', 'dr_grpo of the class needs its constant', () => {
    expect(() => liger({ lossType: 'dr_grpo' })).toThrow(
      'liger: maxCompletionLength is null, but lossType is dr_grpo and form is class',
    )
    expect(() => liger({ lossType: 'dr_grpo', maxCompletionLength: 8 })).not.toThrow()
  })
})
