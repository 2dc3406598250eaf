import { expect } from 'vitest'
import { fromJSON, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { knapsack } from '../../../lib/recipes/methods/knapsack.js'
import { random } from '../../support/random.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const { value } = knapsack().sample
const worth = (counts: number[], p: number[]) => counts.reduce((sum, n, q) => sum + value(n, p[q]!), 0)
const p = [0.05, 0.3, 0.9, 1]

golden('knapsack', 'value of rollouts', (check) => {
  check.float64([value(8, 0.3), value(2, 0.5), value(16, 0.05)], [0.13851609785999996, 0.0625, 0.02526428407708909])
  check.float64(value(8, 0.05) / (0.05 * 0.95 ** 2), 0.3365795686718752)
})

golden('knapsack', 'the allocation', (check) => {
  const counts = knapsack({ high: 12 }).sample.allocate(p, 16)
  check.float64(counts, [3, 9, 2, 2])
  check.float64(worth(counts, p), 0.14911543887)
  check.float64(worth([4, 4, 4, 4], p), 0.12197892343749998)
})

edge('knapsack', 'the allocation is as good as the best of all', () => {
  const { integer, uniform } = random(31)
  for (let run = 0; run < 60; run++) {
    const rates = Array.from({ length: 4 }, () => [0, 1, 0.5, uniform(), integer(9) / 8][integer(5)]!)
    const [low, high] = [1 + integer(2), 3 + integer(5)]
    const total = 4 * low + integer(4 * (high - low) + 1)
    const counts = knapsack({ low, high, uniform: high }).sample.allocate(rates, total)
    expect(counts.reduce((a, b) => a + b)).toBe(total)
    expect(counts.every((n) => n >= low && n <= high)).toBe(true)
    let best = 0
    for (let a = low; a <= high; a++)
      for (let b = low; b <= high; b++)
        for (let c = low; c <= high; c++) {
          const d = total - a - b - c
          if (d >= low && d <= high) best = Math.max(best, worth([a, b, c, d], rates))
        }
    expect(worth(counts, rates)).toBeGreaterThanOrEqual(best - 1e-15)
  }
})

edge('knapsack', 'value is concave: its gains are those of the second difference', () => {
  for (const rate of [0.05, 0.5, 0.9]) {
    for (let n = 1; n < 30; n++) {
      const second = value(n + 1, rate) - 2 * value(n, rate) + value(n - 1, rate)
      const formula = -(
        (rate ** (n - 1) * (1 - rate) ** 2 + (1 - rate) ** (n - 1) * rate ** 2) *
        rate *
        (1 - rate) ** 2
      )
      expect(second).toBeCloseTo(formula, 15)
    }
  }
})

edge('knapsack', 'what no prompt gains from goes to prompts without success, then to those without failure', () => {
  const { allocate } = knapsack({ low: 1, high: 4, uniform: 4 }).sample
  expect(allocate([0, 0.5, 1, 0], 8)).toEqual([2, 4, 1, 1])
  expect(allocate([0, 0.5, 1, 0], 15)).toEqual([4, 4, 3, 4])
  expect(allocate([0, 1], 3)).toEqual([2, 1])
  expect(allocate([1, 1], 5)).toEqual([3, 2])
  expect(allocate([], 0)).toEqual([])
})

edge('knapsack', 'a budget that cannot be kept, and a rate that is none', () => {
  const { allocate } = knapsack().sample
  expect(() => allocate([0.5, 0.5], 3)).toThrow('knapsack: total is 3, expected a whole number, 4 to 256')
  expect(() => allocate([0.5, 0.5], 257)).toThrow('knapsack: total is 257')
  for (const wrong of [1.5, -0.5, Number.NaN]) {
    expect(() => allocate([0.5, wrong], 8)).toThrow(`knapsack: rates has ${wrong} at 1, expected a share, 0 to 1`)
  }
})

edge('knapsack', 'success rates are those of the last visit; a prompt that is new gets the uniform share', () => {
  const recipe = knapsack({ high: 12, uniform: 4 })
  const batch = { rewards: [1, 0, 0, 1, 0.5, 1, 1, 1], groupStart: [0, 4, 6, 8], prompt: ['a', 'b', 3] }
  const prepared = prepareStep(recipe, { ...batch, rolloutMask: [1, 0, 1, 1, 1, 1, 1, 1] })
  expect(prepared.state!.data.prompts).toEqual({ a: 2 / 3, b: 0.5, 3: 1 })
  expect(prepared.sample).toEqual(recipe.sample.allocate([2 / 3, 0.5, 1], 12))
  const { data } = fromJSON(recipe, toJSON(prepared.state!))
  const [a, fresh, c] = recipe.sample.rollouts(data, ['a', 'new', 3])
  expect(fresh).toBe(4)
  expect([a, c]).toEqual(recipe.sample.allocate([2 / 3, 1], 8))
  const later = prepareStep(recipe, { rewards: [0], groupStart: [0, 1], prompt: ['a'] }, prepared.state)
  expect(later.state!.data.prompts).toEqual({ a: 0, b: 0.5, 3: 1 })
  expect(prepared.state!.data.prompts.a).toBe(2 / 3)
})

edge('knapsack', 'a group whose rollouts are all rejected, or that is empty, tells nothing', () => {
  const batch = { rewards: [1, 1], groupStart: [0, 1, 1, 2], prompt: ['a', 'b', 'c'], rolloutMask: [0, 1] }
  const prepared = prepareStep(knapsack(), batch)
  expect(prepared.state!.data.prompts).toEqual({ c: 1 })
  expect(prepared.sample).toEqual([8, 8, 8])
})

edge('knapsack', 'everything masked', () => learnsNothing(knapsack(), { rewards: [0, 1], prompt: ['a', 'b'] }))
edge('knapsack', 'a missing column', () => {
  expect(() => prepareStep(knapsack(), { rewards: [1], groupStart: [0, 1] } as never)).toThrow(
    'knapsack: prompt is missing from the batch, expected id[G]',
  )
})

edge(
  'knapsack',
  'the whole budget is handed out where gains underflow, before anything goes where there is no gain',
  () => {
    const { allocate } = knapsack({ low: 1, high: 3000 }).sample
    expect(allocate([0.5], 2500)).toEqual([2500])
    expect(allocate([0.5, 0], 4000)).toEqual([3000, 1000])
    expect(allocate([0.5, 0.5], 5001)).toEqual([2501, 2500])
    expect(allocate([1e-320, 1], 3500)).toEqual([3000, 500])
  },
)

edge('knapsack', 'a bound far above every budget costs nothing', () => {
  for (const solver of ['exact', 'code'] as const) {
    const counts = knapsack({ solver }).sample.allocate([0.5, 0.25], 10)
    expect(knapsack({ high: 1e9, solver }).sample.allocate([0.5, 0.25], 10)).toEqual(counts)
  }
})

edge('knapsack', 'options that do not fit are refused when the recipe is made', () => {
  const refused = (options: Parameters<typeof knapsack>[0], text: string) =>
    expect(() => knapsack(options)).toThrow(text)
  refused({ low: 0 }, 'knapsack: low is 0, expected a whole number >= 1')
  refused({ low: 9, high: 8 }, 'knapsack: low is 9, expected at most high, 8')
  refused({ high: 7 }, 'knapsack: uniform is 8, expected 2 to 7, low to high')
  refused({ uniform: 1 }, 'knapsack: uniform is 1, expected 2 to 128, low to high')
})

edge('knapsack', 'two groups of one prompt are one visit; no rewards are none', () => {
  const batch = { rewards: [1, 1, 1, 0, 0], groupStart: [0, 2, 3, 5], prompt: ['a', 'b', 'a'] }
  const { state } = prepareStep(knapsack(), batch)
  expect(state!.data.prompts).toEqual({ a: 0.5, b: 1 })
  const own = { advantage: [1], groupStart: [0, 1], prompt: ['a'] }
  expect(prepareStep(knapsack(), own, state).state).toEqual(state)
})

/** The released solver, by trying every division of what is left: the cost at a confidence, then the knapsack. */
function released(rates: number[], total: number, low: number, high: number): number[] {
  const counts = rates.map(() => low)
  const inner = [...rates.keys()].filter((q) => rates[q]! > 0 && rates[q]! < 1)
  const zeros = [...rates.keys()].filter((q) => rates[q] === 0)
  const others = zeros.length > 0 ? zeros : [...rates.keys()].filter((q) => rates[q] === 1)
  let rest = total - low * rates.length
  const costs = inner.map((q) =>
    Math.trunc(Math.min(high, Math.log(0.1) / Math.log(Math.max(rates[q]!, 1 - rates[q]!)))),
  )
  const excess = Math.max(0, rest - costs.reduce((a, b) => a + b, 0))
  for (let k = 0; k < excess && others.length > 0; k++) counts[others[k % others.length]!]!++
  if (others.length > 0) rest -= excess
  // value at k more rollouts, which is 0 without any, however many there are already.
  let best = { worth: -1, more: [] as number[] }
  const divide = (more: number[], left: number) => {
    if (more.length === inner.length) {
      if (left > 0) return
      const total = more.reduce((sum, k, j) => sum + (k === 0 ? 0 : value(low + k, rates[inner[j]!]!)), 0)
      if (total > best.worth + 1e-15) best = { worth: total, more }
      return
    }
    for (let k = Math.min(left, high - low); k >= 0; k--) divide([...more, k], left - k)
  }
  divide([], rest)
  best.more.forEach((k, j) => (counts[inner[j]!]! += k))
  return counts
}

golden('knapsack', 'the released solver', (check) => {
  const { allocate } = knapsack({ solver: 'code' }).sample
  check.float64(allocate([0.5, 0.5, 0, 0], 32), [5, 5, 11, 11])
  check.float64(released([0.5, 0.5, 0, 0], 32, 2, 128), [5, 5, 11, 11])
  // Without a prompt that never succeeds the surplus goes to those that always do, unevenly if it must be.
  check.float64(allocate([0.5, 1, 1], 24), [5, 10, 9])
  // At 99 % a rate of one half costs 6: all that is left.
  check.float64(knapsack({ solver: 'code', confidence: 0.99 }).sample.allocate([0.5, 0.5, 0, 0], 20), [8, 8, 2, 2])
})

edge('knapsack', 'the released solver on small budgets, all divisions tried', () => {
  const { integer, uniform } = random(37)
  for (let run = 0; run < 80; run++) {
    const rates = Array.from({ length: 4 }, () => [0, 1, 0.5, uniform(), integer(9) / 8][integer(5)]!)
    const inner = rates.filter((rate) => rate > 0 && rate < 1).length
    const [low, high] = [1 + integer(2), 8]
    const room = inner === 4 || inner === 0 ? 6 : inner * (high - low)
    const total = 4 * low + integer(Math.min(room, 14))
    const counts = knapsack({ low, high, solver: 'code' }).sample.allocate(rates, total)
    expect(counts, `${rates} ${low} ${total}`).toEqual(released(rates, total, low, high))
  }
})

edge('knapsack', 'the released solver: nothing between 0 and 1, nothing else, and budgets above high', () => {
  const { allocate } = knapsack({ solver: 'code', low: 1, high: 4, uniform: 4 }).sample
  expect(allocate([0, 1, 0], 8)).toEqual([4, 1, 3])
  expect(allocate([1, 1, 1], 8)).toEqual([3, 3, 2])
  expect(allocate([0, 0.5, 0], 12)).toEqual([4, 4, 4])
  expect(allocate([0.5, 0], 8)).toEqual([4, 4])
  expect(allocate([0.5, 0.5], 8)).toEqual([4, 4])
  // Costs 4 beside the one that it has: of the nine left 5 go elsewhere, and the last one goes beyond high.
  expect(allocate([0, 0.99, 0], 12)).toEqual([4, 5, 3])
  expect(allocate([], 0)).toEqual([])
  expect(allocate([0.5, 0], 2)).toEqual([1, 1])
})
