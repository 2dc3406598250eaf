import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { branchGrpo } from '../../../lib/recipes/methods/branch_grpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

// Two splits: two edges at the root, each with two leaves.
const steps = (n: number) => Array.from({ length: n + 1 }, (_, i) => i)
const example = {
  parent: [-1, 0, 0, -1, 3, 3],
  rewards: [9, 0.1, 0.5, 9, 0.3, 0.9],
  oldLogp: Float32Array.of(-1, -3, -3, -1.2, -3, -3),
  groupStart: [0, 6],
  sequenceStart: steps(6),
}
const inner = [0, 3]
const leaves = [1, 2, 4, 5]
const places = (x: ArrayLike<number>, list: number[]) => list.map((i) => x[i]!)

golden('branchGrpo', 'mean over leaves: values and advantages', (check) => {
  const { rewards, advantage } = prepareStep(branchGrpo({ fusion: 'mean' }), example)
  check.float64(places(rewards!, inner), [0.3, 0.6])
  check.float32(places(advantage!, inner), [-0.707106747853, 0.707106747853])
  check.float32(places(advantage!, leaves), [-1.024695046596, 0.146385006657, -0.43915501997, 1.317465059909])
})

golden('branchGrpo', 'softmax fusion: values and advantages', (check) => {
  // The log-probabilities are those of the edges to the leaves.
  const oldLogp = Float32Array.of(-5, -1, -1.2, -7, -0.9, -1.1)
  const { rewards, advantage } = prepareStep(branchGrpo(), { ...example, oldLogp })
  check.float32(places(rewards!, inner), [0.280066401075, 0.570099601613])
  check.float32(places(advantage!, inner), [-0.707106746708, 0.707106746708])
})

golden('branchGrpo', 'loss and gradient', (check) => {
  const { parent: _, ...own } = example
  const batch = { ...own, ...fixture, rewards: [0, 0], advantage, parent: [-1, -1], groupStart: [0, 2] }
  const step = optimizationStep(branchGrpo({ clipLow: 0.2, clipHigh: 0.2 }), batch)
  // One tree: the sum over its edges of mean losses, divided by the two of them.
  check.float32(step.loss, -0.085, 12)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11])
})

edge('branchGrpo', 'the denominator is the mean number of kept edges of a tree', () => {
  const batch = {
    parent: [-1, 0, 0, -1, -1, -1],
    groupStart: [0, 3, 6],
    sequenceStart: steps(6),
    logp: new Float32Array(6),
    oldLogp: new Float32Array(6),
    advantage: [1, 2, 3, 4, 5, 6],
  }
  const loss = (prunedDepth: number[]) => optimizationStep(branchGrpo(), { ...batch, prunedDepth }).loss
  expect(loss([])).toBe(-21 / 3)
  expect(loss([2])).toBe(-16 / 2)
  expect(loss([1, 2])).toBe(0)
})

edge('branchGrpo', 'edges of one depth in two trees are apart; a depth of one edge has advantage 0', () => {
  const batch = {
    parent: [-1, 0, 0, -1, -1],
    rewards: [0, 1, 0, 1, 0],
    oldLogp: new Float32Array(5),
    groupStart: [0, 3, 5],
    sequenceStart: steps(5),
  }
  const { advantage } = prepareStep(branchGrpo(), batch)
  const a = Math.SQRT1_2
  expect(Array.from(advantage!)).toEqual([0, a, -a, a, -a].map((x) => expect.closeTo(x, 6)))
  expect(advantage![0]).toBe(0)
})

edge('branchGrpo', 'rewards that differ by rounding alone have advantage 0; a single edge too', () => {
  const equal = { ...example, rewards: [9, 0.1, 0.1, 9, 0.1, 0.1 + 1e-7] }
  expect(prepareStep(branchGrpo(), equal).advantage).toEqual(new Float32Array(6))
  const one = { parent: [-1], rewards: [1], oldLogp: Float32Array.of(-1), groupStart: [0, 1], sequenceStart: [0, 1] }
  expect(prepareStep(branchGrpo(), one).advantage).toEqual(new Float32Array(1))
})

