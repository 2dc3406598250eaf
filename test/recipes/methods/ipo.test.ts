import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { ipo } from '../../../lib/recipes/methods/ipo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('ipo', 'prime-rl’s default: loss and gradient', (check) => {
  const step = optimizationStep(ipo({ form: 'dppo' }), { ...fixture, advantage })
  check.float32(step.loss, 0.3838542587)
  check.float32(unmasked(step.gradLogp!.data), [0.0001262379, -0.1948324263, -0.1501019071, 0.0725981341, 0.4003579323, 0.1247001851, 0.1309912759]) // biome-ignore format: short
})

golden('ipo', 'the mask for both directions', (check) => {
  const step = optimizationStep(ipo(), { ...fixture, advantage })
  // p - p' = 0.25, -0.02, -0.12 | -0.12, 0.25, 0.05, 0.035: the first, third, fourth and fifth lie outside.
  const q = [0.7 / 0.45, 0.2 / 0.22, 0.28 / 0.4, 0.21 / 0.33, 0.35 / 0.1, 0.6 / 0.55, 0.275 / 0.24]
  const a = [0, 1.5, 0, 0, 0, -0.8, -0.8]
  const squares = q.map((x) => Math.log(x) ** 2)
  check.float32(step.loss, q.reduce((sum, x, t) => sum - a[t]! * x + 1e-3 * squares[t]!, 0) / 7)
  check.float32(unmasked(step.gradLogp!.data), q.map((x, t) => (-a[t]! * x + 2e-3 * Math.log(x)) / 7)) // biome-ignore format: short
})

edge('ipo', 'both factors, and the threshold', () => {
  const batch = { ...fixture, advantage }
  const policy = optimizationStep(ipo({ advantageTau: 2, klTau: 0, threshold: 0.3 }), batch)
  expect(policy.gradLogp!.data[0]).toBeCloseTo((-2 * 1.5 * (0.7 / 0.45)) / 7, 6)
  const regular = optimizationStep(ipo({ advantageTau: 0, klTau: 1 }), batch)
  expect(regular.gradLogp!.data[0]).toBeCloseTo((2 * Math.log(0.7 / 0.45)) / 7, 6)
})

edge('ipo', 'a group of one, and equal rewards: only the squared log-ratio is left', () => {
  for (const groupStart of [
    [0, 1, 2],
    [0, 2],
  ]) {
    const step = optimizationStep(ipo({ klTau: 0 }), { ...fixture, groupStart, rewards: [1, 1] })
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('ipo', 'everything masked: loss 0, gradients 0; what lies under the mask is not read', () => {
  const step = optimizationStep(ipo(), { ...fixture, advantage, mask: new Uint8Array(8) })
  expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  const logp = fixture.logp.map((x, t) => (fixture.mask[t] ? x : Number.NaN))
  expect(optimizationStep(ipo(), { ...fixture, advantage, logp }).loss).toBe(
    optimizationStep(ipo(), { ...fixture, advantage }).loss,
  )
})

edge('ipo', 'advantages of tokens, and ragged groups', () => {
  const tokenAdvantage = Float32Array.of(1, -1, 1, 0, -1, 1, -1, 1)
  const step = optimizationStep(ipo({ form: 'dppo', klTau: 0 }), { ...fixture, tokenAdvantage })
  // 0.25 with A > 0 and 0.25 with A > 0 lie outside; -0.12 and 0.05 with A < 0 inside.
  expect(unmasked(step.gradLogp!.data).map(Math.sign)).toEqual([0, 1, -1, 1, 0, 1, -1])
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const { data } = optimizationStep(ipo({ klTau: 0 }), ragged).gradLogp!
  expect(Array.from(data.slice(4))).toEqual([0, 0, 0, 0])
})

edge('ipo', 'log-probabilities of the rollout that are missing', () => {
  const { rolloutLogp, ...rest } = fixture
  expect(() => optimizationStep(ipo(), { ...rest, advantage })).toThrow(
    'ipo: rolloutLogp is missing from the batch, expected f32[T]',
  )
  expect(() => prepareStep(ipo(), { ...rest, rewards: [1, 0] })).not.toThrow()
})
