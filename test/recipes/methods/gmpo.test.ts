import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gmpo } from '../../../lib/recipes/methods/gmpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('gmpo', 'published width: nothing is cut on the fixture', (check) => {
  const step = optimizationStep(gmpo(), { ...fixture, advantage })
  check.float32(step.loss, -0.2324594303)
  check.float32(unmasked(step.gradLogp!.data), [...Array(3).fill(-0.2483220971), ...Array(4).fill(0.1281267152)])
})

golden('gmpo', 'verl’s width: cut tokens get no gradient', (check) => {
  const step = optimizationStep(gmpo({ clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, advantage })
  check.float32(step.loss, -0.1788570503)
  const [a, b] = [-0.2372788274, 0.133244858]
  check.float32(unmasked(step.gradLogp!.data), [0, a, a, 0, b, b, b])
})

golden('gmpo', 'the geometric means, one rollout at a time', (check) => {
  const means = (recipe: ReturnType<typeof gmpo>) =>
    [[1, 0], [0, -1]].map((one) => 2 * Math.abs(optimizationStep(recipe, { ...fixture, advantage: one }).loss)) // biome-ignore format: short
  check.float32(means(gmpo()), [0.9932883884, 1.2812671524])
  check.float32(means(gmpo({ clipLow: 0.2, clipHigh: 0.2 })), [0.9491153096, 1.3324485798])
})

edge('gmpo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  const one = optimizationStep(gmpo(), { ...fixture, rewards: [1, 0] })
  const equal = optimizationStep(gmpo(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  const masked = optimizationStep(gmpo(), { ...fixture, advantage, mask: new Uint8Array(8) })
  for (const step of [one, equal, masked]) {
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('gmpo', 'ragged groups', () => {
  const batch = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const step = optimizationStep(gmpo(), batch)
  expect(Array.from(step.gradLogp!.data, Math.sign)).toEqual([-1, -1, 1, 0, 0, 0, 0, 0])
})

edge('gmpo', 'advantages of tokens are refused: the ratio is one of the rollout', () => {
  const batch = { ...fixture, tokenAdvantage: new Float32Array(8).fill(1) }
  expect(() => optimizationStep(gmpo(), batch)).toThrow(/tokenAdvantage/)
})

edge('gmpo', 'rewards that are missing', () => {
  expect(() => prepareStep(gmpo(), fixture)).toThrow('gmpo: rewards is missing from the batch')
})