edge('branchGrpo', 'advantages lie within 5', () => {
  const N = 40
  const star = {
    parent: Array(N).fill(-1),
    rewards: Array.from({ length: N }, (_, i) => Number(i === 0)),
    oldLogp: new Float32Array(N),
    groupStart: [0, N],
    sequenceStart: steps(N),
  }
  // (1 - 1 / 40) / sqrt(1 / 40) = 6.2
  expect(prepareStep(branchGrpo(), star).advantage![0]).toBe(5)
  const other = { ...star, rewards: star.rewards.map((reward) => 1 - reward) }
  expect(prepareStep(branchGrpo(), other).advantage![0]).toBe(-5)
})

edge('branchGrpo', 'a chain passes values up, a lopsided tree weighs leaves or children', () => {
  const batch = {
    parent: [-1, 0, 1, 1, 0],
    rewards: [0, 0, 1, 1, 0],
    oldLogp: new Float32Array(5),
    groupStart: [0, 5],
    sequenceStart: steps(5),
  }
  expect(prepareStep(branchGrpo({ fusion: 'mean' }), batch).rewards![0]).toBe(2 / 3)
  expect(prepareStep(branchGrpo(), batch).rewards![0]).toBe(1 / 2)
  const chain = prepareStep(branchGrpo(), { ...batch, parent: [-1, 0, 1, 2, 3], rewards: [0, 0, 0, 0, 7] })
  expect(Array.from(chain.rewards!)).toEqual([7, 7, 7, 7, 7])
})

edge('branchGrpo', 'the log-probability of an edge is the mean over its steps', () => {
  const batch = {
    parent: [-1, 0, 0],
    rewards: [0, 1, 0],
    oldLogp: Float32Array.of(0, -1, -3, -9, -2),
    mask: [1, 1, 1, 0, 1],
    groupStart: [0, 3],
    sequenceStart: [0, 1, 4, 5],
  }
  expect(prepareStep(branchGrpo(), batch).rewards![0]).toBe(0.5)
})

// Two splits, then a chain of one edge each: four leaves at depth 3.
const deep = {
  parent: [-1, -1, 0, 0, 1, 1, 2, 3, 4, 5],
  advantage: [0, 0, 0, 0, 0, 0, 3, 1, -2, 0.5],
  groupStart: [0, 10],
  sequenceStart: steps(10),
}
const kept = (options: Parameters<typeof branchGrpo>[0], batch: object = {}) =>
  Array.from(prepareStep(branchGrpo(options), { ...deep, ...batch }).rollouts)

edge('branchGrpo', 'width pruning acts on the last depth alone', () => {
  expect(kept({})).toEqual(Array(10).fill(1))
  expect(kept({ width: 'branch' })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 0, 1])
  expect(kept({ width: 'extremes' })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
  // Of three the odd one is one of the worst.
  expect(kept({ width: 'extremes', widthRatio: 0.75 })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 1, 1])
  expect(kept({ width: 'branch', widthRatio: 0 })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 0, 1])
  expect(kept({ width: 'extremes', widthRatio: 0 })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
})

