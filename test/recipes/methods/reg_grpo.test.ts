import { describe, expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { regGrpo, regression } from '../../../lib/recipes/methods/reg_grpo.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const rho = [0.2, -0.1, 0.05, 0.3]
/** One token per rollout. A constant that is added to every rho changes nothing, so that these are below 0. */
const group = {
  rewards: [1, 0, 0, 1],
  groupStart: [0, 4],
  sequenceStart: [0, 1, 2, 3, 4],
  logp: Float32Array.from(rho, (x) => x - 0.3),
  oldLogp: new Float32Array(4),
}
const plain = { eps: 0, klCoef: 0 } as const

describe('one group', () => {
  // rho is twice the largest distance from its mean, over a standard deviation of 0.15.
  const condition = 4
  golden('regGrpo', 'with divisor n', (check) => {
    const recipe = regGrpo({ ...plain, ddof: 0 })
    const { loss, gradLogp, advantage } = optimizationStep(recipe, group)
    check.float32(advantage!, [1, -1, -1, 1])
    check.float32(loss, 0.18547058254689047, condition)
    check.float32(gradLogp!.data, [-1.571021140652, -0.897726366087, 2.064770642, 0.403976864739], condition)
    // With a constant std the gradient of rollout i is -2 (target - prediction) / (4 std): both sum to 0.
    const { gradLogp: linear } = optimizationStep(regGrpo({ ...plain, ddof: 0, form: 'stop_gradient' }), group)
    const std = Math.sqrt(0.091875 / 4)
    const prediction = Array.from(linear!.data, (g, i) => advantage![i]! + 2 * std * g)
    check.float32(prediction, [0.57735026919, -1.402136368032, -0.412393049421, 1.237179148263], condition)
  })
  golden('regGrpo', 'with divisor n - 1', (check) => {
    const { loss, gradLogp } = optimizationStep(regGrpo(plain), group)
    check.float32(loss, 0.13910293691016784, condition)
    check.float32(gradLogp!.data, [-1.178265855489, -0.673294774565, 1.5485779815, 0.302982648554], condition)
  })
})

edge('regGrpo', 'the gradient of each form against central differences', () => {
  const target = [1.2, -0.4, -0.9, 0.1]
  for (const form of ['normalized', 'centered'] as const) {
    const options = { form, lambda: 0.5, ddof: 1, eps: 0.1 }
    closeIn64(
      regression(target, rho, options).gradient,
      centralDifferences((x) => regression(target, x, options).loss, rho),
    )
  }
})

edge('regGrpo', 'ragged groups with a mask: sums or means of tokens, and the KL', () => {
  const ragged = {
    rewards: [1, 0, 0.5, 2, 0, 1],
    groupStart: [0, 3, 3, 5, 6],
    sequenceStart: [0, 2, 3, 6, 7, 9, 10],
    mask: [1, 1, 1, 1, 0, 1, 1, 1, 1, 1],
    logp: Float32Array.of(-1, -0.5, -0.75, -2, Number.NaN, -0.25, -1.5, -0.5, -1, -1),
    oldLogp: Float32Array.of(-0.875, -0.5, -0.5, -1.75, -1, -0.25, -1.25, -0.5, -0.25, -2),
    refLogp: Float32Array.of(-1.25, -0.5, -0.5, -1.5, -1, -0.5, -1.25, -0.75, -0.75, -1),
  }
  const places = [[0, 1], [2], [3, 5], [6], [7, 8], [9]] // biome-ignore format: a table
  const { advantage } = prepareStep(regGrpo(), ragged)
  const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length
  for (const score of ['sum', 'mean'] as const) {
    const published = (logp: number[]) => {
      const parts = places.map((list) => list.reduce((a, t) => a + logp[t]! - ragged.oldLogp[t]!, 0) / (score === 'mean' ? list.length : 1)) // biome-ignore format: one formula
      const group = (begin: number, end: number) => {
        const x = parts.slice(begin, end)
        const std = Math.sqrt(x.reduce((a, v) => a + (v - mean(x)) ** 2, 0) / (x.length - 1))
        return mean(x.map((v, i) => (advantage![begin + i]! - (v - mean(x)) / (std + 0.25)) ** 2))
      }
      const k3 = (t: number) => Math.exp(ragged.refLogp[t]! - logp[t]!) - 1 + logp[t]! - ragged.refLogp[t]!
      // Of four groups one is empty, and one has a single rollout: both add 0 to the regression.
      return (group(0, 3) + group(3, 5)) / 4 + 0.1 * mean(places.map((list) => mean(list.map(k3))))
    }
    const { loss, gradLogp } = optimizationStep(regGrpo({ score, eps: 0.25 }), ragged)
    const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
    closeIn32([loss], [published(finite)])
    closeIn32(gradLogp!.data, centralDifferences(published, finite))
  }
})

edge('regGrpo', 'the start, where every rho is 0: a gradient of the order of 1 / eps, or none', () => {
  const start = { ...group, logp: group.oldLogp }
  const { loss, gradLogp, advantage } = optimizationStep(regGrpo({ klCoef: 0 }), start)
  closeIn32([loss], [0.75])
  closeIn32(
    gradLogp!.data,
    Array.from(advantage!, (a) => -a / 2 / 1e-4),
  )
  const none = optimizationStep(regGrpo(plain), start)
  expect(none.loss).toBe(loss)
  expect(Array.from(none.gradLogp!.data, Math.abs)).toEqual([0, 0, 0, 0])
  const centered = optimizationStep(regGrpo({ ...plain, form: 'centered', lambda: 2 }), start)
  closeIn32(
    centered.gradLogp!.data,
    Array.from(advantage!, (a) => -a / 4),
  )
})

edge('regGrpo', 'equal rewards, groups of one, everything masked: loss 0, gradients 0', () => {
  for (const change of [{ rewards: [1, 1, 1, 1] }, { groupStart: [0, 1, 2, 3, 4] }, { mask: new Uint8Array(4) }]) {
    const { loss, gradLogp } = optimizationStep(regGrpo({ klCoef: 0 }), { ...group, ...change })
    expect(loss).toBe(0)
    expect(Array.from(gradLogp!.data, Math.abs)).toEqual([0, 0, 0, 0])
  }
})

edge('regGrpo', 'the difficulty of a prompt, and the window that it is measured against', () => {
  const { difficulty, next } = regGrpo().sample
  expect(difficulty([1, 0.5], [0.25, 0.25])).toEqual({ difficulty: 0.5, augmentation: 'hint', strength: 0.5 })
  expect(difficulty([0, 0.5], [1])).toEqual({ difficulty: -0.75, augmentation: 'noise', strength: 0.75 })
  expect(difficulty([], [1])).toEqual({ difficulty: 0, augmentation: 'none', strength: 0 })
  expect(next).toBeTypeOf('function')

  const recipe = regGrpo({ window: 3 })
  const prompts = { rewards: [1, 0, 0, 0], groupStart: [0, 2, 2, 4] }
  const first = prepareStep(recipe, prompts)
  expect(first.state!.data).toEqual({ window: [0.5, 0] })
  expect(first.sample.map((d) => d.difficulty)).toEqual([-0.25, 0, 0.25])
  expect(first.sample.map((d) => d.augmentation)).toEqual(['noise', 'none', 'hint'])
  expect(prepareStep(recipe, prompts, first.state).state!.data).toEqual({ window: [0, 0.5, 0] })
  expect(first.state!.data).toEqual({ window: [0.5, 0] })
})

edge('regGrpo', 'batches that it cannot take', () => {
  expect(() => optimizationStep(regGrpo(), group)).toThrow(/regGrpo: refLogp is missing from the batch/)
  const { oldLogp, ...batch } = group
  expect(() => optimizationStep(regGrpo(), batch)).toThrow(/regGrpo: oldLogp is missing from the batch/)
  expect(() => optimizationStep(regGrpo(), { ...group, tokenAdvantage: new Float32Array(4) })).toThrow(
    'regGrpo: tokenAdvantage is given, expected one advantage per rollout: the target',
  )
})

edge('regGrpo', 'a batch with its own advantages and no rewards: the window stays, no prompt is hard or easy', () => {
  const { rewards: _, ...batch } = group
  const recipe = regGrpo({ klCoef: 0 })
  const state = { method: 'regGrpo', version: 1, options: recipe.options, data: { window: [0.25] } }
  const step = optimizationStep(recipe, { ...batch, advantage: [1, -1, -1, 1] }, state)
  expect(step.state!.data).toEqual({ window: [0.25] })
  expect(step.sample).toEqual([{ difficulty: 0, augmentation: 'none', strength: 0 }])
  expect(step.loss).toBeGreaterThan(0)
})

edge('regGrpo', 'a rollout without tokens counts in the target alone', () => {
  const mask = [1, 1, 1, 0]
  const { advantage } = prepareStep(regGrpo(), { ...group, mask })
  expect(advantage).toEqual(prepareStep(regGrpo(), group).advantage)
  const { loss } = optimizationStep(regGrpo({ ...plain, form: 'centered' }), { ...group, mask })
  const center = (rho[0]! + rho[1]! + rho[2]!) / 3
  const miss = [0, 1, 2].map((i) => (advantage![i]! - (rho[i]! - center)) ** 2)
  closeIn32([loss], [miss.reduce((a, b) => a + b) / 3])
})
