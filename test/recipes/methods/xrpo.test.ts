import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { xrpo } from '../../../lib/recipes/methods/xrpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

/** Rollouts of two tokens whose mean log-probabilities are these. */
const batchOf = (s: number[], rewards: number[]) => ({
  rewards,
  groupStart: [0, s.length],
  sequenceStart: [...s.keys(), s.length].map((i) => 2 * i),
  oldLogp: Float32Array.from(s.flatMap((x) => [x - 0.1, x + 0.1])),
})
const { sample } = xrpo()

golden('xrpo', 'the priority of a prompt', (check) => {
  const { std, halfWidth, halfWidthNext, reduction, bonus, priority } = sample.priority([1, 0, 1, 0], 16)
  check.float64([std, halfWidth, halfWidthNext], [0.57735026919, 0.918693115519, 0.716875043606])
  check.float64([reduction, bonus, priority], [0.201818071913, 0.841607590278, 1.04342566219])
  check.float64([sample.studentT(0.95, 3), sample.studentT(0.95, 4)], [3.18244630528, 2.7764451052])
})

golden('xrpo', 'sharpened advantages', (check) => {
  const a = 0.499999000002
  const capped = prepareStep(xrpo(), batchOf([-0.2, -0.5, -0.9, -0.4], [1, 1, 1, 0]))
  check.float32(capped.advantage!, [a, a, 0.749998500003, -1.49999700001])
  const free = prepareStep(xrpo(), batchOf([-0.45, -0.5, -0.6, -0.45], [1, 1, 1, 0]))
  check.float32(free.advantage!, [a, a, 0.737905454912, -1.49999700001])
})

golden('xrpo', 'how likely rollouts are beside the others', (check) => {
  // Without a cap the bonus is 1 - eta; rollouts that are likelier than the mean have none.
  const eta = (s: number[]) => {
    const [sharp, flat] = [1, 0].map((novelty) => prepareStep(xrpo({ novelty, cap: 1e9 }), batchOf(s, [1, 1, 1, 0])))
    return s.map((_, i) => 1 - (sharp!.advantage![i]! - flat!.advantage![i]!))
  }
  check.float32(eta([-0.2, -0.5, -0.9, -0.4])[2]!, 0.670320046036)
  check.float32(eta([-0.45, -0.5, -0.6, -0.45])[2]!, 0.904837418036)
})

