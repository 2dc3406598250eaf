// Saved states: of the same method, version and options, with what the method saves, through a text.
import { describe, expect, test } from 'vitest'
import { names, recipeOf } from '../../../examples/recipes/describe.js'
import { exampleBatch } from '../../../examples/recipes/example_batch.js'
import {
  type AnyRecipe,
  fromJSON,
  prepareStep,
  recipe,
  recipes,
  type SavedState,
  toJSON,
} from '../../../lib/recipes/index.js'
import { withCorrection } from '../../../lib/recipes/parts/corrections.js'
import { refuses } from '../../support/compare.js'

const { d3s, dcpo, dynamicRewardWeighting, gtpo, knapsack, otc, riskPo, spo, vas } = recipes
const wrongKind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'state' }
const wrongValue = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'state' }

/** The same refusal of a text and of an object. */
function refusesState(
  method: AnyRecipe,
  state: unknown,
  expected: typeof wrongKind | typeof wrongValue,
  message: RegExp,
) {
  refuses(() => fromJSON(method, JSON.stringify(state)), { ...expected, message })
  refuses(() => prepareStep(method, exampleBatch(method), state as SavedState), { ...expected, message })
}

const of = (method: AnyRecipe, data: unknown) => {
  return { method: method.name, version: method.state?.version, options: method.options, data }
}

describe('options', () => {
  const visit = { ...exampleBatch(dcpo()), prompt: ['a', 'b'] }
  const { state } = prepareStep(dcpo(), visit)

  test('a state names those of its method', () => {
    expect(state.options).toEqual(dcpo().options)
    expect(state.options).not.toBe(dcpo().options)
    expect(() => prepareStep(dcpo({ epsHigh: 0.2 }), visit, fromJSON(dcpo(), toJSON(state)))).not.toThrow()
  })

  test('other options are refused, and what differs is listed', () => {
    const message = /^dcpo: state is one of other options: epsHigh is 0\.2, expected 0\.3; ddof is 0, expected 1$/
    refusesState(dcpo({ epsHigh: 0.3, ddof: 1 }), state, wrongValue, message)
    const { ddof: _, ...fewer } = state.options
    refusesState(dcpo(), { ...state, options: fewer }, wrongValue, /ddof is absent, expected 0$/)
    refusesState(dcpo(), { ...state, options: { ...state.options, old: 1 } }, wrongValue, /old is 1, expected absent$/)
    // Equal to JavaScript's ==, and still another option.
    refusesState(dcpo(), { ...state, options: { ...state.options, ddof: '0' } }, wrongValue, /ddof is "0", expected 0$/)
    refusesState(dcpo(), { ...state, options: { ...state.options, history: 1 } }, wrongValue, /history is 1, expected true/) // biome-ignore format: a row
  })

  test('none, as in a state of an older release, or no object', () => {
    const { options: _, ...older } = state
    refusesState(dcpo(), older, wrongValue, /^dcpo: state names no options: it was saved by an older release/)
    refusesState(dcpo(), { ...state, options: null }, wrongKind, /has null at options, expected an object/)
    refusesState(dcpo(), { ...state, options: [] }, wrongKind, /has a plain array of 0 at options, expected an object/)
  })

  test('a version that is not the method’s, older or newer', () => {
    for (const version of [0, 2, '1', null]) {
      refusesState(dcpo(), { ...state, version }, wrongValue, /^dcpo: state has version ("1"|0|2|null), expected 1$/)
    }
  })

  test('a correction is no option: it changes the loss alone, which no state knows', () => {
    const corrected = withCorrection(dcpo(), { importance: { mode: 'token_mask', high: 1 }, reject: [{ statistic: 'token_k2', high: 1e-9 }] }) // biome-ignore format: one call
    const given = { ...visit, rolloutLogp: Array(12).fill(-3) }
    const after = prepareStep(corrected, given).state as SavedState
    expect(after).toEqual(prepareStep(dcpo(), given).state)
    expect(fromJSON(dcpo(), toJSON(after))).toEqual(after)
  })

  test('the first state of spo is one of its options', () => {
    const start = (method: ReturnType<typeof spo>) => method.sample.start({ q: [1, 0] }, () => 0.5)
    expect(() => prepareStep(spo(), exampleBatch(spo()) as never, start(spo()))).not.toThrow()
    refusesState(spo(), start(spo({ rhoMin: 0.9 })), wrongValue, /rhoMin is 0\.9, expected 0\.875/)
  })
})

