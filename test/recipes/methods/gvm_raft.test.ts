import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gvmRaft } from '../../../lib/recipes/methods/gvm_raft.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const G = [4, 2, 3, 1, 5]
const p = [1, 0.5, 0.25, 0.125, 0]
const total = (x: ArrayLike<number>) => Array.from(x).reduce((sum, value) => sum + value, 0)

golden('gvmRaft', 'the allocation', (check) => {
  const { weight, share, count } = gvmRaft({ budget: 40 }).sample.allocate(G, p)
  check.float64(weight, [3.9980014988, 2.8227871847, 5.952568426, 2.7420424855, 0])
  check.float64(share, [0.2576795702, 0.1819345462, 0.3836555024, 0.1767303812, 0])
  check.float64(count, [10, 7, 16, 7, 0])
})

edge('gvmRaft', 'counts add up to the budget, and are within one of their share', () => {
  const r = random(1)
  for (let i = 0; i < 200; i++) {
    const n = 1 + r.integer(20)
    const recipe = gvmRaft({ budget: r.integer(100) })
    const acceptance = Array.from({ length: n }, () => (1 + r.integer(8)) / 8)
    const { share, count } = recipe.sample.allocate(r.uniforms(n, 0.1, 3), acceptance)
    const budget = Math.min(recipe.options.budget, 8 * n)
    expect(total(count)).toBe(budget)
    expect(Array.from(count).every((c, k) => c >= 0 && Math.abs(c - share[k]! * budget) <= 1)).toBe(true)
  }
})

edge('gvmRaft', 'among equal remainders the first prompts get more, or less', () => {
  const three = (budget: number) => Array.from(gvmRaft({ budget }).sample.allocate([1, 1, 1], [0.5, 0.5, 0.5]).count)
  expect([three(4), three(5), three(6)]).toEqual([
    [2, 1, 1],
    [1, 2, 2],
    [2, 2, 2],
  ])
})

edge('gvmRaft', 'a budget above samples per prompt is cut; ties are rounded to even', () => {
  expect(total(gvmRaft().sample.allocate(G, p).count)).toBe(40)
  // 2.5 and 2.5: both to 2, then the first gets the one that is missing.
  expect(Array.from(gvmRaft({ budget: 5 }).sample.allocate([1, 1], [1, 1]).count)).toEqual([3, 2])
})

edge('gvmRaft', 'the filters of easy prompts and of those with too few accepted samples', () => {
  const easy = gvmRaft({ budget: 40, filterThreshold: 0.5 }).sample.allocate(G, p)
  // 40 q is 9.80, 20.67, 9.52: rounded one too many, and the last one has been moved furthest.
  expect(Array.from(easy.count)).toEqual([0, 10, 21, 9, 0])
  expect(total(easy.share)).toBeCloseTo(1, 15)
  // p q n is 10.3, 3.6, 3.8, 0.9
  const few = gvmRaft({ budget: 40, filterInsufficient: 3.7 }).sample.allocate(G, p)
  expect(Array.from(few.count, (x) => x > 0)).toEqual([true, false, true, false, false])
})

edge('gvmRaft', 'without any accepted sample nothing is allocated', () => {
  const { share, count } = gvmRaft().sample.allocate([0, 1], [0.5, 0])
  expect([Array.from(share), Array.from(count)]).toEqual([[0, 0], [0, 0]]) // biome-ignore format: short
  expect(Array.from(gvmRaft().sample.allocate([], []).count)).toEqual([])
})

edge('gvmRaft', 'the estimates of the first stage', () => {
  const { gradientNorm, acceptance } = gvmRaft().sample.estimate([[1, 3], [], [2, 2, 5, 7]])
  expect([Array.from(gradientNorm), Array.from(acceptance)]).toEqual([[2, 0, 4], [0.25, 0, 0.5]]) // biome-ignore format: short
})

edge('gvmRaft', 'the allocation of the next stage is what to sample next', () => {
  const batch = { rewards: [1, 0, 1], groupStart: [0, 2, 3] }
  const { sample } = prepareStep(gvmRaft({ budget: 4 }), { ...batch, gradientNorm: [1, 1], acceptance: [1, 1] })
  expect(Array.from(sample!.count)).toEqual([2, 2])
  expect(prepareStep(gvmRaft(), batch).sample).toBeUndefined()
})

edge('gvmRaft', 'RAFT trains on what was accepted, GRPO within ragged groups', () => {
  const batch = { rewards: [1, 0, 0.5, -1, 1], groupStart: [0, 3, 5], rolloutMask: [1, 1, 1, 1, 0] }
  expect(Array.from(prepareStep(gvmRaft(), batch).advantage!)).toEqual([1, 0, 0.5, 0, 0])
  const { advantage } = prepareStep(gvmRaft({ estimator: 'grpo' }), {
    rewards: [1, 0, 0.5, 1, 1, 2],
    groupStart: [0, 3, 5, 6],
  })
  expect(Array.from(advantage!, (x) => Math.round(x * 1000))).toEqual([1000, -1000, 0, 0, 0, 0])
})

edge('gvmRaft', 'a group of one: 0, or as in verl its reward', () => {
  const one = (singleton: 'zero' | 'raw') =>
    prepareStep(gvmRaft({ estimator: 'grpo', singleton }), { rewards: [2], groupStart: [0, 1] }).advantage![0]
  expect([one('zero'), one('raw')]).toEqual([0, Math.fround(2 / (1 + 1e-6))])
})

edge('gvmRaft', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(gvmRaft(), { ...fixture, rewards: [1, 1], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('gvmRaft', 'a missing column and one of another size', () => {
  expect(() => gvmRaft().sample.allocate([1], [1, 1])).toThrow('gvmRaft: gradientNorm has 1 values, expected 2')
  expect(() => prepareStep(gvmRaft(), { groupStart: [0, 1] })).toThrow('gvmRaft: rewards is missing from the batch')
  expect(() => prepareStep(gvmRaft(), { rewards: [1], groupStart: [0, 1], acceptance: [1, 1] })).toThrow(
    'gvmRaft: acceptance has 2 values, expected 1 (G = 1 from groupStart)',
  )
})
