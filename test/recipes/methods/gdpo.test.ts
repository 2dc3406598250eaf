import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gdpo } from '../../../lib/recipes/methods/gdpo.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const rewards = [1, 0, 0.5, 0, 1, 1, 1, 1]
const second = [0, 1, 1, 0, 1, 0, 1, 1]
const groups = { groupStart: [0, 4, 8], scores: rewards.flatMap((reward, i) => [reward, second[i]!]) }
const sums = [0.4394343196, 0.0826895801, 1.1269373796, -1.6490612794, 0.49990002, -1.49970006, 0.49990002, 0.49990002]

golden('gdpo', 'sums and advantages of TRL', (check) => {
  check.float32(prepareStep(gdpo({ normalize: false }), groups).advantage!, sums)
  const final = [0.4336028548, 0.0815922572, 1.111982481, -1.627177593, 0.4932661517, -1.4797984552, 0.4932661517, 0.4932661517] // biome-ignore format: a list
  check.float32(prepareStep(gdpo(), groups).advantage!, final)
})

golden('gdpo', 'verl: the sums of its GRPO advantages, whitened over tokens', (check) => {
  const lengths = [2, 4, 3, 1, 2, 2, 2, 2]
  const sequenceStart = [0, 2, 6, 9, 10, 12, 14, 16, 18]
  // verl's grpo of the first reward, and of the second: mean 0.5 and std 1 / sqrt(3), mean 0.75 and std 0.5
  const [a, b, c] = [0.5 / (1 / Math.sqrt(3) + 1e-6), 0.25 / (0.5 + 1e-6), 0.75 / (0.5 + 1e-6)]
  const first = [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154]
  const sum = [first[0]! - a, first[1]! + a, first[2]! + a, first[3]! - a, b, -c, b, b]
  check.float32(prepareStep(gdpo({ form: 'verl', normalize: false }), groups).advantage!, sum)
  const tokens = lengths.flatMap((length, i) => Array<number>(length).fill(sum[i]!))
  const mean = tokens.reduce((total, x) => total + x) / tokens.length
  const variance = tokens.reduce((total, x) => total + (x - mean) ** 2, 0) / (tokens.length - 1)
  const { tokenAdvantage } = prepareStep(gdpo({ form: 'verl' }), { ...groups, sequenceStart })
  check.float32(tokenAdvantage!, tokens.map((x) => (x - mean) / Math.sqrt(variance + 1e-8))) // biome-ignore format: short
})

golden('gdpo', 'kinds that are not divided by their standard deviation', (check) => {
  // Means 0.375 and 1 of the first kind, 0.5 and 0.75 of the second; a group of one has its reward in verl.
  const centered = [0.125, 0.125, 0.625, -0.875, 0.25, -0.75, 0.25, 0.25]
  for (const form of ['trl', 'verl'] as const) {
    check.float32(prepareStep(gdpo({ form, scale: 'none', normalize: false }), groups).advantage!, centered)
  }
  const deviation = Math.sqrt(centered.reduce((total, x) => total + x * x, 0) / 7) // their mean is 0
  check.float32(prepareStep(gdpo({ scale: 'none' }), groups).advantage!, centered.map((x) => x / (deviation + 1e-4))) // biome-ignore format: short
  const one = { groupStart: [0, 1, 2], scores: [1, 2, 3, 4] }
  check.float32(prepareStep(gdpo({ form: 'verl', scale: 'none', normalize: false }), one).advantage!, [3, 7])
})

edge('gdpo', 'weights', () => {
  const one = prepareStep(gdpo({ normalize: false }), { ...groups, scoreWeight: [0, -2] }).advantage!
  const only = prepareStep(gdpo({ normalize: false }), { groupStart: [0, 4, 8], scores: second }).advantage!
  expect(Array.from(one)).toEqual(Array.from(only, (a) => -2 * a))
})

edge('gdpo', 'one kind of reward in one group of which all are different is GRPO, normalised twice', () => {
  const batch = { groupStart: [0, 3], scores: [1, 2, 3] }
  const { advantage } = prepareStep(gdpo(), batch)
  expect(advantage![2]).toBeCloseTo(1 / (1 + 1e-4) / (1 / (1 + 1e-4) + 1e-4), 6)
  expect(advantage![1]).toBe(0)
})