const weighting = { weights: [0.5, 0.5], front: [], hypervolume: 0, meta: 1, influence: [], batches: 0 }

describe('data', () => {
  test.each<[AnyRecipe, unknown, typeof wrongKind | typeof wrongValue, RegExp]>([
    [dcpo(), null, wrongKind, /^dcpo: state has null at data, expected an object$/],
    [dcpo(), {}, wrongKind, /has no data\.prompts/],
    [dcpo(), { prompts: { q: {} } }, wrongKind, /has no data\.prompts\.q\.mean, expected mean, std, times$/],
    [dcpo(), { prompts: { q: { mean: '1', std: 0, times: 1 } } }, wrongKind, /has "1" at data\.prompts\.q\.mean, expected a float32 number$/], // biome-ignore format: a row
    [dcpo(), { prompts: { q: { mean: 1, std: -1, times: 1 } } }, wrongValue, /has -1 at data\.prompts\.q\.std, expected a float32 number >= 0/], // biome-ignore format: a row
    [dcpo(), { prompts: { q: { mean: 1, std: 0, times: 0.5 } } }, wrongValue, /has 0\.5 at data\.prompts\.q\.times, expected a whole number >= 1/], // biome-ignore format: a row
    [dcpo(), { prompts: { q: { mean: 1, std: 0, times: 1.5 } } }, wrongValue, /has 1\.5 at data\.prompts\.q\.times, expected a whole number >= 1/], // biome-ignore format: a row
    [dcpo(), { prompts: { q: { mean: null, std: 0, times: 1 } } }, wrongKind, /has null at data\.prompts\.q\.mean, expected a float32 number$/], // biome-ignore format: a row
    [dcpo(), { prompts: {}, more: 1 }, wrongKind, /has data\.more, expected prompts alone/],
    [dcpo(), { prompts: [] }, wrongKind, /has a plain array of 0 at data\.prompts, expected an object/],
    [spo(), { prompts: { q: { alpha: 0, beta: 0 } } }, wrongValue, /has no counts at data\.prompts\.q/],
    [knapsack(), { prompts: { q: 1.5 } }, wrongValue, /has 1\.5 at data\.prompts\.q, expected a number 0\.\.1/],
    [riskPo(), { quantiles: { low: 1 } }, wrongKind, /has no data\.quantiles\.high/],
    [riskPo(), { quantiles: { high: 1 } }, wrongKind, /has no data\.quantiles\.low/],
    [riskPo(), { quantiles: 0 }, wrongKind, /has 0 at data\.quantiles, expected an object/],
    [riskPo(), {}, wrongKind, /has no data\.quantiles, expected quantiles$/],
    [vas(), { step: 0, scores: {}, measured: { q: '1' } }, wrongKind, /has "1" at data\.measured\.q, expected a float32 number >= 0/], // biome-ignore format: a row
    [vas(), { step: 0, scores: {}, measured: null }, wrongKind, /has null at data\.measured, expected an object/],
    [vas(), { step: 0, scores: {}, 'measured?': {} }, wrongKind, /has data\.measured\?, expected step, scores, measured alone/], // biome-ignore format: a row
    [gtpo(), { initialEntropy: '1' }, wrongKind, /has "1" at data\.initialEntropy, expected a float32 number or null/],
    [dynamicRewardWeighting(), { ...weighting, front: [[1]] }, wrongValue, /has 2 and 1 objectives at data\.weights, data\.front/], // biome-ignore format: a row
    [dynamicRewardWeighting(), { ...weighting, front: [[1, 1], [2, 1]] }, wrongValue, /has a point at data\.front\[1\] that is not above data\.front\[0\] everywhere/], // biome-ignore format: a row
    [dynamicRewardWeighting(), { ...weighting, batches: 1 }, wrongValue, /has 0 values at data\.influence, and 1 at data\.batches/], // biome-ignore format: a row
    [dynamicRewardWeighting(), { ...weighting, influence: [0, 1] }, wrongValue, /has 2 values at data\.influence, and 0 at data\.batches/], // biome-ignore format: a row
    [dynamicRewardWeighting(), { ...weighting, meta: 2.1 }, wrongValue, /has 2\.1 at data\.meta, expected a number 0\.5\.\.2/], // biome-ignore format: a row
    [otc(), { fewest: { q: 2 ** 31 } }, wrongValue, /has 2147483648 at data\.fewest\.q, expected a whole number 0\.\.2147483647/], // biome-ignore format: a row
  ])('%#: refused when it is read', (method, data, expected, message) => {
    refusesState(method, of(method, data), expected, message)
  })

  test('a number that is none, which no text can hold', () => {
    const state = of(d3s({ steps: 4 }), { step: Number.NaN })
    expect(() => prepareStep(d3s({ steps: 4 }), exampleBatch(d3s()) as never, state as never)).toThrow(
      'd3s: state has NaN at data.step, expected a whole number >= 0',
    )
  })

  // A text cannot hold it, an object in memory can.
  test('a field that may be null is not undefined', () => {
    const paper = { title: 'A method of a test' }
    const shape = { number: 'number?', text: 'string?', list: { '?': ['number'] } } as const
    const state = { version: 1, initial: () => ({ number: null, text: null, list: null }), shape } as const
    const own = recipe({ name: 'own', paper, source: 'inferred', equation: 'A = R', state }, () => ({}))
    const step = (data: object) => () => prepareStep(own(), exampleBatch(own()) as never, of(own(), data) as never)
    expect(step({ number: null, text: null, list: null })).not.toThrow()
    expect(step({ number: 1, text: 'x', list: [1] })).not.toThrow()
    for (const name of ['number', 'text', 'list'])
      expect(step({ number: null, text: null, list: null, [name]: undefined })).toThrow(
        `own: state has undefined at data.${name}, expected `,
      )
  })

  test('what an object inherits is no field of it', () => {
    const paper = { title: 'A method of a test' }
    const state = { version: 1, initial: () => ({ constructor: 0 }), shape: { constructor: 'number' } } as const
    const named = recipe({ name: 'named', paper, source: 'inferred', equation: 'A = R', state }, () => ({}))
    refusesState(named(), of(named(), {}), wrongKind, /has no data\.constructor, expected constructor$/)
  })

  test('of a method without a shape it is known that there is an object', () => {
    const paper = { title: 'A method of a test' }
    const state = { version: 1, initial: () => ({ step: 0 }) }
    const plain = recipe({ name: 'plain', paper, source: 'inferred', equation: 'A = R', state }, () => ({}))
    refusesState(plain(), of(plain(), null), wrongKind, /has null at data, expected a plain object/)
    refusesState(plain(), of(plain(), [0]), wrongKind, /has a plain array of 1 at data/)
    expect(fromJSON(plain(), toJSON(of(plain(), { other: 1 }) as SavedState)).data).toEqual({ other: 1 })
  })
})

