import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { editDistance, latr } from '../../../lib/recipes/methods/latr.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const range = (n: number, first = 0) => Array.from({ length: n }, (_, i) => first + i)
const math = latr({ maxBranch: 3 }).sample
const countdown = latr({ task: 'countdown' }).sample
const eos = -1

golden('latr', 'the second candidate branches, the third does not', (check) => {
  const ranks = math.branch([[0.5, 0.3, 0.16]], 8).map(({ rank }) => rank)
  check.float64(ranks, [0, 1])
})

edge('latr', 'both thresholds are strict', () => {
  const ranks = (p: number[]) => math.branch([p], 8).length
  expect([ranks([0.375, 0.15, 0]), ranks([0.375, 0.151, 0])]).toEqual([1, 2])
  expect([ranks([0.5, 0.25, 0]), ranks([0.5, 0.2501, 0])]).toEqual([1, 2])
})

edge('latr', 'candidates fill the room by rank, then by branch; branches that go on always have theirs', () => {
  const open = [0.4, 0.35, 0.2]
  const rows = (room: number) => math.branch([open, null, open], room).map(({ rank, row }) => [rank, row])
  expect(rows(8)).toEqual([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 2]]) // biome-ignore format: a table
  expect(rows(4)).toEqual([[0, 0], [0, 1], [0, 2], [1, 0]]) // biome-ignore format: a table
  expect(rows(1)).toEqual([[0, 0], [0, 1], [0, 2]]) // biome-ignore format: a table
})

edge('latr', 'the edit distance, against its definition', () => {
  const slow = (a: string, b: string): number => {
    if (a === '' || b === '') return a.length + b.length
    const rest = slow(a.slice(1), b.slice(1))
    if (a[0] === b[0]) return rest
    return 1 + Math.min(rest, slow(a.slice(1), b), slow(a, b.slice(1)))
  }
  const r = random(1)
  const word = () => Array.from({ length: r.integer(6) }, () => 'abc'[r.integer(3)]).join('')
  for (let i = 0; i < 200; i++) {
    const [a, b] = [word(), word()]
    expect(editDistance(a, b), `${a} ${b}`).toBe(slow(a, b))
  }
})

edge('latr', 'countdown: dropped below an edit distance of 0.4 of the age, at the three ages alone', () => {
  for (const age of [20, 30, 50]) {
    const parent = range(age)
    const changed = (n: number) => parent.map((x, i) => (i < n ? x + 1000 : x))
    const least = 0.4 * age
    expect([changed(least), changed(least - 1)].map((child) => countdown.prune(child, parent, eos))).toEqual([
      false,
      true,
    ])
  }
  expect(countdown.prune(range(21), range(21), eos)).toBe(false)
})

edge('latr', 'countdown: a distance of 0 drops nothing', () => {
  const parent = range(20)
  const child = parent.map((x, i) => (i < 17 ? x : x + 1000))
  const drops = (options: object) => latr({ task: 'countdown', ...options }).sample.prune(child, parent, -1)
  expect([drops({}), drops({ editBelow: 0 })]).toEqual([true, false])
})

edge('latr', 'math: dropped above a suffix match of 0.2, wherever the other has it', () => {
  const only = latr({ rougeAbove: 1 }).sample
  const parent = range(20)
  // The last n tokens of the child are tokens 3 to n + 2 of the parent.
  const child = (n: number) => [...range(20 - n, 100), ...range(n, 3)]
  expect([4, 5].map((n) => only.prune(child(n), parent, eos))).toEqual([false, true])
  expect([4, 5].map((n) => only.prune(parent, child(n), eos))).toEqual([false, true])
})

edge('latr', 'math: dropped above a ROUGE-L of 0.5', () => {
  const only = latr({ suffixAbove: 1 }).sample
  const parent = range(20)
  const child = (n: number) => range(20).map((i) => (i % 2 === 0 || i < 2 * (n - 10) ? i : 100 + i)) // n in order
  expect([10, 11].map((n) => only.prune(child(n), parent, eos))).toEqual([false, true])
})

edge('latr', 'pairs that have ended, or part at a mathematical symbol, are kept', () => {
  const parent = range(20)
  expect(countdown.prune(parent, parent, eos)).toBe(true)
  expect(countdown.prune(parent, parent, 19)).toBe(false)
  expect([' + ', '12', '', 'x'].map((text) => countdown.prune(parent, parent, eos, text))).toEqual([
    false,
    false,
    false,
    true,
  ])
  expect(() => countdown.prune(parent, range(3), eos)).toThrow('latr: parent has 3 tokens, expected 20 as child')
})

