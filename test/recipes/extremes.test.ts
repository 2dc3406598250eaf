// Every option at its allowed extremes, one and two at a time, on batches without differences, without rollouts, without
// tokens: a step is refused, or its loss, gradients and advantages are numbers. 0 / 0 and the like would show here.
import { describe, expect, test } from 'vitest'
import { makeOf, names, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/index.js'
import { type AnyRecipe, prepareStep, recipe } from '../../lib/recipes/index.js'
import { parseColumn, rangeOf } from '../../lib/recipes/step/columns.js'
import { policyIn } from '../../lib/recipes/step/names.js'
import { onlyMethods } from '../support/only.js'
import { few } from '../support/sweep.js'

type Batch = Record<string, unknown>

/** All choices of an option; the ends of its range, and what is small or large: options may be squared, in float32. */
function extremes(name: string, text: string, ends: 'ends alone' | 'beyond'): unknown[] {
  const spec = parseOption(name, text)
  const none = spec.nullable ? [null] : []
  if (spec.kind === 'enum') return [...none, ...spec.choices]
  if (spec.kind === 'boolean') return [...none, true, false]
  const range = text.replace(/^\w+\?? ?(= \S+)? ?/, '')
  const bounds = range.split(/ |\.\./).map(Number)
  const numbers = spec.kind === 'integer' ? [0, 1, 2, 1e9] : [0, 1, 1e-15, 1e15]
  const tried = [...bounds, ...numbers.slice(0, ends === 'beyond' ? 4 : spec.kind === 'integer' ? 3 : 1)]
  return [...none, ...new Set(tried.filter((x) => Number.isFinite(x) && rangeOf(range)(x)))]
}

/** The columns of numbers with one value everywhere; what names or counts something stays. */
function equalColumns(recipe: AnyRecipe, batch: Batch): Batch {
  const own = Object.entries(recipe.description.columns ?? {}).filter(([name, text]) => {
    const { kind, axes } = parseColumn(name, text)
    return (kind === 'number' || kind === 'f32') && axes.some((axis) => axis === 'N' || axis === 'T')
  })
  const flat = own.flatMap(([name]) => {
    const list = batch[name] as ArrayLike<number> | undefined
    return list === undefined || !('length' in list) ? [] : [[name, Array.from(list, () => list[0])]]
  })
  return { ...batch, rewards: Array(8).fill(1), ...Object.fromEntries(flat) }
}

/** Of the batches, those on which every pair of options is tried in every run; the sweep has all. */
const fewest = few(['equal rewards'], ['on-policy', 'a group of one', 'an empty group', 'all rejected', 'all masked'])

const batches = (recipe: AnyRecipe): Record<string, Batch> => {
  const example = exampleBatch(recipe)
  const logp = example.oldLogp
  return {
    example,
    'equal rewards': equalColumns(recipe, example),
    'no success': { ...example, rewards: Array(8).fill(0) },
    'on-policy': { ...example, logp, refLogp: logp, rolloutLogp: logp },
    'a group of one': { ...example, groupStart: [0, 1, 8] },
    'an empty group': { ...equalColumns(recipe, example), groupStart: [0, 0, 8] },
    'a rejected group': { ...example, rolloutMask: [0, 0, 0, 0, 1, 1, 0, 1] },
    'all rejected': { ...example, rolloutMask: Array(8).fill(0) },
    'a rollout without tokens': { ...example, sequenceStart: [0, 0, 3, 5, 6, 7, 9, 10, 12] },
    'masked rollouts': { ...example, mask: [0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1] },
    'all masked': { ...example, mask: Array(12).fill(0) },
  }
}

/** What is no number in a step, by name. */
function notNumbers(recipe: AnyRecipe, batch: Batch): string[] {
  const { rewards, advantage, tokenAdvantage, loss } = prepareStep(recipe, batch as never)
  const step = recipe.objective === null ? undefined : loss(policyIn(batch) as never)
  const gradients = Object.entries(step ?? {}).filter(([name, x]) => name.startsWith('grad') && x !== undefined)
  const arrays = { rewards, advantage, tokenAdvantage, loss: step && [step.loss] }
  const all = [
    ...Object.entries(arrays),
    ...gradients.map(([name, x]) => [name, (x as HostArray<'f32'>).data] as const),
  ]
  return all.filter(([, x]) => x !== undefined && Array.from(x).some(Number.isNaN)).map(([name]) => name)
}

/** Steps that are not numbers, of these choices of options. */
function failures(name: string, chosen: readonly Record<string, unknown>[], on = (_: string) => true): string[] {
  return chosen.flatMap((options) => {
    let recipe: AnyRecipe
    try {
      recipe = makeOf(name)(options)
    } catch (error) {
      expect((error as { code?: string }).code, `${name} ${JSON.stringify(options)}: ${error}`).toMatch(/^ERR_GRPO_/)
      return []
    }
    const tried = Object.entries(batches(recipe)).filter(([what]) => on(what))
    return tried.flatMap(([what, batch]) => {
      try {
        const bad = notNumbers(recipe, batch)
        return bad.length === 0 ? [] : [`${JSON.stringify(options)}, ${what}: ${bad.join(', ')}`]
      } catch (error) {
        return (error as { code?: string }).code?.startsWith('ERR_GRPO_')
          ? []
          : [`${JSON.stringify(options)}, ${what}: ${error}`]
      }
    })
  })
}

describe.each(onlyMethods(names))('%s', (name) => {
  const options = Object.entries(recipeOf(name).description.options ?? {})
  const isNumber = ([key, [text]]: (typeof options)[number]) => /^(number|integer)$/.test(parseOption(key, text).kind)

  test('one option at an extreme', () => {
    const chosen = options.flatMap(([key, [text]]) => extremes(key, text, 'beyond').map((value) => ({ [key]: value })))
    expect(failures(name, [{}, ...chosen])).toEqual([])
  })

  test('two numbers at the ends of their ranges', () => {
    const lists = options
      .filter(isNumber)
      .map(([key, [text]]) => extremes(key, text, 'ends alone').map((value) => ({ [key]: value })))
    const chosen = lists.flatMap((list, k) =>
      lists.slice(k + 1).flatMap((other) => list.flatMap((x) => other.map((y) => ({ ...x, ...y })))),
    )
    expect(failures(name, chosen, (what) => fewest.includes(what))).toEqual([])
  })
})

test('a NaN would be seen', () => {
  const nothing = recipe(
    { name: 'nothing', paper: { title: 'A method of a test' }, source: 'inferred', equation: 'A = 0 / 0' },
    () => ({ advantages: (c) => ({ advantage: c.rewards.map(() => Number.NaN) }) }),
  )
  expect(notNumbers(nothing(), exampleBatch(nothing()))).toEqual(['advantage', 'loss', 'gradLogp'])
})
