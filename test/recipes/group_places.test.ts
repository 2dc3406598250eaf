// A group counts the same wherever it stands: the example with its first group once more at the end gives both copies the
// same bits of everything that a step decides.
import { expect, test } from 'vitest'
import { names, recipeOf } from '../../examples/recipes/describe.js'
import { columns, exampleBatch } from '../../examples/recipes/example_batch.js'
import { optimizationStep, prepareStep } from '../../lib/recipes/index.js'
import { parseColumn } from '../../lib/recipes/step/columns.js'
import { onlyMethods } from '../support/only.js'

type Bag = Record<string, unknown>
const sizes = { G: 2, N: columns.rewards.length, T: columns.token.length }
const first = { G: 1, N: columns.groupStart[1]!, T: columns.sequenceStart[columns.groupStart[1]!]! }
type Axis = keyof typeof sizes

/** The axis of a column; undefined: one that is no list over groups, rollouts or tokens. */
function axisOf(name: string, text: string | undefined): Axis | undefined {
  if (text === undefined) return name === 'rewards' ? 'N' : 'T'
  const { kind, axes, meaning } = parseColumn(name, text)
  if (kind === 'any') return meaning.startsWith('per group') ? 'G' : meaning.startsWith('of each') ? 'N' : undefined
  return axes.length === 1 && axes[0]! in sizes ? (axes[0] as Axis) : undefined
}

const isLonger = (x: ArrayLike<unknown>, axis: Axis) => x.length === sizes[axis]
const again = (start: readonly number[], n: number) => [
  ...start,
  ...start.slice(1, n + 1).map((x) => start.at(-1)! + x),
]

/** The example with the first group again behind the last; undefined for columns that cannot be so continued. */
function longer(name: string): Bag | undefined {
  const recipe = recipeOf(name)
  const own = recipe.description.columns ?? {}
  const entries = Object.entries(exampleBatch(recipe) as Bag).filter(([, value]) => value !== undefined)
  const batch: Bag = {}
  for (const [column, value] of entries) {
    if (column === 'groupStart') batch[column] = again(value as number[], 1)
    else if (column === 'sequenceStart') batch[column] = again(value as number[], first.N)
    else if (typeof value === 'number') batch[column] = value
    else {
      const axis = axisOf(column, own[column])
      const list = Array.from(value as ArrayLike<unknown>)
      if (axis === undefined || !isLonger(list, axis)) return undefined
      const copy = list.slice(0, first[axis])
      batch[column] = list.concat(
        column === 'parent' ? copy.map((x) => (x === -1 ? -1 : (x as number) + sizes.N)) : copy,
      )
    }
  }
  return batch
}

/** Of two equal prompts they favour the first: one ranks prompts, one fills a number of places. */
const ordered = ['grpoLambda', 'd3s']
const able = names.filter((name) => !ordered.includes(name) && longer(name) !== undefined)

test('most methods can be looked at so', () => expect(able.length).toBeGreaterThan(names.length / 2))

test.each(onlyMethods(able))('%s', (name) => {
  const recipe = recipeOf(name)
  const batch = longer(name)
  const step = (recipe.objective === null ? prepareStep(recipe, batch as never) : optimizationStep(recipe, batch as never)) as unknown as Bag & { gradLogp?: { data: Float32Array } } // biome-ignore format: one type
  const ofRollouts = [step.rewards, step.advantage, step.rollouts] as (ArrayLike<number> | undefined)[]
  const ofTokens = [step.tokenAdvantage, step.mask, step.gradLogp?.data] as (ArrayLike<number> | undefined)[]
  for (const [list, axis] of [...ofRollouts.map((x) => [x, 'N'] as const), ...ofTokens.map((x) => [x, 'T'] as const)]) {
    if (list === undefined) continue
    const all = Array.from(list)
    expect(all.slice(sizes[axis])).toEqual(all.slice(0, first[axis]))
  }
})