const withState = names.map(recipeOf).filter((method) => method.state !== undefined)
/** The data with one place after the other replaced. */
function* damaged(x: unknown, by: unknown): Generator<unknown> {
  yield by
  if (typeof x !== 'object' || x === null) return
  for (const [name, value] of Object.entries(x)) {
    for (const other of damaged(value, by))
      yield Array.isArray(x) ? x.with(Number(name), other) : { ...x, [name]: other }
  }
}

test('there are methods with a state', () => expect(withState.length).toBeGreaterThan(10))

/** The numbers of a method's data with one of them another one. */
function* otherNumbers(x: unknown, by: number): Generator<unknown> {
  if (typeof x === 'number') yield by
  else if (typeof x === 'object' && x !== null) {
    for (const [name, value] of Object.entries(x)) {
      for (const other of otherNumbers(value, by))
        yield Array.isArray(x) ? x.with(Number(name), other) : { ...x, [name]: other }
    }
  }
}

describe.each(withState.map((method) => [method.name, method] as const))('%s', (_, method) => {
  const first = prepareStep(method, exampleBatch(method)).state as SavedState

  test('has a shape, which its initial data and those of a step have', () => {
    expect(method.state?.shape).toBeDefined()
    expect(fromJSON(method, toJSON(of(method, method.state?.initial()) as SavedState)).data).toEqual(method.state?.initial()) // biome-ignore format: one comparison
    expect(fromJSON(method, toJSON(first))).toEqual(first)
  })

  test('every place of its data is looked at', () => {
    // true is nothing that a method saves.
    for (const data of damaged(first.data, true)) {
      refuses(() => fromJSON(method, JSON.stringify({ ...first, data })), { ...wrongKind, message: /has true at data/ })
    }
  })
})