edge('branchGrpo', 'width pruning of empty groups; a rejected edge takes no place and is not kept', () => {
  expect(kept({ width: 'extremes' }, { groupStart: [0, 0, 10, 10] })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
  const rolloutMask = [1, 1, 1, 1, 1, 1, 0, 1, 1, 1]
  expect(kept({ width: 'branch' }, { rolloutMask })).toEqual([1, 1, 1, 1, 1, 1, 0, 1, 0, 1])
  // Eight edges are kept, six above and two leaves, with advantages 1 and 0.5; the rejected one is in no denominator.
  const logp = new Float32Array(10)
  const step = optimizationStep(branchGrpo({ width: 'branch' }), { ...deep, rolloutMask, logp, oldLogp: logp })
  expect(step.loss).toBe(-1.5 / 8)
})

edge(
  'branchGrpo',
  'width chain and batch: the edges behind the last split alone, as the released code has them',
  () => {
    // The last edges are those of a split: nothing lies behind it.
    const split = {
      ...example,
      parent: [-1, -1, 0, 0, 1, 1],
      rewards: [9, 9, 0, 1, 2, 3],
      oldLogp: new Float32Array(6),
    }
    const of = (options: Parameters<typeof branchGrpo>[0]) =>
      Array.from(prepareStep(branchGrpo(options), split).rollouts)
    expect(of({ width: 'chain' })).toEqual(Array(6).fill(1))
    expect(of({ width: 'batch' })).toEqual(Array(6).fill(1))
    expect(of({ width: 'branch' })).toEqual([1, 1, 0, 1, 0, 1])
    // One edge behind each branch: each branch keeps its only one, the batch the best and the worst of four.
    expect(kept({ width: 'chain' })).toEqual(Array(10).fill(1))
    expect(kept({ width: 'batch' })).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
  },
)

// Two trees: a split and chains of three and two edges behind it; a split below the only root edge, and a chain behind.
const chains = {
  parent: [-1, -1, 0, 2, 3, 1, 5, -1, 7, 7, 8],
  //          split   chain of 0   of 1      split  of 8
  advantage: [0, 0, 2, -1, 3, -4, 1, 0, 0, 0, 5],
  groupStart: [0, 7, 11],
  sequenceStart: steps(11),
}

edge('branchGrpo', 'width chain ranks within each branch, batch over all trees', () => {
  const rollouts = (options: Parameters<typeof branchGrpo>[0], more: object = {}) =>
    Array.from(prepareStep(branchGrpo(options), { ...chains, ...more }).rollouts)
  // floor(3 / 2) and floor(2 / 2) of the first tree's branches, the only one of the other's.
  expect(rollouts({ width: 'chain' })).toEqual([1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1])
  expect(rollouts({ width: 'chain', widthRatio: 0.7 })).toEqual([1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1])
  // Three of six: the best one and the worst two.
  expect(rollouts({ width: 'batch' })).toEqual([1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1])
  expect(rollouts({ width: 'batch', widthRatio: 1 })).toEqual(Array(11).fill(1))
  expect(rollouts({ width: 'batch', widthRatio: 0 })).toEqual([1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1])
  // What depth pruning took is not ranked any more: of 3, -4, 1 and 5 remain 3 and 5 or, in the batch, -4 and 5.
  const prunedDepth = [2]
  expect(rollouts({ width: 'chain' }, { prunedDepth })).toEqual([1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1])
  expect(rollouts({ width: 'batch' }, { prunedDepth })).toEqual([1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1])
  // Equal advantages: the best is the first, the worst the last.
  const equal = { advantage: Array(11).fill(0.5) }
  expect(rollouts({ width: 'batch', widthRatio: 0 }, equal)).toEqual([1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1])
  // A rejected edge is not ranked, but the split above stays one.
  const rolloutMask = [1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1]
  expect(rollouts({ width: 'chain' }, { rolloutMask })).toEqual([1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1])
})

edge('branchGrpo', 'depth pruning, and a window that moves to the last split', () => {
  expect(kept({}, { prunedDepth: [1, 3] })).toEqual([0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
  const { prunedDepths } = branchGrpo().sample
  expect(prunedDepths([8, 9], 29, 6)).toEqual([8, 9])
  expect(prunedDepths([8, 9], 30, 6)).toEqual([7, 8])
  expect(prunedDepths([8, 9], 1000, 6)).toEqual([6, 7])
  expect(prunedDepths([4, 5], 60, 6)).toEqual([4, 5])
  expect(prunedDepths([], 60, 6)).toEqual([])
})

edge('branchGrpo', 'advantages are normalised before pruning', () => {
  const pruned = prepareStep(branchGrpo({ width: 'extremes' }), example)
  expect(pruned.advantage).toEqual(prepareStep(branchGrpo(), example).advantage)
})

edge('branchGrpo', 'everything masked', () => learnsNothing(branchGrpo(), { parent: [-1, -1], rewards: [1, 0] }))

edge('branchGrpo', 'without parents; width pruning with advantages of tokens', () => {
  const { parent: _, ...rest } = example
  expect(() => prepareStep(branchGrpo(), rest as never)).toThrow('branchGrpo: parent is missing from the batch')
  const tokens = { advantage: undefined, tokenAdvantage: new Float32Array(10) }
  expect(() => kept({ width: 'branch' }, tokens)).toThrow(
    'branchGrpo: advantage of edges is missing, but width pruning',
  )
})