golden('xrpo', 'loss and gradient', (check) => {
  const step = optimizationStep(xrpo(), { ...fixture, advantage, rewards: [0, 0] })
  // The mean of the token losses is 1.353 before their signs cancel.
  check.float32(step.loss, 0.11, 1.353 / 0.11)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('xrpo', 'quantiles of Student’s t to 1e-10, beside a computation with 40 digits', () => {
  const table: [p: number, degrees: number, t: number][] = [
    [0.975, 1, 12.7062047361747], [0.975, 2, 4.302652729749464], [0.975, 3, 3.18244630528371],
    [0.975, 4, 2.776445105197794], [0.95, 5, 2.015048373333024], [0.995, 7, 3.499483297350494],
    [0.9, 10, 1.372183641110336], [0.975, 30, 2.042272456301238], [0.9995, 2, 31.59905457644362],
    [0.975, 1000, 1.962339080826408], [0.6, 1, 0.3249196962329063], [0.999, 101, 3.17289266574057],
  ] // biome-ignore format: a table
  for (const [p, degrees, t] of table) {
    expect(Math.abs(sample.studentT(2 * p - 1, degrees) / t - 1), `${p}, ${degrees}`).toBeLessThan(1e-10)
  }
  expect(sample.studentT(0, 5)).toBeLessThan(1e-300)
})

edge('xrpo', 'equal rewards, and fewer than two, have no interval: only the bonus is left', () => {
  for (const rewards of [[1, 1, 1], [0], [0.1, 0.1]]) {
    const { reduction, bonus, priority } = sample.priority(rewards, 10)
    expect([reduction, priority]).toEqual([0, bonus])
    expect(bonus).toBeCloseTo(Math.sqrt(Math.log(11) / rewards.length), 12)
  }
  expect(sample.priority([], 10).priority).toBe(Infinity)
})

edge('xrpo', 'the budget goes to the highest priorities, one rollout after the other', () => {
  const rewards = [
    [1, 1, 1, 1],
    [1, 0, 1, 0],
    [0, 0],
  ]
  const more = sample.allocate(rewards, 9)
  expect(more.reduce((a, b) => a + b)).toBe(9)
  // No rollout would have been worth more elsewhere.
  const at = (q: number, n: number) => sample.priority(rewards[q]!, 19, rewards[q]!.length + n).priority
  for (const q of [0, 1, 2]) {
    for (const other of [0, 1, 2])
      if (more[other]! > 0) expect(at(q, more[q]!)).toBeLessThanOrEqual(at(other, more[other]! - 1))
  }
  expect(sample.allocate([[], [], []], 7)).toEqual([3, 2, 2])
  expect(xrpo({ explore: 0 }).sample.allocate([[1, 1], [], [0, 0]], 4)).toEqual([1, 3, 0])
  expect(sample.allocate([], 7)).toEqual([])
})

edge('xrpo', 'prompts without success get exemplars', () => {
  expect(sample.seeded([[0, 0], [0, 1], [], [0]])).toEqual([0, 3])
  const batch = { ...batchOf([-1, -1, -1, -1], [0, 0, 1, 0]), groupStart: [0, 2, 4], rolloutMask: [1, 1, 0, 1] }
  const { seeded, priority } = prepareStep(xrpo(), batch).sample
  expect(seeded).toEqual([0, 1])
  expect(priority![0]).toBeCloseTo(Math.sqrt(Math.log(4) / 2), 12)
  expect(priority![1]).toBeCloseTo(Math.sqrt(Math.log(4)), 12)
})

edge('xrpo', 'only correct rollouts with an advantage above 0 are sharpened', () => {
  const plain = (rewards: number[]) => Array.from(prepareStep(xrpo({ novelty: 0 }), batchOf([-3, -1, -1], rewards)).advantage!) // biome-ignore format: short
  const sharp = (rewards: number[]) => Array.from(prepareStep(xrpo(), batchOf([-3, -1, -1], rewards)).advantage!)
  expect(sharp([0.9, 0, 0])).toEqual(plain([0.9, 0, 0]))
  expect(sharp([1, 2, 2])).toEqual(plain([1, 2, 2]))
  expect(sharp([1, 1, 1])).toEqual([0, 0, 0])
  expect(sharp([1, 0, 0])[0]).toBe(1.5 * plain([1, 0, 0])[0]!)
})

edge('xrpo', 'the mean over correct rollouts, without rejected ones and those without tokens', () => {
  const given = batchOf([-1.25, -1.75, -4, -8], [1, 1, 0, 1])
  const bonusOf = (options: object, more: object) => {
    const [sharp, flat] = [1, 0].map((novelty) =>
      prepareStep(xrpo({ cap: 9, ...options, novelty }), { ...given, ...more }),
    )
    return sharp!.advantage![1]! - flat!.advantage![1]!
  }
  const expected = 1 - Math.exp(-0.25)
  expect(bonusOf({ over: 'correct' }, { rolloutMask: [1, 1, 1, 0] })).toBeCloseTo(expected, 6)
  expect(bonusOf({}, { rolloutMask: [1, 1, 1, 0] })).toBe(0)
  expect(bonusOf({ over: 'correct' }, { mask: [1, 1, 1, 1, 1, 1, 0, 0] })).toBeCloseTo(expected, 6)
})

edge('xrpo', 'a group of one, and ragged groups', () => {
  const given = { ...batchOf([-1, -2, -1, -3], [1, 1, 0, 1]), groupStart: [0, 1, 1, 4] }
  const [one, ...rest] = Array.from(prepareStep(xrpo(), given).advantage!)
  expect(one).toBe(0)
  expect(rest[2]).toBeGreaterThan(rest[0]!)
})

edge('xrpo', 'everything masked', () => learnsNothing(xrpo(), { rewards: [0, 1] }))
edge('xrpo', 'a missing column', () => {
  const { oldLogp, ...rest } = batchOf([-1], [1])
  expect(() => prepareStep(xrpo(), rest)).toThrow('xrpo: oldLogp is missing from the batch, expected f32[T]')
})

edge('xrpo', 'a batch with advantages of its own and without rewards plans nothing', () => {
  const { rewards, ...rest } = batchOf([-1, -2], [0, 0])
  expect(prepareStep(xrpo(), { ...rest, advantage: [1, -1] }).sample).toEqual({})
})

edge('xrpo', 'a confidence that is no probability is refused', () => {
  expect(() => xrpo({ confidence: -1 })).toThrow('xrpo: confidence is -1, expected a finite number >= 0 < 1')
})
