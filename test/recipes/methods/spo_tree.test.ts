import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { spoTree } from '../../../lib/recipes/methods/spo_tree.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

// Three edges at the prompt, each with three leaves.
const parent = [-1, 0, 0, 0, -1, 4, 4, 4, -1, 8, 8, 8]
const rewards = [9, 1, 0, 1, 9, 0, 0, 0, 9, 1, 1, 1]
const tokens = {
  oldLogp: new Float32Array(12).fill(-1),
  sequenceStart: Array.from({ length: 13 }, (_, i) => i),
}
const example = { parent, rewards, groupStart: [0, 12], ...tokens }
const raw = (options: Parameters<typeof spoTree>[0] = {}, batch: object = {}) =>
  prepareStep(spoTree({ whiten: false, ...options }), { ...example, ...batch })
const inner = [0, 4, 8]

golden('spoTree', 'values of the nodes', (check) => {
  const prepared = raw()
  const root = (i: number) => prepared.rewards![i]! - prepared.advantage![i]!
  check.float64(inner.map((i) => prepared.rewards![i]!), [2 / 3, 0, 1]) // biome-ignore format: short
  check.float32(inner.map(root), Array(3).fill(0.555555555556))
})

golden('spoTree', 'advantages of edges', (check) => {
  const { advantage } = raw()
  const grpo = raw({ scale: 'children_std' }).advantage!
  check.float32(inner.map((i) => advantage![i]!), [0.111111111111, -0.555555555556, 0.444444444444]) // biome-ignore format: short
  check.float32(inner.map((i) => grpo[i]!), [0.267261235484, -1.33630617742, 1.06904494194]) // biome-ignore format: short
  check.float32(Array.from(advantage!).slice(1, 4), [1 / 3, -2 / 3, 1 / 3])
})

golden('spoTree', 'loss and gradient', (check) => {
  const step = optimizationStep(spoTree({ klCoef: 0 }), { ...fixture, advantage, parent: [-1, -1] })
  check.float32(step.loss, 0.11, 12) // the tokens' losses are 12 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('spoTree', 'edges without advantage are left out, and out of the whitening', () => {
  const prepared = prepareStep(spoTree(), example)
  expect(Array.from(prepared.rollouts)).toEqual([1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0])
  expect(Array.from(prepared.mask!)).toEqual(Array.from(prepared.rollouts))
  const kept = Array.from(prepared.tokenAdvantage!).filter((_, t) => prepared.mask![t])
  const raws = Array.from(raw().advantage!).filter((_, t) => prepared.mask![t])
  // The advantages of siblings sum to 0: whitening only scales, by the deviation with Bessel's correction.
  const deviation = Math.sqrt(raws.reduce((total, a) => total + a * a, 0) / 5 + 1e-8)
  kept.forEach((a, k) => expect(a).toBeCloseTo(raws[k]! / deviation, 6))
})

edge('spoTree', 'probable tokens do not enter the loss', () => {
  const oldLogp = tokens.oldLogp.map((x, t) => (t === 0 ? -0.01 : x))
  expect(Array.from(raw({}, { oldLogp }).mask!)).toEqual([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0])
})

edge('spoTree', 'an only edge, and equal rewards that have no exact mean, have advantage 0', () => {
  const chain = raw({}, { parent: [-1, 0, 1, 2, ...parent.slice(4)], rewards: Array(12).fill(0.1) })
  expect(Array.from(chain.advantage!)).toEqual(Array(12).fill(0))
  const zero = optimizationStep(spoTree({ klCoef: 0 }), {
    ...example,
    rewards: Array(12).fill(1),
    logp: tokens.oldLogp,
  })
  expect(zero.loss).toBe(0)
})

edge('spoTree', 'an edge whose value is the mean of its siblings is left out, in float64', () => {
  // 0.25 + 0.2 + 0.3 is 0.75; of the same numbers in float32 the first is -5e-9 below their mean.
  const three = { parent: [-1, -1, -1], rewards: [0.25, 0.2, 0.3], groupStart: [0, 3], sequenceStart: [0, 1, 2, 3], oldLogp: new Float32Array(3).fill(-1) } // biome-ignore format: one batch
  for (const scale of ['none', 'children_std'] as const) {
    const { rollouts, advantage } = raw({ scale }, three)
    expect(Array.from(rollouts)).toEqual([0, 1, 1])
    expect(advantage![0]).toBe(0)
  }
  // The same one level up: the values of the first edge's leaves have the mean 0.25.
  const parent = [-1, 0, 0, -1, -1]
  const two = { ...three, parent, rewards: [9, 0.15, 0.35, 0.2, 0.3], groupStart: [0, 5], sequenceStart: [0, 1, 2, 3, 4, 5], oldLogp: new Float32Array(5).fill(-1) } // biome-ignore format: one batch
  expect(Array.from(raw({}, two).rollouts)).toEqual([0, 1, 1, 1, 1])
  const given = prepareStep(spoTree({ whiten: false }), { ...two, advantage: [1, 1, 1, 1, 1] })
  expect(Array.from(given.rollouts)).toEqual([0, 1, 1, 1, 1])
})

