import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { ppo } from '../../../lib/recipes/methods/ppo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const values = Float32Array.of(0.5, 9, 0.25, 0.75, -0.5, 0.125, 1, 9)
// Three rollouts of 3 (one masked within), 3 and 2 tokens (the last one masked).
const batch = {
  rewards: [1, -0.5, 2],
  sequenceStart: [0, 3, 6, 8],
  mask: [1, 0, 1, 1, 1, 1, 1, 0],
  values,
}
/** The sum of (gamma lambda)^k delta[t + k] over the unmasked tokens, from the definition. */
function advantages(gamma: number, lambda: number): number[] {
  const result = new Array<number>(8).fill(0)
  for (const [i, tokens] of [[0, 2], [3, 4, 5], [6]].entries()) {
    // biome-ignore format: a table
    const delta = tokens.map((t, k) => {
      const last = k === tokens.length - 1
      return (last ? batch.rewards[i]! : 0) + gamma * (last ? 0 : values[tokens[k + 1]!]!) - values[t]!
    })
    tokens.forEach((t, k) => {
      result[t] = delta.slice(k).reduce((sum, d, j) => sum + (gamma * lambda) ** j * d, 0)
    })
  }
  return result
}

golden('ppo', 'generalized advantages from their definition, masked tokens skipped', (check) => {
  for (const [gamma, lambda] of [
    [1, 0.95],
    [0.9, 0.5],
    [1, 1],
    [0.9, 0],
  ] as const) {
    // biome-ignore format: a table
    const { tokenAdvantage } = prepareStep(ppo({ gamma, lambda, whiten: false }), batch)
    check.float32(tokenAdvantage!, advantages(gamma, lambda))
  }
})

golden('ppo', 'whitening with divisor n - 1 and 1e-8', (check) => {
  const raw = advantages(1, 0.95)
  const counted = raw.filter((_, t) => batch.mask[t])
  const mean = counted.reduce((sum, x) => sum + x) / 6
  const variance = counted.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 5
  const white = raw.map((x, t) => (batch.mask[t] ? (x - mean) / Math.sqrt(variance + 1e-8) : 0))
  check.float32(prepareStep(ppo(), batch).tokenAdvantage!, white)
})

golden('ppo', 'loss and gradient', (check) => {
  const step = optimizationStep(ppo(), { ...fixture, advantage, values: new Float32Array(8) })
  check.float32(step.loss, 0.11, 12) // the terms of both signs are 12 times as large
  const gradient = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  check.float32(unmasked(step.gradLogp!.data), gradient)
})

golden('ppo', 'the KL in the rewards, from the probabilities', (check) => {
  const recipe = ppo({ klCoef: 1, lambda: 1, whiten: false })
  const { tokenAdvantage } = prepareStep(recipe, { ...fixture, rewards: [1, 0], values: new Float32Array(8) })
  const first = [(0.5 * 0.2 * 0.4) / (0.6 * 0.25 * 0.3), (0.2 * 0.4) / (0.25 * 0.3), 0.4 / 0.3]
  const second = [0.6 / 1, 0.6, 0.6 / 0.5 * 0.25 / 0.3, 0.25 / 0.3] // biome-ignore format: products
  second[0] = (0.1 / 0.2) * second[2]!
  second[1] = (0.1 / 0.2) * second[2]!
  check.float32(unmasked(tokenAdvantage!), [...first.map((q) => 1 - Math.log(q)), ...second.map((q) => -Math.log(q))])
})

edge('ppo', 'lambda 1: the return over the value; the sums telescope', () => {
  const { tokenAdvantage } = prepareStep(ppo({ lambda: 1, whiten: false }), batch)
  expect(Array.from(tokenAdvantage!)).toEqual([0.5, 0, 0.75, -1.25, 0, -0.625, 1, 0])
})

edge('ppo', 'a critic that knows the rewards: advantages 0', () => {
  const known = Float32Array.of(1, 9, 1, -0.5, -0.5, -0.5, 2, 9)
  const { tokenAdvantage } = prepareStep(ppo(), { ...batch, values: known })
  expect(Array.from(tokenAdvantage!)).toEqual(new Array(8).fill(0))
})

edge('ppo', 'one token: whitened to 0', () => {
  const one = { rewards: [3], sequenceStart: [0, 1], values: Float32Array.of(1) }
  expect(Array.from(prepareStep(ppo(), one).tokenAdvantage!)).toEqual([0])
  expect(Array.from(prepareStep(ppo({ whiten: false }), one).tokenAdvantage!)).toEqual([2])
})

edge('ppo', 'rejected rollouts enter no statistic, and values under the mask are not read', () => {
  const hidden = values.map((value, t) => (batch.mask[t] ? value : Number.NaN))
  const given = { ...batch, values: hidden, rolloutMask: [1, 1, 0] }
  const { tokenAdvantage } = prepareStep(ppo(), given)
  const without = { rewards: [1, -0.5], sequenceStart: [0, 3, 6], mask: batch.mask.slice(0, 6), values: hidden.slice(0, 6) } // biome-ignore format: one batch
  const shorter = prepareStep(ppo(), without).tokenAdvantage!
  expect(Array.from(tokenAdvantage!)).toEqual([...shorter, 0, 0])
})

edge('ppo', 'everything masked, and a rollout without tokens: loss 0, gradients 0', () => {
  const empty = { ...fixture, rewards: [1, 0], values: new Float32Array(8), mask: new Uint8Array(8) }
  const step = optimizationStep(ppo(), empty)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  const none = { rewards: [1, 0], sequenceStart: [0, 0, 1], values: Float32Array.of(2) }
  expect(Array.from(prepareStep(ppo({ whiten: false }), none).tokenAdvantage!)).toEqual([-2])
})

edge('ppo', 'a batch without values', () => {
  const { values: _, ...rest } = batch
  expect(() => prepareStep(ppo(), rest as never)).toThrow(/ppo: values is missing from the batch, expected f32\[T\]/)
})