edge('latr', 'descendants go with a branch that is dropped', () => {
  expect(math.withDescendants([1], [null, 0, 0, 1, 2, 3])).toEqual([1, 3, 5])
  expect(math.withDescendants([5, 1], [null, 0, 0, 1, 2, 2])).toEqual([1, 3, 5])
  expect(math.withDescendants([], [null, 0])).toEqual([])
})

edge('latr', 'the tree ends when it is full and old enough, or at the last step', () => {
  const stop = (step: number, branches: number[], birth = 0) => math.stop(step, 1000, 8, branches, [0, birth])
  // 0.98 - 0.05 / 10 at step 100: 15.6 of 16 branches.
  expect([stop(100, [8, 8]), stop(100, [8, 7]), stop(100, [8, 8], 50), stop(101, [8, 8], 50)]).toEqual([true, false, false, true]) // biome-ignore format: a table
  // 0.93 of the branches at the end: round(14.88)
  expect([stop(1000, [8, 6]), stop(1000, [8, 7])]).toEqual([false, true])
  expect([stop(1022, [1, 1]), stop(1023, [1, 1], 1023)]).toEqual([false, true])
  expect([countdown.stop(510, 1000, 8, [1], [0]), countdown.stop(511, 1000, 8, [1], [0])]).toEqual([false, true])
})

edge('latr', 'places that stay empty get the first row again', () => {
  expect([math.fill([4, 6], 4), math.fill([4, 6], 2)]).toEqual([[4, 6, 4, 4], [4, 6]]) // biome-ignore format: a table
})

edge('latr', 'the schedules of the share of tree rollouts, and their number', () => {
  expect([1, 99, 100, 200, 299, 300, 5000].map(math.mixRatio)).toEqual([1, 1, 0.75, 0.5, 0.5, 0.25, 0.25])
  expect([1, 10, 20, 80, 199, 200].map(countdown.mixRatio)).toEqual([1, 0.75, 0.5, 0.25, 0.25, 0])
  // 0.5 of 5 and of 7: ties to even.
  expect([8, 5, 7].map((size) => math.treeRollouts(200, size))).toEqual([4, 2, 4])
})

edge('latr', 'the state counts steps, and gives the share of the next one', () => {
  const recipe = latr({ task: 'countdown' })
  const batch = { rewards: [1, 0], groupStart: [0, 2] }
  let state = prepareStep(recipe, batch).state!
  for (let step = 1; step < 9; step++) state = prepareStep(recipe, batch, state).state!
  expect(state.data).toEqual({ step: 9 })
  const restored = fromJSON(recipe, toJSON(state))
  expect(prepareStep(recipe, batch, restored).sample).toEqual({ step: 11, mixRatio: 0.75 })
  expect(prepareStep(recipe, batch).sample).toEqual({ step: 2, mixRatio: 1 })
})

edge('latr', 'advantages are GRPO’s: 0 for a group of one and for equal rewards; ragged groups', () => {
  const { advantage } = prepareStep(latr(), { rewards: [2, 1, 1, 1, 3, 0], groupStart: [0, 1, 4, 6] })
  expect(Array.from(advantage!, (x) => Math.round(x * 1e4))).toEqual([0, 0, 0, 0, 7071, -7071])
})

edge('latr', 'a pair that parts at white space is kept, as in the code', () => {
  const tokens = Array<number>(20).fill(7)
  const prune = (parentText: string) =>
    latr().sample.prune([1, ...tokens.slice(1)], [2, ...tokens.slice(1)], 0, parentText)
  expect(['so', ' \n', '', '+', ' ='].map(prune)).toEqual([true, false, false, false, false])
})

edge('latr', 'everything masked: loss 0; missing columns', () => {
  const step = optimizationStep(latr(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  const { refLogp, ...without } = fixture
  expect(() => optimizationStep(latr(), { ...without, rewards: [1, 0] })).toThrow(
    'latr: refLogp is missing from the batch, expected f32[T]: log-probabilities under the reference policy, as klCoef is 0.01',
  )
  expect(() => prepareStep(latr(), { rewards: [1, 0] })).toThrow('latr: groupStart is missing from the batch')
})
