import { describe, expect } from 'vitest'
import { type AnyRecipe, prepareStep } from '../../../lib/recipes/index.js'
import { presets } from '../../../lib/recipes/presets/index.js'
import { closeIn32 } from '../central_differences.js'
import { fixture, unmasked } from '../fixture.js'
import { type Check, edge, golden } from '../golden.js'
import { batch, expectStep, gradientOf, off, perToken, step } from '../preset_steps.js'

const { liger, nemo, openrlhf, slime, trl, unsloth, verl } = presets

describe('the clipped surrogate', () => {
  const token = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  golden('trl', 'token by token', (check) => {
    const { losses, gradients } = perToken(trl(off))
    check.float32(losses, [-1.8, -1.5, -1.05, 0.64, 2.8, 0.8, 0.88])
    check.float32(gradients, [0, -1.5, -1.05, 0, 2.8, 0.8, 0.88])
  })
  golden('trl', 'each aggregation', (check) => {
    expectStep(check, trl({ ...off, lossType: 'grpo' }), -0.085, [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11], 8)
    expectStep(check, trl(off), 0.11, token, 8)
    expectStep(check, trl({ ...off, lossType: 'bnpo' }), 0.11, token, 8)
    const constant = trl({ ...off, lossType: 'dr_grpo', maxCompletionLength: 8 })
    expectStep(check, constant, 0.048125, [0, -0.09375, -0.065625, 0, 0.175, 0.05, 0.055], 8)
  })
  golden('trl', 'clip higher, and delta', (check) => {
    expectStep(check, trl({ ...off, epsilonHigh: 0.28 }), 0.0928571429, token, 12)
    expectStep(check, trl({ ...off, delta: 3 }), 0.0528571429, [0, -0.2142857143, -0.15, 0, 0, 0.1142857143, 0.1257142857], 20) // biome-ignore format: short
  })
  golden('verl', 'the dual clip, always on; the mean of sums', (check) => {
    expectStep(check, verl(), 0.0528571429, [0, -0.2142857143, -0.15, 0, 0, 0.1142857143, 0.1257142857], 20)
    const open = verl({ lossAggMode: 'seq-mean-token-sum', clipRatioC: 10 })
    expectStep(check, open, 0.385, [0, -0.75, -0.525, 0, 1.4, 0.4, 0.44], 8)
    const mean = verl({ lossAggMode: 'seq-mean-token-mean', clipRatioC: 10 })
    expectStep(check, mean, -0.085, [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11], 8)
    const constant = verl({ lossAggMode: 'seq-mean-token-sum-norm', lossScaleFactor: 8, clipRatioC: 10 })
    expectStep(check, constant, 0.048125, [0, -0.09375, -0.065625, 0, 0.175, 0.05, 0.055], 8)
  })
  golden('openrlhf', 'the mean over tokens', (check) => expectStep(check, openrlhf(), 0.11, token, 8))
  golden('nemo', 'the mean over tokens', (check) => expectStep(check, nemo({ klCoef: 0 }), 0.11, token, 8))
  golden('slime', 'the mean over rollouts', (check) => {
    expectStep(check, slime(), -0.085, [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11], 8)
    expectStep(check, slime({ calculatePerTokenLoss: true }), 0.11, token, 8)
  })
  golden('liger', 'dapo', (check) => expectStep(check, liger({ beta: 0 }), 0.11, token, 8))
  golden('unsloth', 'bnpo; dapo always clips higher', (check) => {
    expectStep(check, unsloth({ beta: 0 }), 0.11, token, 8)
    const dapo = step(unsloth({ beta: 0, lossType: 'dapo' }), { ...batch, truncated: [0, 0] })
    check.float32(dapo.loss, 0.0928571429, 12)
    check.float32(gradientOf(dapo), token)
  })
})