describe.each(withState.map((method) => [method.name, method] as const))('%s', (_, method) => {
  // What a method saves of rewards, entropies and weights becomes a float32 advantage in the step after it.
  test.each([1e300, -1e300, 1e39, Number.MAX_VALUE])('no number of its data is %d', (by) => {
    const { state } = prepareStep(
      method,
      exampleBatch(method),
      prepareStep(method, exampleBatch(method)).state as never,
    )
    for (const data of otherNumbers((state as SavedState).data, by)) {
      // A product of as many numbers as there are objectives, of which the next step takes a bounded function.
      if ((data as { hypervolume?: number }).hypervolume === by && by > 0) continue
      refuses(() => fromJSON(method, JSON.stringify({ ...(state as SavedState), data })), wrongValue)
    }
  })
})

describe('the text', () => {
  const prompts = ['minus zero', '\\minus zero', '\\\\minus zero', '__proto__', 'constructor', '', '"', 'toJSON']

  test.each(prompts)('a prompt called %j keeps its state', (prompt) => {
    const method = knapsack()
    const visit = { rewards: [0, 0], groupStart: [0, 2], sequenceStart: [0, 1, 2], prompt: [prompt] }
    const { state } = prepareStep(method, visit)
    expect(Object.keys(state.data.prompts)).toEqual([prompt])
    expect(fromJSON(method, toJSON(state))).toEqual(state)
    expect(Object.entries(fromJSON(method, toJSON(state)).data.prompts)).toEqual([[prompt, 0]])
  })

  test('and one beside others, with a number that is -0', () => {
    const data = { prompts: Object.fromEntries(prompts.map((prompt) => [prompt, -0])) }
    const state = of(knapsack(), data) as SavedState
    expect(fromJSON(knapsack(), toJSON(state)).data).toEqual(data)
    expect(fromJSON(otc(), toJSON(of(otc(), { fewest: { 'minus zero': 0 } }) as SavedState)).data).toEqual({
      fewest: { 'minus zero': 0 },
    })
  })

  test('a text in which -0 stands without names like it reads as ever', () => {
    const { options } = knapsack()
    const text = JSON.stringify({ method: 'knapsack', version: 1, options, data: { prompts: { q: { 'minus zero': 0 } } } }) // biome-ignore format: one text
    expect(Object.is(fromJSON(knapsack(), text).data.prompts.q, -0)).toBe(true)
    const two = JSON.stringify({
      method: 'knapsack',
      version: 1,
      options,
      data: { prompts: { 'minus zero': 0, q: 1 } },
    })
    expect(fromJSON(knapsack(), two).data).toEqual({ prompts: { 'minus zero': 0, q: 1 } })
  })
})
