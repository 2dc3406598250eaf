// What the trainers' released code does beyond the equations of its paper: clamps, caps, and which tokens a term counts.
import { describe, expect } from 'vitest'
import { lossStats, tokenLogprob } from '../../../lib/index.js'
import { type AnyRecipe, optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { presets } from '../../../lib/recipes/presets/index.js'
import { closeIn32 } from '../central_differences.js'
import { edge, golden } from '../golden.js'
import { off, step } from '../preset_steps.js'

const { liger, nemo, openrlhf, slime, trl, unsloth, verl } = presets
const log = (...p: number[]) => Float32Array.from(p, Math.log)

/** Tokens that are rollouts of their own, without advantage but for one that is given. */
function tokens(logp: number[], rest: Record<string, number[]> = {}) {
  const N = logp.length
  const offsets = Array.from({ length: N + 1 }, (_, i) => i)
  const f32 = Object.fromEntries(Object.entries(rest).map(([name, x]) => [name, Float32Array.from(x)]))
  const from = Float32Array.from(logp)
  return { advantage: Array(N).fill(0), sequenceStart: offsets, groupStart: [0, N], logp: from, oldLogp: from, ...f32 }
}
const gradient = (recipe: AnyRecipe, given: object) => Array.from(step(recipe, given).gradLogp!.data)

describe('the KL', () => {
  golden('trl', 'by default it is multiplied by the ratio, which on-policy has a gradient: x', (check) => {
    const given = tokens([-1, -2], { refLogp: [-1.5, -1.3] })
    check.float32(gradient(trl({ beta: 1 }), given), [0.5 / 2, -0.7 / 2])
    const plain = [0.5, -0.7].map((x) => (1 - Math.exp(-x)) / 2)
    for (const preset of [trl, liger]) check.float32(gradient(preset({ beta: 1, useBiasCorrectionKl: false }), given), plain, 2) // biome-ignore format: short
    check.float32(gradient(unsloth({ beta: 1 }), given), plain, 2)
  })
  golden('trl', 'vespo: by the token’s own ratio, without the weights that its surrogate holds', (check) => {
    const given = { sequenceStart: [0, 2], groupStart: [0, 1], advantage: [0], logp: log(0.3, 0.5), oldLogp: log(0.4, 0.2), refLogp: log(0.2, 0.6) } // biome-ignore format: short
    const [a, b] = [0.75 * Math.log(1.5), 2.5 * Math.log(5 / 6)]
    const options = { lossType: 'vespo', beta: 1 } as const
    check.float32(gradient(trl({ ...options, ...off }), given), [a / 2, b / 2], 2)
    const engine = { ...given, rolloutLogp: log(0.3, 0.4) }
    const corrected = trl({ ...options, importanceSamplingMode: 'token_truncate' })
    check.float32(gradient(corrected, engine), [a / 2, b / 2], 2)
    // Both parts of the loss are in its statistics.
    const { stats, loss } = optimizationStep(corrected, engine)
    expect(lossStats(stats!).klLoss).toBeCloseTo(loss, 6)
    const both = { ...engine, advantage: [1] }
    const parts = [trl({ ...options, importanceSamplingMode: 'token_truncate', beta: 0 }), corrected].map((recipe, k) => gradient(recipe, k === 0 ? both : engine)) // biome-ignore format: short
    closeIn32(gradient(corrected, both), parts[0]!.map((x, t) => x + parts[1]![t]!), 4) // biome-ignore format: short
  })
  edge('trl', 'vespo has no ratio of sequences for its KL', () => {
    const options = { lossType: 'vespo', importanceSamplingLevel: 'sequence', beta: 0.1, ...off } as const
    expect(() => trl(options)).toThrow('trl: importanceSamplingLevel is sequence, expected token for vespo, whose KL')
    expect(() => trl({ ...options, useBiasCorrectionKl: false })).not.toThrow()
  })
  golden('nemo', 'k2 has the gradient of its score: x + x^2 / 2; k1: 1 + x', (check) => {
    const given = tokens([-6, -2], { oldLogp: [-5, -4], refLogp: [-4, -2.5] })
    const mean = (...x: number[]) => x.map((one) => one / 2)
    check.float32(gradient(nemo({ klCoef: 1, klType: 'k2' }), given), mean(0, 0.5 + 0.125))
    check.float32(step(nemo({ klCoef: 1, klType: 'k2' }), given).loss, (2 + 0.125) / 2)
    check.float32(gradient(nemo({ klCoef: 1, klType: 'k1' }), given), mean(-1, 1.5))
    check.float32(gradient(nemo({ klCoef: 1 }), given), mean(-2, 0.5))
  })
  golden('nemo', 'beyond the clamp of the value no estimator has a gradient', (check) => {
    const given = tokens([-6], { refLogp: [-1] })
    for (const [klType, value] of [
      ['k3', 10],
      ['k2', 10],
      ['k1', -5],
    ] as const) {
      // biome-ignore format: short
      const { loss, gradLogp } = step(nemo({ klCoef: 1, klType }), given)
      check.float32([loss, gradLogp!.data[0]!], [value, klType === 'k1' ? 1 - 5 : 0])
    }
    const far = tokens([-1], { refLogp: [-22] })
    for (const klType of ['k3', 'k2', 'k1'] as const) {
      const { loss, gradLogp } = step(nemo({ klCoef: 1, klType }), far)
      check.float32([loss, gradLogp!.data[0]!], [10, 0])
    }
  })
  golden('openrlhf', 'every estimator is clamped', (check) => {
    const given = tokens([-6], { refLogp: [-1] })
    for (const [klEstimator, value] of [
      ['k2', 10],
      ['k3', 10],
    ] as const) {
      // biome-ignore format: short
      const { loss, gradLogp } = step(openrlhf({ useKlLoss: true, klCoef: 1, klEstimator }), given)
      check.float32([loss, gradLogp!.data[0]!], [value, 0])
    }
  })
  golden('openrlhf', 'the KL in the reward has the estimator of the option', (check) => {
    const [oldLogp, refLogp] = [[-1, -6], [-1.5, -1]] // biome-ignore format: short
    const given = { ...tokens(oldLogp!, { refLogp: refLogp! }), advantage: undefined, rewards: [1, 1] }
    const [x, y] = [0.5, -5]
    const values = { k1: [x, y], k2: [x ** 2 / 2, 10], k3: [Math.exp(-x) - 1 + x, 10] }
    for (const [klEstimator, kl] of Object.entries(values)) {
      const { tokenAdvantage } = prepareStep(openrlhf({ klCoef: 0.5, klEstimator: klEstimator as 'k1' }), given)
      check.float32(tokenAdvantage!, kl.map((one) => -0.5 * one), 2) // biome-ignore format: short
    }
  })
  golden('slime', 'low_var_kl is clamped after the product with the ratio', (check) => {
    const given = tokens([-6], { oldLogp: [-5], refLogp: [-1] })
    const of = (options: object) => step(slime({ klLossCoef: 1, klLossType: 'low_var_kl', ...options }), given)
    for (const useUnbiasedKl of [true, false]) {
      const { loss, gradLogp } = of({ useUnbiasedKl })
      check.float32([loss, gradLogp!.data[0]!], [10, 0])
    }
    const [r, k3] = [Math.exp(-1), Math.exp(5) - 6]
    const open = of({ useUnbiasedKl: true, klLossType: 'k3' })
    check.float32([open.loss, open.gradLogp!.data[0]!], [r * k3, -5 * r])
  })
  golden('slime', 'of a rollout’s ratio the KL takes none: its weight is the token’s own', (check) => {
    const given = { sequenceStart: [0, 2], groupStart: [0, 1], advantage: [0], logp: log(0.3, 0.5), oldLogp: log(0.4, 0.2), refLogp: log(0.2, 0.6) } // biome-ignore format: short
    const recipe = slime({ loss: 'gspo', klLossCoef: 1, klLossType: 'k3', useUnbiasedKl: true })
    check.float32(gradient(recipe, given), [0.375 * Math.log(1.5), 1.25 * Math.log(5 / 6)], 2)
  })
})

describe('the ratio', () => {
  golden('verl', 'dro has no clamp', (check) => {
    const recipe = verl({ lossMode: 'dro', droBeta: 0.1 })
    const { loss, gradLogp } = step(recipe, { ...tokens([-21.01], { oldLogp: [-0.01] }), advantage: [1] })
    check.float32([loss, gradLogp!.data[0]!], [21.01 + 0.05 * 441, -1 - 0.1 * 21])
    const { oldLogp: _, ...rest } = tokens([-1])
    expect(() => step(recipe, rest)).toThrow('verl: oldLogp is missing from the batch')
  })
  golden('verl', 'gspo caps the ratio of a rollout at e^10, and has no bound below', (check) => {
    const T = 100
    const far = { logp: new Float32Array(T).fill(-0.1), oldLogp: new Float32Array(T).fill(-50), sequenceStart: [0, T, T], groupStart: [0, 2] } // biome-ignore format: short
    const of = (advantage: number, given: object, options = {}) =>
      step(verl({ lossMode: 'gspo', ...options }), { ...far, advantage: [advantage, 0], ...given })
    const capped = of(-1, {})
    check.float32([capped.loss, ...capped.gradLogp!.data], [Math.exp(10) / 2, ...Array(T).fill(0)])
    // The interval ends before the cap, or at it.
    check.float32(of(1, {}).loss, -1.2 / 2)
    check.float32(of(1, {}, { clipRatioHigh: 1e6 }).loss, -Math.exp(10) / 2)
    // A ratio that no float32 holds; one just below the cap; and one that is small.
    check.float32(of(-1, { oldLogp: new Float32Array(T).fill(-200) }).loss, Math.exp(10) / 2)
    const below = of(-1, { oldLogp: new Float32Array(T).fill(-10), logp: new Float32Array(T).fill(-0.25) })
    check.float32(below.gradLogp!.data[0]!, Math.exp(9.75) / 2 / T)
    const small = of(1, { logp: new Float32Array(T).fill(-50), oldLogp: new Float32Array(T).fill(-35) })
    check.float32([small.loss, small.gradLogp!.data[0]!], [-Math.exp(-15) / 2, -Math.exp(-15) / 2 / T])
  })
  golden('verl', 'sapo: the sharpness of the gate is an option', (check) => {
    const given = { ...tokens([-1, -1], { oldLogp: [-1.5, -1.5] }), advantage: [1, -1] }
    const r = Math.exp(0.5)
    const gate = (tau: number) => 1 / (1 + Math.exp(-tau * (r - 1)))
    const slope = (tau: number) => (4 * gate(tau) * (1 - gate(tau)) * r) / 2
    const found = gradient(verl({ lossMode: 'sapo', tauPos: 2, tauNeg: 0.5 }), given)
    check.float32(found, [-slope(2), slope(0.5)], 4)
    for (const preset of [trl, unsloth, liger]) {
      const options = { lossType: 'sapo', sapoTemperaturePos: 2, sapoTemperatureNeg: 0.5, beta: 0 } as const
      check.float32(gradient(preset(options), given), [-slope(2), slope(0.5)], 4)
    }
  })
  golden('trl', 'vespo: the powers and decays are options', (check) => {
    const given = { ...tokens([-1, -1], { oldLogp: [-1.5, -1.5] }), advantage: [1, -1] }
    const w = Math.exp(0.5)
    const phi = (k: number, lambda: number) => (w ** k * Math.exp(lambda * (1 - w))) / 2
    const options = { lossType: 'vespo', vespoKPos: 1, vespoLambdaPos: 0.5, vespoKNeg: 1.5, vespoLambdaNeg: 0, beta: 0 } as const // biome-ignore format: short
    const expected = [-phi(1, 0.5), phi(1.5, 1e-4)]
    check.float32(gradient(trl({ ...options, ...off }), given), expected, 4)
    check.float32(gradient(unsloth(options), given), expected, 4)
    check.float32(gradient(liger(options), given), expected, 4)
  })
  golden('trl', 'vespo clamps the log-ratio of a token and its log-weight one by one', (check) => {
    const [logp, oldLogp, rolloutLogp] = [log(0.5, 0.25), [-30, -1], [-4, -1.1]] // biome-ignore format: short
    const given = { sequenceStart: [0, 2], groupStart: [0, 1], advantage: [-1], logp, oldLogp: Float32Array.from(oldLogp!), rolloutLogp: Float32Array.from(rolloutLogp!) } // biome-ignore format: short
    const options = {
      lossType: 'vespo',
      importanceSamplingMode: 'token_truncate',
      importanceSamplingMax: null,
    } as const
    const sum = 20 + Math.log(0.25) + 1 + Math.log(1e-8) + 0.1
    const phi = Math.exp(2 + 3 * sum - 2 * Math.exp(sum)) / 2
    check.float32(gradient(trl(options), given), [phi, phi], 16)
    const masked = { ...options, importanceSamplingMode: 'token_mask', importanceSamplingMax: 1.05 } as const
    const low = 20 + Math.log(0.25) + 1 + 2 * Math.log(1e-8)
    const tiny = Math.exp(2 + 3 * Math.max(low, Math.log(1e-8)) - 2 * Math.exp(low)) / 2
    expect(gradient(trl(masked), given)[0]! / tiny).toBeCloseTo(1, 4)
  })
  golden('trl', 'an importance weight without a bound', (check) => {
    const given = { ...tokens([-1], { rolloutLogp: [-4] }), advantage: [1] }
    const weights = (options: object) => optimizationStep(trl(options), given).weights.weight!
    const open = { importanceSamplingMode: 'token_truncate', importanceSamplingMax: null } as const
    check.float32(weights(open), [Math.exp(3)])
    check.float32(weights({ ...open, importanceSamplingMode: 'sequence_mask' }), [Math.exp(3)])
    check.float32(weights({ importanceSamplingMode: 'token_truncate' }), [3])
  })
})

describe('the entropy', () => {
  const entropy = Float32Array.of(1, 2)
  const given = { ...tokens([-1, -1]), entropy }
  const bonus = { entropyCoef: 0.01, topEntropyQuantile: 0.5, ...off } as const
  golden('trl', 'with a quantile the bonus is that of the tokens above it', (check) => {
    for (const lossType of ['dapo', 'cispo', 'vespo'] as const) {
      const { loss, gradEntropy } = optimizationStep(trl({ ...bonus, lossType }), given)
      check.float32([loss, ...gradEntropy!.data], [-0.01, 0, -0.005])
    }
    for (const lossType of ['grpo', 'bnpo', 'dr_grpo', 'sapo'] as const) {
      const { loss, gradEntropy } = optimizationStep(trl({ ...bonus, lossType }), given)
      check.float32([loss, ...gradEntropy!.data], [-0.02, 0, -0.01])
    }
  })
  edge('trl', 'masked tokens are in neither count, whatever their entropy', () => {
    const masked = { ...tokens([-1, -1, -1]), entropy: Float32Array.of(Number.NaN, 1, 2), mask: [0, 1, 1] }
    const { loss, gradEntropy } = optimizationStep(trl({ ...bonus, lossType: 'grpo' }), masked)
    closeIn32([loss, ...gradEntropy!.data], [-0.02, 0, 0, -0.01])
    const nothing = optimizationStep(trl({ ...bonus, lossType: 'grpo' }), { ...masked, mask: [0, 0, 0] })
    expect([nothing.loss, ...nothing.gradEntropy!.data]).toEqual([0, 0, 0, 0])
  })
  edge('trl', 'the bonus of dapo takes the normalizer of a generation batch, that of grpo has its own count', () => {
    const of = (lossType: 'dapo' | 'grpo', topEntropyQuantile: number) => {
      const prepared = prepareStep(trl({ ...bonus, lossType, topEntropyQuantile }), given)
      const policy = { logp: given.logp, entropy }
      return Array.from(prepared.loss(policy, { objective: { normalizer: 8 } }).gradEntropy!.data)
    }
    closeIn32(of('dapo', 1), [-0.01 / 8, -0.01 / 8])
    closeIn32(of('dapo', 0.5), [0, -0.01 / 8])
    closeIn32(of('grpo', 0.5), [0, -0.01])
  })
  edge('trl', 'from logits and hidden states as from log-probabilities, into memory of the caller', () => {
    const logits = { dtype: 'f32', shape: [2, 3], data: Float32Array.of(0.5, 0, -0.5, 1, 0, -2) } as const
    const token = Int32Array.of(0, 2)
    const { logp, entropy } = tokenLogprob({ logits, token })
    const batch = { rewards: [1, 0], groupStart: [0, 2], sequenceStart: [0, 1, 2], token, oldLogp: logp.data.map((x) => x - 0.1) } // biome-ignore format: short
    const prepared = prepareStep(trl({ ...bonus, lossType: 'grpo' }), batch)
    const own = { gradLogp: new Float32Array(2), gradEntropy: new Float32Array(2) }
    const direct = prepared.loss({ logp: logp.data, entropy: entropy.data }, { out: own })
    expect([direct.gradLogp.data, direct.gradEntropy!.data]).toEqual([own.gradLogp, own.gradEntropy])
    const unwanted = prepared.loss({ logp: logp.data, entropy: entropy.data }, { out: { gradEntropy: null } })
    expect([unwanted.loss, unwanted.gradEntropy]).toEqual([direct.loss, undefined])
    const { loss, gradLogits, stats } = prepared.loss({ logits })
    expect(loss).toBeCloseTo(direct.loss, 6)
    expect(lossStats(stats!).entropy).toBeCloseTo((entropy.data[0]! + entropy.data[1]!) / 2, 6)
    const head = { dtype: 'f32', shape: [3, 3], data: Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1) } as const
    const linear = prepared.loss({ hidden: logits, head })
    closeIn32(linear.gradHidden.data as Float32Array, Array.from(gradLogits.data as Float32Array), 4)
    // Softmax by softmax: dlogp/dz = 1[i = token] - p, dH/dz = -p (log p + H).
    const expected = [0, 1].flatMap((t) => {
      const row = Array.from(logits.data.slice(3 * t, 3 * t + 3))
      const total = row.reduce((sum, z) => sum + Math.exp(z), 0)
      const h = entropy.data[t]!
      return row.map((z, i) => {
        const p = Math.exp(z) / total
        const policy = direct.gradLogp.data[t]! * (Number(i === token[t]) - p)
        return policy - direct.gradEntropy!.data[t]! * p * (Math.log(p) + h)
      })
    })
    closeIn32(gradLogits.data as Float32Array, expected, 8)
  })
  golden('openrlhf', 'gspo: the policy is averaged over rollouts, the KL and the entropy over tokens', (check) => {
    const given = { sequenceStart: [0, 1, 4], groupStart: [0, 2], advantage: [1, -1], logp: log(0.5, 0.4, 0.3, 0.6), oldLogp: log(0.5, 0.4, 0.3, 0.6), refLogp: log(0.4, 0.5, 0.3, 0.2), entropy: Float32Array.of(1, 2, 3, 4) } // biome-ignore format: short
    const policy = [-1 / 2, 1 / 6, 1 / 6, 1 / 6]
    const of = (options: object) => optimizationStep(openrlhf({ policyLossType: 'gspo', klCoef: 0, ...options }), given)
    const plain = of({ entropyCoef: 0.5 })
    check.float32(plain.gradLogp!.data, policy)
    check.float32([plain.loss, ...plain.gradEntropy!.data], [-0.5 * 2.5, ...Array(4).fill(-0.5 / 4)])
    const kl = of({ entropyCoef: 0.5, useKlLoss: true, klCoef: 0.1 })
    check.float32(kl.gradLogp!.data, policy.map((x) => x + 0.1 / 4)) // biome-ignore format: short
    check.float32(kl.gradEntropy!.data, Array(4).fill(-0.5 / 4))
    // A rollout without tokens is in no mean.
    const empty = { ...given, sequenceStart: [0, 1, 1, 4], groupStart: [0, 3], advantage: [1, 5, -1] }
    const recipe = openrlhf({ policyLossType: 'gspo', useKlLoss: true, klCoef: 0.1 })
    check.float32(gradient(recipe, empty), policy.map((x) => x + 0.1 / 4)) // biome-ignore format: short
  })
})