describe('KL terms', () => {
  const none = { ...fixture, advantage: [0, 0] }
  const k1 = [0.1541506798, -0.2231435513, -0.0689928715, -0.3566749439, 0.5596157879, 0.1823215568, -0.087011377]
  const k3 = [0.011293537, 0.0268564487, 0.0024356999, 0.0718964846, 0.1310443594, 0.0156548901, 0.0038977139]
  const dk3 = [0.1428571429, -0.25, -0.0714285714, -0.4285714286, 0.4285714286, 0.1666666667, -0.0909090909]
  const compare = (check: Check, recipe: AnyRecipe, losses: number[], gradients: number[]) => {
    const found = perToken(recipe, none)
    // Differences of log-probabilities up to 1.6, of size 0.5 and squared.
    check.float32(found.losses, losses, 8)
    check.float32(found.gradients, gradients, 4)
  }
  golden('verl', 'every estimator, with its own gradient and with that of k2', (check) => {
    const kl = { useKlLoss: true, klLossCoef: 1 } as const
    const k2 = [0.011881216, 0.0248965222, 0.0023800082, 0.0636085078, 0.1565849151, 0.016620575, 0.0037854899]
    compare(check, verl({ ...kl, klLossType: 'kl' }), k1, Array(7).fill(1))
    compare(check, verl({ ...kl, klLossType: 'abs' }), k1.map(Math.abs), k1.map(Math.sign))
    compare(check, verl({ ...kl, klLossType: 'mse' }), k2, k1)
    compare(check, verl(kl), k3, dk3)
    compare(check, verl({ ...kl, klStraightThrough: true }), k3, k1)
  })
  golden('nemo', 'the value of k3 with the gradient of k2', (check) => compare(check, nemo({ klCoef: 1 }), k3, k1))
  const corrected = [0.0158109518, 0.0268564487, 0.00170499, 0.0503275392, 0.4586552578, 0.0156548901, 0.0042874853]
  const dCorrected = [0.2158109518, -0.2231435513, -0.04829501, -0.2496724608, 1.9586552578, 0.1823215568, -0.0957125147] // biome-ignore format: short
  golden('trl', 'times the ratio', (check) => {
    compare(check, trl({ ...off, beta: 1, useBiasCorrectionKl: true }), corrected, dCorrected)
  })
  golden('slime', 'times the ratio', (check) => {
    const options = { calculatePerTokenLoss: true, klLossCoef: 1, klLossType: 'k3', useUnbiasedKl: true } as const
    compare(check, slime(options), corrected, dCorrected)
  })
  golden('trl', 'with the clipped surrogate', (check) => {
    expectStep(check, trl({ ...off, beta: 0.1, useBiasCorrectionKl: false }), 0.1137582733, [0.0020408163, -0.2178571429, -0.1510204082, -0.006122449, 0.4061224490, 0.1166666667, 0.1244155844], 8) // biome-ignore format: short
    expectStep(check, trl({ ...off, beta: 0.1 }), 0.1181899652, [0.0030830136, -0.2174734793, -0.1506899287, -0.0035667494, 0.4279807894, 0.1168903080, 0.1243469641], 8) // biome-ignore format: short
  })
  golden('trl', 'times the ratio of the rollout', (check) => {
    const options = {
      ...off,
      lossType: 'grpo',
      importanceSamplingLevel: 'sequence',
      useBiasCorrectionKl: true,
    } as const
    const { gradLogp } = step(trl({ ...options, beta: 1 }), none)
    check.float32(unmasked(gradLogp!.data), [0.0258893508, -0.0391473889, -0.0095852345, -0.0597307634, 0.0775478601, 0.035601614, -0.0056513057], 8) // biome-ignore format: short
  })
  golden('openrlhf', 'in the reward: what follows of k1', (check) => {
    const x = fixture.oldLogp.map((old, t) => old - fixture.refLogp[t]!)
    const given = { ...fixture, groupStart: [0, 2], rewards: [1, 0] }
    const { tokenAdvantage } = prepareStep(openrlhf({ klCoef: 0.5 }), given)
    const later = [x[0]! + x[1]! + x[2]!, x[1]! + x[2]!, x[2]!, x[4]! + x[5]! + x[6]! + x[7]!, x[5]! + x[6]! + x[7]!, x[6]! + x[7]!, x[7]!] // biome-ignore format: short
    const half = Math.SQRT1_2
    check.float32(unmasked(tokenAdvantage!), later.map((sum, k) => (k < 3 ? half : -half) - 0.5 * sum), 2) // biome-ignore format: short
  })
})