edge('gdpo', 'a rollout without one kind of reward, and one without any', () => {
  const scores = [1, Number.NaN, 0, 2, Number.NaN, 4, Number.NaN, Number.NaN]
  const sum = prepareStep(gdpo({ normalize: false }), { groupStart: [0, 4], scores }).advantage!
  const s = Math.SQRT1_2 + 1e-4 // of 1 and 0; twice that, without eps, of 2 and 4
  expect(sum[0]).toBeCloseTo(0.5 / s, 6)
  expect(sum[1]).toBeCloseTo(-0.5 / s - 1 / (Math.SQRT2 + 1e-4), 6)
  expect(sum[2]).toBeCloseTo(1 / (Math.SQRT2 + 1e-4), 6)
  expect(sum[3]).toBe(0)
  const shifted = scores.map((x, i) => (i === 7 ? 5 : x)) // now its rollout counts in the batch
  const { advantage } = prepareStep(gdpo(), { groupStart: [0, 4], scores })
  expect(advantage![3]).toBe(0)
  expect(advantage![0]! + advantage![1]! + advantage![2]!).toBeCloseTo(0, 6)
  expect(prepareStep(gdpo(), { groupStart: [0, 4], scores: shifted }).advantage![3]).not.toBe(0)
})

edge('gdpo', 'equal rewards that no float holds, and groups of one: 0, or for verl the reward', () => {
  const equal = { groupStart: [0, 3], scores: Array(6).fill(0.1) }
  expect(Array.from(prepareStep(gdpo(), equal).advantage!)).toEqual([0, 0, 0])
  const one = { groupStart: [0, 1, 2], scores: [1, 2, 3, 4] }
  expect(Array.from(prepareStep(gdpo({ normalize: false }), one).advantage!)).toEqual([0, 0])
  const raw = prepareStep(gdpo({ form: 'verl', normalize: false }), one).advantage!
  expect(raw[1]).toBeCloseTo(7 / (1 + 1e-6), 5)
})

edge('gdpo', 'masked tokens and rejected rollouts enter no statistic of verl, in ragged groups', () => {
  const batch = { groupStart: [0, 2, 5], scores: [1, 0, 2, 5, 9], sequenceStart: [0, 1, 3, 4, 6, 9] }
  const masks = { mask: [1, 1, 0, 1, 1, 1, 1, 1, 1], rolloutMask: [1, 1, 1, 1, 0] }
  const { tokenAdvantage } = prepareStep(gdpo({ form: 'verl' }), { ...batch, ...masks })
  const values = Array.from(tokenAdvantage!)
  expect([values[2], ...values.slice(6)]).toEqual([0, 0, 0, 0])
  expect(values.reduce((sum, x) => sum + x)).toBeCloseTo(0, 6)
  expect(values.reduce((sum, x) => sum + x * x, 0) / 4).toBeCloseTo(1, 6) // five tokens count
})

edge('gdpo', 'everything masked: loss 0, gradients 0', () => {
  for (const form of ['trl', 'verl'] as const) {
    const step = optimizationStep(gdpo({ form }), { ...fixture, scores: [1, 0], mask: new Uint8Array(8) })
    expect(step.loss).toBe(0)
    expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  }
})

edge('gdpo', 'no scores, a row too short, and verl without tokens', () => {
  expect(() => prepareStep(gdpo(), { groupStart: [0, 2] } as never)).toThrow(/gdpo: scores is missing from the batch/)
  expect(() => prepareStep(gdpo(), { groupStart: [0, 2], scores: [1, 2, 3] })).toThrow(/gdpo: scores has 3 values, expected a multiple of 2/) // biome-ignore format: one text
  expect(() => prepareStep(gdpo({ form: 'verl' }), groups)).toThrow(/gdpo: sequenceStart is missing from the batch/)
})

edge('gdpo', 'no rollouts', () => {
  const empty = { groupStart: [0], sequenceStart: [0], logp: new Float32Array(0), scores: [] }
  for (const form of ['trl', 'verl'] as const) {
    expect(optimizationStep(gdpo({ form }), { ...empty, oldLogp: empty.logp, scoreWeight: [1, 2] }).loss).toBe(0)
  }
})
