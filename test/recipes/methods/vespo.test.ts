import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { vespo } from '../../../lib/recipes/methods/vespo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const batch = { ...fixture, advantage }
const gradientOf = (recipe: ReturnType<typeof vespo>, given: object = batch) =>
  unmasked(optimizationStep(recipe, given as typeof batch).gradLogp!.data)
/** phi of the two rollouts, from the gradient -phi A / tokens. */
const phiOf = (recipe: ReturnType<typeof vespo>, given?: object) => {
  const gradient = gradientOf(recipe, given)
  return [(-7 / 1.5) * gradient[0]!, (7 / 0.8) * gradient[3]!]
}

golden('vespo', 'loss and gradient', (check) => {
  const step = optimizationStep(vespo(), batch)
  check.float32(step.loss, 0.3751072796)
  check.float32(unmasked(step.gradLogp!.data), [...Array(3).fill(-0.2185259613), ...Array(4).fill(0.0754067046)])
})

golden('vespo', 'phi, and the W that it comes from', (check) => {
  check.float32(phiOf(vespo()), [1.0197878193, 0.6598086654])
  // power 1 and power 0 differ by the factor W.
  const power = (n: number) => phiOf(vespo({ powerPositive: n, powerNegative: n }))
  const [one, zero] = [power(1), power(0)]
  check.float32(one.map((x, i) => x / zero[i]!), [0.98, 2.695]) // biome-ignore format: short
})

golden('vespo', 'with the correction, W is that of the inference engine', (check) => {
  // Products of the token weights: 1.0101 and 1.0331.
  const w = [0.98 * 1.0101010101, 2.695 * 1.0330578512]
  const phi = [w[0]! ** 2 * Math.exp(3 * (1 - w[0]!)), w[1]! ** 3 * Math.exp(2 * (1 - w[1]!))]
  // Twelve logarithms enter the second one.
  check.float32(phiOf(vespo({ correction: 'token_truncate' })), phi, 4)
  const cut = [0.98 * (1.05 / 1.1111111111) * 1.0101010101, 2.695 * (1.05 / 1.0909090909) * 1.0330578512]
  const cutPhi = [cut[0]! ** 2 * Math.exp(3 * (1 - cut[0]!)), cut[1]! ** 3 * Math.exp(2 * (1 - cut[1]!))]
  check.float32(phiOf(vespo({ correction: 'token_truncate', cap: 1.05 })), cutPhi, 4)
})

edge('vespo', 'a masked weight leaves almost nothing of its rollout, and nothing is infinite', () => {
  expect(phiOf(vespo({ correction: 'token_mask', cap: 1.05 })).every((x) => x < 1e-6)).toBe(true)
  const far = fixture.logp.map((x, t) => (t < 4 ? x + 300 : x - 300))
  expect(gradientOf(vespo(), { ...batch, logp: far }).every(Number.isFinite)).toBe(true)
})

edge('vespo', 'a batch without oldLogp is one of the current policy', () => {
  const { oldLogp, ...rest } = batch
  const expected = optimizationStep(vespo({ correction: 'token_mask' }), { ...rest, oldLogp: fixture.logp })
  expect(optimizationStep(vespo({ correction: 'token_mask' }), rest).gradLogp).toEqual(expected.gradLogp)
})

edge('vespo', 'on the policy that sampled, it is REINFORCE', () => {
  const step = optimizationStep(vespo(), { ...batch, logp: fixture.oldLogp })
  unmasked(step.gradLogp!.data).forEach((g, t) => expect(g).toBeCloseTo((t < 3 ? -1.5 : 0.8) / 7, 6))
})

edge('vespo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  const one = optimizationStep(vespo(), { ...fixture, rewards: [1, 0] })
  const equal = optimizationStep(vespo(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  const masked = optimizationStep(vespo(), { ...batch, mask: new Uint8Array(8) })
  for (const step of [one, equal, masked]) {
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('vespo', 'ragged groups', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const { data } = optimizationStep(vespo({ correction: 'token_mask' }), ragged).gradLogp!
  expect(Array.from(data, Math.sign)).toEqual([-1, -1, 1, 0, 0, 0, 0, 0])
})

edge('vespo', 'columns that are missing', () => {
  const { rolloutLogp, ...rest } = batch
  expect(() => optimizationStep(vespo({ correction: 'token_mask' }), rest)).toThrow('vespo: rolloutLogp is missing from the batch') // biome-ignore format: short
  expect(() => prepareStep(vespo(), fixture)).toThrow('vespo: rewards is missing from the batch')
})
