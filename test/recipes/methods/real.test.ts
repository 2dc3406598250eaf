import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { real } from '../../../lib/recipes/methods/real.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const group = { ...fixture, groupStart: [0, 2], advantage }

golden('real', 'loss and gradient', (check) => {
  const step = optimizationStep(real(), group)
  check.float32(step.loss, 1.6713061156)
  check.float32(unmasked(step.gradLogp!.data), [...Array(3).fill(-0.3355780447), ...Array(4).fill(0.3107240366)])
})

golden('real', 'the KL is averaged over all tokens', (check) => {
  const step = optimizationStep(real({ klCoef: 0.1 }), group)
  const k3 = [0.011293537, 0.0268564487, 0.0024356999, 0.0718964846, 0.1310443594, 0.0156548901, 0.0038977139]
  check.float32(step.loss, 1.6713061156 + (0.1 * k3.reduce((x, y) => x + y)) / 7)
  const dk3 = [0.1428571429, -0.25, -0.0714285714, -0.4285714286, 0.4285714286, 0.1666666667, -0.0909090909]
  const own = [...Array(3).fill(-0.3355780447), ...Array(4).fill(0.3107240366)] as number[]
  check.float32(unmasked(step.gradLogp!.data), own.map((g, t) => g + (0.1 * dk3[t]!) / 7)) // biome-ignore format: short
})

edge('real', 'scores far from 0 overflow nowhere', () => {
  for (const size of [400, -400]) {
    const batch = {
      logp: Float32Array.of(size, -size),
      oldLogp: new Float32Array(2),
      sequenceStart: [0, 1, 2],
      groupStart: [0, 2],
      advantage: [1, -1],
    }
    const { loss, gradLogp } = optimizationStep(real(), batch)
    // log(1 + exp(-400 / 0.5)) twice, and its derivatives
    expect(loss).toBeCloseTo(size > 0 ? 0 : 1600, 6)
    for (const x of gradLogp!.data) expect(Math.abs(x)).toBeCloseTo(size > 0 ? 0 : 2, 6)
  }
})

// Two groups and a third without negatives; rollouts of 1 to 3 tokens, one of them partly masked.
const large = {
  logp: Float32Array.of(-0.5, -1.5, -0.2, -2, -1, -0.7, -0.4, -1.2, -0.9, -3, -0.1, -0.6),
  oldLogp: Float32Array.of(-0.9, -1.1, -0.4, -1.5, -1.3, -0.2, -0.8, -1, -1.4, -2.2, -0.3, -0.5),
  mask: [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1],
  sequenceStart: [0, 2, 5, 6, 8, 9, 12],
  groupStart: [0, 3, 5, 6],
  advantage: [1, -0.5, 0, -1, 2, 3],
}

/** The loss, in float64. */
function lossOf(logp: ArrayLike<number>, tau: number): number {
  const { oldLogp, mask, sequenceStart, groupStart, advantage } = large
  const score = advantage.map((_, i) => {
    const tokens = logp.length ? Array.from({ length: sequenceStart[i + 1]! - sequenceStart[i]! }, (_, k) => sequenceStart[i]! + k) : [] // biome-ignore format: short
    const kept = tokens.filter((t) => mask[t])
    return kept.reduce((sum, t) => sum + logp[t]! - oldLogp[t]!, 0) / kept.length
  })
  let loss = 0
  for (let g = 0; g < 3; g++) {
    const rollouts = advantage.map((_, i) => i).slice(groupStart[g], groupStart[g + 1])
    const positive = rollouts.filter((i) => advantage[i]! > 0)
    const negative = rollouts.filter((i) => advantage[i]! <= 0)
    if (positive.length === 0 || negative.length === 0) continue
    loss += Math.log(1 + positive.reduce((sum, i) => sum + Math.exp(-score[i]! / tau), 0))
    loss += Math.log(1 + negative.reduce((sum, i) => sum + Math.exp(score[i]! / tau), 0))
  }
  return loss / 3
}

golden('real', 'the gradient is that of the loss, by central differences', (check) => {
  const step = optimizationStep(real({ tau: 0.3 }), large)
  check.float32(step.loss, lossOf(large.logp, 0.3))
  const differences = Array.from(large.logp, (_, t) => {
    const at = (h: number) =>
      lossOf(
        Float64Array.from(large.logp, (x, u) => (u === t ? x + h : x)),
        0.3,
      )
    return (at(1e-5) - at(-1e-5)) / 2e-5
  })
  check.float32(step.gradLogp!.data, differences)
})

edge('real', 'a group without positives or negatives adds nothing, but is counted', () => {
  const one = optimizationStep(real(), { ...fixture, advantage })
  const equal = optimizationStep(real(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  for (const step of [one, equal]) expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  const twice = optimizationStep(real(), { ...group, groupStart: [0, 2, 2] })
  expect(twice.loss).toBe(optimizationStep(real(), group).loss / 2)
})

edge('real', 'everything masked: loss 0, gradients 0; a rollout without tokens, or rejected, is in no set', () => {
  const masked = optimizationStep(real(), { ...group, mask: new Uint8Array(8) })
  expect([masked.loss, ...masked.gradLogp!.data].every((x) => x === 0)).toBe(true)
  const rejected = optimizationStep(real(), { ...group, rolloutMask: [1, 0] })
  expect(rejected.loss).toBe(0)
  const half = optimizationStep(real(), { ...group, mask: [1, 1, 1, 0, 0, 0, 0, 0] })
  expect(half.loss).toBe(0)
})

edge('real', 'scores far from 0 overflow nowhere', () => {
  const logp = fixture.logp.map((x, t) => (t < 4 ? x - 900 : x + 900))
  const step = optimizationStep(real(), { ...group, logp })
  expect(step.loss).toBeCloseTo(3600 + 2 * Math.log(1.2812671524 / 0.9932883884), 2)
  expect(unmasked(step.gradLogp!.data).map((x) => Math.fround(x))).toEqual([
    ...Array(3).fill(Math.fround(-2 / 3)),
    ...Array(4).fill(0.5),
  ])
})

edge('real', 'advantages of tokens are refused', () => {
  const { advantage: _, ...rest } = group
  expect(() => optimizationStep(real(), { ...rest, tokenAdvantage: new Float32Array(8) })).toThrow(
    'real: tokenAdvantage is given, expected one advantage per rollout: its sign is a label',
  )
})

edge('real', 'groups that are missing, and a KL without a reference', () => {
  const { groupStart, refLogp, ...rest } = group
  expect(() => optimizationStep(real(), rest as typeof group)).toThrow('real: groupStart is missing from the batch')
  expect(() => prepareStep(real(), rest as typeof group)).not.toThrow()
  const without = { ...rest, groupStart }
  expect(() => optimizationStep(real({ klCoef: 0.1 }), without)).toThrow('real: refLogp is missing from the batch')
})
