// What methods and presets refuse by themselves, beyond the kinds and ranges of their options and columns: the class, the
// code and the argument of each error. What its sentence says stands in the tests of the method.
import { expect, test } from 'vitest'
import { makeOf, recipeOf } from '../../examples/recipes/describe.js'
import { columns, exampleBatch } from '../../examples/recipes/example_batch.js'
import { type AnyRecipe, optimizationStep } from '../../lib/recipes/index.js'
import { refuses } from '../support/compare.js'

type Bag = Record<string, unknown>
const N = columns.rewards.length
const codes = {
  missing: { code: 'ERR_GRPO_MISSING', error: TypeError },
  shape: { code: 'ERR_GRPO_SHAPE', error: RangeError },
  value: { code: 'ERR_GRPO_VALUE', error: RangeError },
  option: { code: 'ERR_GRPO_OPTION', error: RangeError },
}
type Kind = keyof typeof codes

/** Options that do not go together. */
const options: [name: string, kind: Kind, argument: string, given: Bag][] = [
  ['dapo', 'missing', 'buffer', { maxLength: 4 }],
  ['dapo', 'missing', 'maxLength', { buffer: 4 }],
  ['igpo', 'option', 'hintLow', { hintLow: 0.9, hintHigh: 0.5 }],
  ['igpo', 'option', 'chunkLow', { chunkLow: 9, chunkHigh: 8 }],
  ['knapsack', 'option', 'low', { low: 9, high: 8 }],
  ['knapsack', 'option', 'uniform', { low: 2, high: 8, uniform: 9 }],
  ['knapsack', 'option', 'uniform', { low: 2, high: 8, uniform: 1 }],
  ['riskPo', 'option', 'lower', { lower: 0.9, upper: 0.5 }],
  ['riskPo', 'option', 'eps', { lower: 0.5, upper: 0.5, eps: 0 }],
  ['spo', 'option', 'rhoMin', { rhoMin: 0.99, rhoMax: 0.9 }],
  ['thyme', 'option', 'maxLength', { aggregate: 'constant' }],
  ['verl', 'option', 'droBeta', { lossMode: 'dro' }],
  ['openrlhf', 'option', 'rewardClipLow', { rewardClipLow: 1, rewardClipHigh: 0 }],
  ['liger', 'option', 'maxCompletionLength', { lossType: 'dr_grpo', form: 'class' }],
  ['nemo', 'option', 'correctionMax', { correction: 'tis' }],
]

test.each(options)('%s, %s: %s', (name, kind, argument, given) => {
  refuses(() => makeOf(name)(given), { ...codes[kind], argument })
})

/** Options that go together at the end of their range. */
test.each([
  ['igpo', { hintLow: 0.5, hintHigh: 0.5, chunkLow: 8, chunkHigh: 8 }],
  ['knapsack', { low: 8, high: 8, uniform: 8 }],
  ['riskPo', { lower: 0.5, upper: 0.5 }],
  ['spo', { rhoMin: 0.9, rhoMax: 0.9 }],
  ['openrlhf', { rewardClipLow: 1, rewardClipHigh: 1 }],
])('%s takes the last values that go together', (name, given) => {
  expect(makeOf(name)(given).options).toMatchObject(given)
})

const first = (value: unknown, rest: unknown, length = N) => Array.from({ length }, (_, i) => (i === 0 ? value : rest))
/** In the example it has one token, the first has two. */
const second = (value: unknown, rest: unknown) => Array.from({ length: N }, (_, i) => (i === 1 ? value : rest))

