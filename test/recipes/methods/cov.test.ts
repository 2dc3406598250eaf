import { expect } from 'vitest'
import { fromJSON, optimizationStep, type prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { clipCov, klCov } from '../../../lib/recipes/methods/cov.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const covariances = [0.967808758, -0.6786797149, -0.2364590610, 0.4609166243, -0.0426114905, -0.5739080413, 0.195105394] // biome-ignore format: short
const places = [0, 1, 2, 4, 5, 6, 7]
const batch = { ...fixture, advantage }
const open = { clipLow: 1, clipHigh: 10 } // nothing is clipped
const weightOf = (recipe: ReturnType<typeof clipCov>, given: object = batch) =>
  optimizationStep(recipe, given as typeof batch).weights.weight!
const dropped = (recipe: ReturnType<typeof clipCov>, given?: object) =>
  Array.from(weightOf(recipe, given), (w, t) => (w === 0 ? t : -1)).filter((t) => t >= 0)

/** The bound at which token t starts to be drawn, when everything that may be drawn is. */
function covarianceOf(t: number): number {
  let [low, high] = [-8, 8]
  for (let i = 0; i < 48; i++) {
    const middle = (low + high) / 2
    const drawn = dropped(clipCov({ ...open, fraction: 1, covLow: -8, covHigh: middle })).includes(t)
    if (drawn) high = middle
    else low = middle
  }
  return high
}

golden('clipCov', 'the covariances', (check) => {
  // Inputs as large as 1.6 in size, rounded to float32.
  check.float32(places.map(covarianceOf), covariances, 2)
})

golden('klCov', 'the clipless surrogate, and the KL at the tokens with the highest covariances', (check) => {
  const step = optimizationStep(klCov({ fraction: 3 / 7, klCoef: 0.7 }), batch)
  const [ratio, a] = [
    [1.4, 1, 0.7, 0.7, 3.5, 1, 1.1],
    [1.5, 1.5, 1.5, -0.8, -0.8, -0.8, -0.8],
  ]
  const chosen = [1, 0, 0, 1, 0, 0, 1] // 0.968, 0.461, 0.195
  check.float32(unmasked(step.gradLogp!.data), ratio.map((r, t) => (-a[t]! * r + 0.7 * chosen[t]! * Math.sign(r - 1)) / 7)) // biome-ignore format: short
  const terms = ratio.map((r, t) => -a[t]! * r + 0.7 * chosen[t]! * Math.abs(Math.log(r)))
  check.float32(step.loss, terms.reduce((x, y) => x + y) / 7)
})

edge('klCov', 'published share: one token of a small batch', () => {
  const step = optimizationStep(klCov(), batch)
  const plain = optimizationStep(klCov({ klCoef: 0 }), batch)
  const changed = Array.from(step.gradLogp!.data, (g, t) => g - plain.gradLogp!.data[t]!)
  expect(changed[0]).toBeCloseTo(0.1 / 7, 6)
  expect(changed.slice(1).every((x) => x === 0)).toBe(true)
})

edge('klCov', 'the same gradient from logits: no KL where none is selected', () => {
  const logits = {
    data: Float32Array.from({ length: 24 }, (_, i) => Math.sin(i)),
    dtype: 'f32',
    shape: [8, 3],
  } as const
  const { logp, ...rest } = batch
  const given = { ...rest, token: [0, 1, 2, 0, 1, 2, 0, 1] }
  const fused = optimizationStep(klCov(), { ...given, logits })
  expect(fused.gradLogits!.shape).toEqual([8, 3])
  const direct = optimizationStep(klCov(), { ...given, logp: fused.logp! })
  expect(direct.loss).toBe(fused.loss)
})

edge('clipCov', 'clipped tokens are not drawn', () => {
  // r = 1.4 with A > 0 and r = 0.7 with A < 0, with the two highest covariances.
  expect(dropped(clipCov({ fraction: 1, covLow: -8, covHigh: 8 }))).toEqual([1, 2, 5, 6, 7])
})

edge('clipCov', 'what is drawn counts in the denominator, with loss 0 and gradient 0', () => {
  const recipe = clipCov({ covLow: 0.1, covHigh: 0.3 })
  const step = optimizationStep(recipe, batch)
  const plain = optimizationStep(clipCov(), batch)
  expect(dropped(recipe)).toEqual([7])
  expect(step.gradLogp!.data[7]).toBe(0)
  expect(Array.from(step.gradLogp!.data.slice(0, 7))).toEqual(Array.from(plain.gradLogp!.data.slice(0, 7)))
  expect(step.loss).toBeCloseTo(plain.loss - 0.88 / 7, 6)
})

edge('clipCov', 'draws depend on the seed and the step, and are uniform', () => {
  const counts = new Map<number, number>()
  const recipes = Array.from({ length: 400 }, (_, seed) => clipCov({ ...open, covLow: -8, covHigh: 8, seed }))
  for (const recipe of recipes) {
    const [t] = dropped(recipe)
    counts.set(t!, (counts.get(t!) ?? 0) + 1)
  }
  // 400 draws from 7: 57.1 each, standard deviation 7.
  expect([...counts.keys()].sort()).toEqual(places)
  for (const n of counts.values()) expect(Math.abs(n - 400 / 7)).toBeLessThan(4 * 7)

  const recipe = clipCov({ ...open, covLow: -8, covHigh: 8, seed: 3 })
  let state: ReturnType<typeof prepareStep<typeof recipe>>['state']
  const sequence = Array.from({ length: 12 }, () => {
    const step = optimizationStep(recipe, batch, state)
    state = step.state
    return step.weights.weight!.indexOf(0)
  })
  expect(state!.data).toEqual({ step: 12 })
  expect(new Set(sequence).size).toBeGreaterThan(2)
  const restored = fromJSON(recipe, toJSON({ ...state!, data: { step: 5 } }))
  expect(optimizationStep(recipe, batch, restored).weights.weight!.indexOf(0)).toBe(sequence[5])
})

edge('clipCov', 'no candidate: the clipped surrogate', () => {
  expect(dropped(clipCov({ covLow: 5, covHigh: 6 }))).toEqual([])
})

edge('clipCov', 'everything masked, and equal rewards: loss 0, gradient 0', () => {
  const masked = optimizationStep(clipCov(), { ...batch, mask: new Uint8Array(8) })
  const equal = optimizationStep(clipCov(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  for (const step of [masked, equal]) expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
})

edge('klCov', 'everything masked, and a group of one: loss 0, gradient 0', () => {
  const masked = optimizationStep(klCov(), { ...batch, mask: new Uint8Array(8) })
  const one = optimizationStep(klCov(), { ...fixture, rewards: [1, 0] })
  for (const step of [masked, one]) expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
})

edge('clipCov', 'ragged groups, and advantages of tokens', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  expect(dropped(clipCov({ ...open, fraction: 1, covLow: -8, covHigh: 8 }), ragged)).toEqual(places)
  const { advantage: _, ...rest } = batch
  const same = { ...rest, tokenAdvantage: Float32Array.of(1.5, 1.5, 1.5, 9, -0.8, -0.8, -0.8, -0.8) }
  expect(dropped(clipCov({ ...open, covLow: 0.9 }), same)).toEqual([0])
})

for (const recipe of [clipCov(), klCov()]) {
  edge(recipe.name, 'log-probabilities that are missing', () => {
    const { oldLogp, ...rest } = batch
    const step = () => optimizationStep(recipe as ReturnType<typeof klCov>, rest)
    expect(step).toThrow(`${recipe.name}: oldLogp is missing from the batch, expected f32[T]`)
  })
}

edge('klCov', 'a normalizer takes the place of the number of tokens', () => {
  const whole = optimizationStep(klCov(), batch)
  const half = optimizationStep(klCov(), batch, undefined, { objective: { normalizer: 14 } })
  expect(half.loss).toBeCloseTo(whole.loss / 2, 7)
  expect(half.gradLogp!.data[1]).toBe((whole.gradLogp!.data[1] as number) / 2)
})