edge('spoTree', 'ragged groups, and a leaf beside a node', () => {
  const { advantage } = raw({}, { parent: [-1, 0, 0, -1, -1, -1, 5, -1, -1, 8, 9, 9], groupStart: [0, 4, 5, 12], rewards: [0, 1, 0, 1, 5, 0, 1, 0, 0, 0, 0.25, 0.75] }) // biome-ignore format: trees
  expect(Array.from(advantage!)).toEqual([-0.25, 0.5, -0.5, 0.25, 0, 0.5, 0, -0.5, 0, 0, -0.25, 0.25])
})

edge('spoTree', 'a rejected edge changes no value', () => {
  const { advantage } = raw({}, { rolloutMask: [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1] })
  expect(Array.from(advantage!).slice(0, 4)).toEqual([0, 0.5, -0.5, 0])
})

edge('spoTree', 'replay: edges that are 8 iterations old are discarded, 32 of a question remain', () => {
  const { replay } = spoTree({ maxEdges: 2 }).sample
  expect(replay(['a', 'a', 'a', 'b', 'b'], [5, 2, 3, 0, 1], 9)).toEqual([1, 2])
  expect(replay(['a', 'a', 'a', 'b', 'b'], [5, 2, 3, 0, 1], 8)).toEqual([4, 1, 2])
  expect(spoTree().sample.replay(Array(40).fill('a'), Array(40).fill(0), 7)).toEqual(Array.from({ length: 32 }, (_, i) => i)) // biome-ignore format: short
  expect(spoTree().sample.replay(['a'], [0], 8)).toEqual([])
})

edge('spoTree', 'everything masked', () => learnsNothing(spoTree(), { parent: [-1, -1], rewards: [1, 0] }))

edge('spoTree', 'without parents; with one of another group', () => {
  const { parent: _, ...rest } = example
  expect(() => prepareStep(spoTree(), rest as never)).toThrow('spoTree: parent is missing from the batch, expected integer[N]') // biome-ignore format: short
  expect(() => raw({}, { groupStart: [0, 2, 12] })).toThrow('spoTree: parent has 0 at 2, expected an earlier edge')
})

edge('spoTree', 'the KL is a mean over the edges that are trained on, also those without a loss token', () => {
  // Of the twelve edges six are left out; a seventh has a probable token.
  const given = { ...example, logp: tokens.oldLogp, refLogp: new Float32Array(12).fill(-2) }
  const oldLogp = tokens.oldLogp.map((x, t) => (t === 0 ? -0.01 : x))
  const kl = (batch: object) =>
    optimizationStep(spoTree({ klCoef: 100 }), { ...given, ...batch }).loss -
    optimizationStep(spoTree({ klCoef: 0 }), { ...given, ...batch }).loss
  expect(kl({}) / 100).toBeCloseTo(Math.exp(-1), 5)
  expect(kl({ oldLogp }) / 100).toBeCloseTo((5 / 6) * Math.exp(-1), 5)
  // With advantages of its own the batch leaves out what is rejected.
  const { rewards: _, ...own } = { ...given, advantage: Array(12).fill(1), rolloutMask: Array(12).fill(1).fill(0, 6) }
  const step = (klCoef: number) => optimizationStep(spoTree({ klCoef }), { ...own, rewards: undefined }).loss
  expect((step(100) - step(0)) / 100).toBeCloseTo(Math.exp(-1), 5)
})

edge('spoTree', 'the parts of a batch add up to it, with the totals', () => {
  const whole = { ...example, logp: tokens.oldLogp.map((x, t) => x - t / 20), refLogp: new Float32Array(12).fill(-2) }
  const recipe = spoTree({ klCoef: 0.5 })
  const together = optimizationStep(recipe, whole)
  const steps = [whole.parent.slice(0, 4), whole.parent.slice(4)].map((list, part) => {
    const [begin, end] = part === 0 ? [0, 4] : [4, 12]
    return optimizationStep(recipe, {
      parent: list.map((p) => (p === -1 ? -1 : p - begin)),
      logp: whole.logp.slice(begin, end),
      oldLogp: whole.oldLogp.slice(begin, end),
      refLogp: whole.refLogp.slice(begin, end),
      mask: together.mask!.slice(begin, end),
      tokenAdvantage: together.tokenAdvantage!.slice(begin, end),
      sequenceStart: whole.sequenceStart.slice(0, end - begin + 1),
      groupStart: [0, end - begin],
      totalTokens: 6,
      totalRollouts: 6,
    })
  })
  expect(steps.reduce((total, { loss }) => total + loss, 0)).toBeCloseTo(together.loss, 6)
})