describe('rewards, masks, counts', () => {
  edge('openrlhf', 'the advantage of a rollout is cut to the range of rewards, before the KL', () => {
    const rewards = { rewards: [30, 0, 0], groupStart: [0, 3] }
    const of = (options: object) =>
      Array.from(prepareStep(openrlhf({ klCoef: 0, advantageEstimator: 'dr_grpo', ...options }), rewards).advantage!)
    expect(of({})).toEqual([10, -10, -10])
    expect(of({ rewardClipLow: -4, rewardClipHigh: 30 })).toEqual([20, -4, -4])
    expect(() => openrlhf({ rewardClipLow: 2, rewardClipHigh: 1 })).toThrow(
      'openrlhf: rewardClipLow is 2, expected at most rewardClipHigh, which is 1',
    )
  })
  edge('slime', 'the off-policy mask looks at oldLogp alone', () => {
    const given = { ...tokens([-1, -1], { oldLogp: [-0.5, -1.5], rolloutLogp: [-2, 0] }), advantage: [-1, -1] }
    const of = (batch: object) => optimizationStep(slime({ opsmDelta: 1e-4 }), batch as never).weights.weight!
    expect(Array.from(of(given))).toEqual([0, 1])
    const { oldLogp: _, ...without } = given
    expect(Array.from(of(without))).toEqual([1, 1])
  })
  edge('slime', 'a rollout without tokens counts among the rollouts', () => {
    const given = { sequenceStart: [0, 1, 1], groupStart: [0, 2], advantage: [1, 1], logp: Float32Array.of(-1) }
    expect(gradient(slime(), given)).toEqual([-0.5])
  })
  edge('slime', 'unscaled advantages, and the bounds of its weights', () => {
    const { advantage } = prepareStep(slime({ grpoStdNormalization: false }), { rewards: [1, 0], groupStart: [0, 2] })
    expect(Array.from(advantage!)).toEqual([0.5, -0.5])
    const given = { ...tokens([-1, -1], { rolloutLogp: [-3, 0] }), advantage: [1, 1] }
    const { weight } = optimizationStep(slime({ useTis: true, tisClipLow: 0.5, tisClip: 4 }), given).weights
    expect(Array.from(weight!)).toEqual([4, 0.5])
    expect(() => step(slime({ loss: 'cispo', epsClipC: 3 }), given)).not.toThrow()
  })
  edge('nemo', 'cispo averages over tokens, and has no dual clip', () => {
    expect(() => nemo({ loss: 'cispo', ratioClipC: 3 })).toThrow('nemo: ratioClipC is 3, expected null for cispo')
    expect(() => nemo({ loss: 'cispo', tokenLevelLoss: false })).toThrow('nemo: tokenLevelLoss is false, expected true')
  })
  edge('unsloth', 'dr_grpo scales rewards as its option says', () => {
    const given = { rewards: [1, 0], groupStart: [0, 2] }
    const of = (options: object) => Array.from(prepareStep(unsloth({ lossType: 'dr_grpo', ...options }), given).advantage!) // biome-ignore format: short
    closeIn32(of({}), [0.5 / (Math.SQRT1_2 + 1e-4), -0.5 / (Math.SQRT1_2 + 1e-4)])
    expect(of({ scaleRewards: 'none' })).toEqual([0.5, -0.5])
  })
})