/** Columns in place of those of the example. */
const batches: [name: string, kind: Kind, argument: string, given: Bag, options?: Bag][] = [
  ['adaGrpo', 'value', 'progress', { progress: 1.001 }],
  ['adaGrpo', 'value', 'progress', { progress: -0.001 }],
  [
    'branchGrpo',
    'missing',
    'advantage',
    { tokenAdvantage: new Float32Array(columns.token.length) },
    { width: 'extremes' },
  ],
  ['d3s', 'value', 'progress', { progress: 1.001 }],
  ['d3s', 'value', 'progress', { progress: -0.001 }],
  ['d3s', 'missing', 'progress', { progress: undefined }, { steps: null }],
  ['disco', 'value', 'rewards', { rewards: first(0.5, 1) }],
  ['evolRl', 'shape', 'similarity', { similarity: [[], []] }],
  ['maxRl', 'value', 'rewards', { rewards: first(-0.001, 1) }],
  ['otc', 'value', 'toolCalls', { toolCalls: first(-1, 1) }],
  ['passAtK', 'value', 'groupStart', { groupStart: [0, 1, N] }],
  ['prefGrpo', 'value', 'verdicts', { verdicts: [[[0, 0, 1]], []] }],
  ['prefGrpo', 'shape', 'weights', { weights: Array(9).fill(1) }],
  [
    'regGrpo',
    'value',
    'tokenAdvantage',
    { tokenAdvantage: new Float32Array(columns.token.length), rewards: undefined },
  ],
  ['spo', 'value', 'rewards', { rewards: first(1.001, 1) }],
  ['spo', 'value', 'rewards', { rewards: first(-0.001, 1) }],
  ['spo', 'value', 'drift', { drift: first(-0.001, 1) }],
  ['spoChain', 'shape', 'values', { cutpoints: Array(N).fill([0]), values: Array(N).fill([]) }],
  ['spoChain', 'value', 'cutpoints', { cutpoints: Array(N).fill([-2]), values: Array(N).fill([0]) }],
  ['spoChain', 'value', 'cutpoints', { cutpoints: second([1], []), values: second([0], []) }],
  ['spoChain', 'value', 'cutpoints', { cutpoints: first([0.5], []), values: first([0], []) }],
  ['tempFlow', 'value', 'schedule', { schedule: [0] }],
  ['tempFlow', 'value', 'schedule', { schedule: [Number.POSITIVE_INFINITY] }],
  ['trainingFreeGrpo', 'value', 'operations', { operations: [{ operation: 'MOVE' }] }],
  ['trainingFreeGrpo', 'value', 'rewards', { rewards: first(1.001, 1) }],
  ['trainLong', 'value', 'step', { step: -1 }],
  ['treePo', 'shape', 'path', { path: [[]] }],
  ['treePo', 'shape', 'path', { path: second(7, ['a']) }],
  ['vas', 'missing', 'correctness', { scored: ['a'], correctness: undefined, diversity: undefined }],
  ['vas', 'value', 'correctness', { scored: ['a'], correctness: [1.001], diversity: undefined }],
  ['vas', 'value', 'correctness', { scored: ['a'], correctness: [-0.001], diversity: undefined }],
  ['vas', 'value', 'diversity', { scored: ['a'], correctness: [1], diversity: [-0.001] }],
  ['zoRank', 'value', 'rank', { rank: Array(N).fill(0) }],
]

test.each(batches)('%s, a batch, %s: %s', (name, kind, argument, given, chosen = {}) => {
  const recipe: AnyRecipe = makeOf(name)(chosen)
  const batch = { ...exampleBatch(recipe), ...given }
  refuses(() => optimizationStep(recipe, batch as never), { ...codes[kind], argument })
})

/** What the functions of `sample` refuse. */
const sampled: [name: string, kind: Kind, argument: string, call: (sample: never) => unknown][] = [
  [
    'apo',
    'shape',
    'after',
    (s: { extrapolateProbabilities(x: number[], y: number[]): unknown }) => s.extrapolateProbabilities([1], [0.5, 0.5]),
  ],
  [
    'apo',
    'value',
    'before',
    (s: { extrapolateProbabilities(x: number[], y: number[]): unknown }) =>
      s.extrapolateProbabilities([1, 0], [0.5, 0.5]),
  ],
  ['gvmRaft', 'shape', 'gradientNorm', (s: { allocate(x: number[], y: number[]): unknown }) => s.allocate([1], [1, 1])],
  ['knapsack', 'value', 'rates', (s: { allocate(x: number[], n: number): unknown }) => s.allocate([1.001], 8)],
  ['knapsack', 'value', 'total', (s: { allocate(x: number[], n: number): unknown }) => s.allocate([0.5], 8.5)],
  ['latr', 'shape', 'parent', (s: { prune(x: number[], y: number[], eos: number): unknown }) => s.prune([1], [], 0)],
  ['sGrpo', 'value', 'thought', (s: { exits(n: number, draw: () => number): unknown }) => s.exits(0, () => 0)],
  [
    'spo',
    'value',
    'weights',
    (s: { draw(x: number[], n: number, draw: () => number): unknown }) => s.draw([], 1, () => 0),
  ],
]

test.each(sampled)('%s, a decision, %s: %s', (name, kind, argument, call) => {
  refuses(() => call(recipeOf(name).sample as never), { ...codes[kind], argument })
})
