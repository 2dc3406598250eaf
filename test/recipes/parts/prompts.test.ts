// Prompts of any name, in the states of all methods that keep a record of them.
import { describe, expect, test } from 'vitest'
import { type AnyRecipe, fromJSON, prepareStep, recipes, type SavedState, toJSON } from '../../../lib/recipes/index.js'
import { knownOf, remember } from '../../../lib/recipes/parts/prompts.js'

const names = ['constructor', '__proto__', 'toString', 'hasOwnProperty', 'plain']
const N = names.length
const rewards = [1, 0, 1, 0, 1]
const batch = { rewards, groupStart: Array.from({ length: N + 1 }, (_, i) => i), prompt: names }

test('what is known of a prompt, and that nothing is known of one that was not seen', () => {
  const record: Record<string, number> = {}
  for (const name of names) expect(knownOf(record, name)).toBeUndefined()
  names.forEach((name, k) => remember(record, name, k))
  expect(Object.keys(record)).toEqual(names)
  names.forEach((name, k) => expect(knownOf(JSON.parse(JSON.stringify({ ...record })), name)).toBe(k))
  expect(Object.getPrototypeOf(record)).toBe(Object.prototype)
  remember(record, 7, 1)
  expect(knownOf(record, '7')).toBe(1)
})

const cases: Record<string, [recipe: object, batch: object, record: string]> = {
  knapsack: [recipes.knapsack(), {}, 'prompts'],
  dcpo: [recipes.dcpo(), {}, 'prompts'],
  otc: [recipes.otc(), { correct: Array(N).fill(1), toolCalls: rewards }, 'fewest'],
  spo: [recipes.spo(), { drift: Array(N).fill(0) }, 'prompts'],
  vas: [recipes.vas(), { scored: names, correctness: [0.5, 0.25, 0, 0.1, 1] }, 'scores'],
}

describe.each(Object.entries(cases))('%s', (_, [recipe, more, record]) => {
  const step = (given: string[], state?: SavedState) => {
    const columns = 'scored' in more ? { scored: given } : { prompt: given }
    return prepareStep(recipe as never, { ...batch, ...more, ...columns } as never, state as never)
  }
  const values = (state: unknown) => Object.values((state as SavedState<Record<string, object>>).data[record]!)

  test('a prompt may have any name', () => {
    const plain = ['a', 'b', 'c', 'd', 'plain']
    let [named, other] = [step(names), step(plain)]
    for (let visit = 0; visit < 2; visit++) {
      const { state } = named as unknown as { state: SavedState<Record<string, object>> }
      expect(Object.keys(state.data[record]!)).toEqual(names)
      expect(values(state)).toEqual(values(other.state))
      expect(named.advantage).toEqual(other.advantage)
      const restored = fromJSON(recipe as AnyRecipe, toJSON(state))
      expect(toJSON(restored)).toBe(toJSON(state))
      ;[named, other] = [step(names, restored), step(plain, other.state as never)]
    }
  })
})

test('what is sampled next', () => {
  const { state } = prepareStep(recipes.knapsack(), batch)
  const { rollouts } = recipes.knapsack().sample
  expect(rollouts({ prompts: {} }, names)).toEqual(Array(N).fill(8))
  expect(rollouts(state!.data, names)).toEqual(recipes.knapsack().sample.allocate(rewards, 8 * N))
  expect(recipes.spo().sample.weights({ prompts: {} }, names)).toEqual(Array(N).fill(0.55))
  expect(recipes.vas({ mix: 1 }).sample.draw({ step: 0, scores: {} }, names, 3, () => 0.5)).toHaveLength(3)
})

test('spo: a batch with its own advantages and no rewards is no visit', () => {
  const given = { advantage: rewards, groupStart: [0, N], prompt: names, drift: rewards }
  expect(prepareStep(recipes.spo(), given).state!.data).toEqual({ prompts: {} })
})