describe('the other losses', () => {
  const three = (x: number, y: number) => [x, x, x, y, y, y, y]
  const interval = [-0.2571428571, -0.2142857143, -0.1714285714, 0.0914285714, 0.1371428571, 0.1142857143, 0.1257142857]
  golden('trl', 'cispo: the cap is the upper width itself', (check) => {
    expectStep(check, trl({ ...off, lossType: 'cispo' }), 0.0379655445, three(-0.0428571429, 0.0228571429), 8)
    const wide = [-0.3, -0.2142857143, -0.15, 0.08, 0.4, 0.1142857143, 0.1257142857]
    expectStep(check, trl({ ...off, lossType: 'cispo', epsilonHigh: 5 }), -0.122629008, wide, 12)
  })
  golden('verl', 'cispo: an interval', (check) =>
    expectStep(check, verl({ lossMode: 'cispo' }), 0.1474800288, interval, 8),
  )
  golden('slime', 'cispo: an interval', (check) => {
    expectStep(check, slime({ loss: 'cispo', calculatePerTokenLoss: true }), 0.1474800288, interval, 8)
  })
  golden('nemo', 'cispo: an interval', (check) => expectStep(check, nemo({ loss: 'cispo', klCoef: 0 }), 0.1474800288, interval, 8)) // biome-ignore format: short

  const gspo = three(-0.2483220971, 0.1281267152)
  golden('trl', 'sequence ratios', (check) => {
    const sequence = { ...off, importanceSamplingLevel: 'sequence' } as const
    expectStep(check, trl({ ...sequence, lossType: 'grpo' }), -0.2324594303, gspo, 4)
    expectStep(check, trl(sequence), -0.0528204086, three(-0.2128475118, 0.1464305317), 12)
    expectStep(check, trl({ ...sequence, lossType: 'luspo' }), -0.1848714299, three(-0.7449662913, 0.512506861), 12)
  })
  golden('verl', 'gspo and geo_mean', (check) => {
    expectStep(check, verl({ lossMode: 'gspo' }), -0.2324594303, gspo, 4)
    const [a, b] = [-0.2372788274, 0.133244858]
    expectStep(check, verl({ lossMode: 'geo_mean' }), -0.1788570503, [0, a, a, 0, b, b, b], 8)
  })
  golden('openrlhf', 'gspo; its ratio with a correction is that to the engine', (check) => {
    expectStep(check, openrlhf({ policyLossType: 'gspo' }), -0.2324594303, gspo, 4)
    const engine = step(openrlhf({ policyLossType: 'gspo', isCorrection: 'tis', epsClipHigh: 1 }))
    const means = [0.9966216537, 1.2917275275] // exp of minus the means of (rolloutLogp - logp)
    check.float32(gradientOf(engine), three(-0.25 * means[0]!, 0.1 * means[1]!))
  })

  const soft = [-0.336365044, -0.25, -0.1711208182, 0.0682918803, 0.0881777899, 0.1, 0.1096973687]
  golden('trl', 'sapo', (check) => expectStep(check, trl({ ...off, lossType: 'sapo' }), -0.6173598155, soft, 4))
  golden('verl', 'sapo', (check) => expectStep(check, verl({ lossMode: 'sapo' }), -0.6173598155, soft, 4))

  const phi = three(-0.2185259613, 0.0754067046)
  golden('trl', 'vespo', (check) => expectStep(check, trl({ ...off, lossType: 'vespo' }), 0.3751072796, phi))
  golden('trl', 'vespo with the correction in its weight', (check) => {
    const { gradLogp, weights } = step(trl({ lossType: 'vespo', importanceSamplingMode: 'token_truncate' }))
    const w = [0.98 * 1.0101010101, 2.695 * 1.0330578512]
    const a = (-1.5 / 7) * w[0]! ** 2 * Math.exp(3 * (1 - w[0]!))
    const b = (0.8 / 7) * w[1]! ** 3 * Math.exp(2 * (1 - w[1]!))
    check.float32(unmasked(gradLogp!.data), three(a, b), 4)
    expect(weights.weight).toBeUndefined()
  })
  golden('verl', 'dro and dppo', (check) => {
    const quadratic = [-0.1902519831, -0.2142857143, -0.239762496, 0.0888089326, 0.2037687835, 0.1142857143, 0.1210935843] // biome-ignore format: short
    expectStep(check, verl({ lossMode: 'dro', droBeta: 0.5 }), 0.259332961, quadratic, 8)
    const tv = verl({ lossMode: 'dppo_tv', clipRatioLow: 0.05, clipRatioHigh: 0.1, clipRatioC: 20 })
    expectStep(check, tv, -0.1047796713, [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857], 12)
    // kb = 0.087 > 0.05 kills the first token; 0.022 > 0.02 the fourth.
    const kl = step(verl({ lossMode: 'dppo_kl', clipRatioLow: 0.02, clipRatioHigh: 0.05, clipRatioC: 20 }))
    check.float32(gradientOf(kl), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
  })

  golden('verl', 'gpg', (check) => expectStep(check, verl({ lossMode: 'gpg' }), 0.1898277223, three(-0.2142857143, 0.1142857143), 8)) // biome-ignore format: short
})

describe('verl: what is aggregated how', () => {
  const modes = ['gspo', 'sapo', 'geo_mean'] as const
  const aggregations = ['token-mean', 'seq-mean-token-sum', 'seq-mean-token-sum-norm', 'token-sum', 'seq-mean-token-mean'] as const // biome-ignore format: short
  // The second rollout has no token: verl counts it.
  const { logp, oldLogp, refLogp, rolloutLogp, mask } = fixture
  const three = { logp, oldLogp, refLogp, rolloutLogp, mask, sequenceStart: [0, 4, 4, 8], advantage: [1.5, 1, -0.8] }
  const weighted = { rolloutIs: 'token', rolloutIsThreshold: 100 } as const
  const parts = (options: Parameters<typeof verl>[0], given: object) => {
    const { loss, gradLogp } = step(verl(options), given)
    return [loss, ...gradLogp!.data]
  }
  edge('verl', 'gspo, sapo, geo_mean: their term is the sequence mean, their KL as lossAggMode says', () => {
    const klOf = { useKlLoss: true, klLossCoef: 1 } as const
    for (const lossAggMode of aggregations) {
      for (const lossMode of modes) {
        const policy = parts({ lossMode, ...weighted }, three)
        const kl = parts({ lossAggMode, ...klOf }, { ...three, advantage: [0, 0, 0] })
        const both = parts({ lossMode, lossAggMode, ...weighted, ...klOf }, three)
        closeIn32(both, policy.map((x, i) => x + kl[i]!), 8) // biome-ignore format: short
      }
    }
  })
  edge('verl', 'gspo, sapo, geo_mean: the entropy as lossAggMode says', () => {
    const entropy = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)
    const [rows, total] = [[6, 26], 32]
    const expected = [total / 7, total / 3, total / 12, total, (rows[0]! / 3 + rows[1]! / 4) / 3]
    for (const [k, lossAggMode] of aggregations.entries()) {
      for (const lossMode of modes) {
        for (const useKlLoss of [false, true]) {
          const options = { lossMode, lossAggMode, useKlLoss }
          const plain = step(verl(options), { ...three, entropy }).loss
          const bonus = step(verl({ ...options, entropyCoeff: 1 }), { ...three, entropy }).loss
          closeIn32([plain - bonus], [expected[k]!], 2)
        }
      }
    }
  })
  golden('verl', 'geo_mean weights a rollout by the geometric mean of its weights', (check) => {
    const { weights } = step(verl({ lossMode: 'geo_mean', ...weighted }))
    const [a, b] = [1.0033557298, 1.0081639426]
    check.float32(unmasked(weights.weight!), [a, a, a, b, b, b, b])
  })
  edge('verl', 'geo_mean: a weight of 0 counts as 1e-10', () => {
    const icepop = step(verl({ lossMode: 'geo_mean', ...weighted, rolloutIsThreshold: 1.05, rolloutIsLow: 0.95 }))
    closeIn32([icepop.weights.weight![0]!], [Math.cbrt(1e-20)], 8)
  })
})
