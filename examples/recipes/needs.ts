// What a method needs of the columns of every method, found by running its example without each of them.

import { parseOption } from '../../lib/addon/signatures.js'
import { type AnyRecipe, type LossPolicy, optimizationStep, prepareStep } from '../../lib/recipes/index.js'
import { columns, exampleBatch } from './example_batch.js'

type Batch = Record<string, unknown>
/** A method, or a preset, as a function of its options. */
export type Make = (options?: Record<string, unknown>) => AnyRecipe
type Step = (recipe: AnyRecipe, batch: Batch) => object

/** optimizationStep; or prepareStep, for a method without a loss. Another reason to refuse its example is an error. */
export function stepOf(recipe: AnyRecipe): Step {
  try {
    optimizationStep(recipe, exampleBatch(recipe))
    return optimizationStep
  } catch (error) {
    if ((error as { argument?: string }).argument === 'loss') return prepareStep
    throw error
  }
}

export const gradients = ['gradLogp', 'gradMean']

/** What a step decides and its loss, as text, to compare. */
function outcome(recipe: AnyRecipe, step: Step, batch: Batch): string {
  try {
    const result: Record<string, unknown> = { ...step(recipe, batch) }
    const decided = ['advantage', 'tokenAdvantage', 'rollouts', 'state', 'sample']
    const trained = step === prepareStep ? [] : ['mask', 'loss', ...gradients]
    return JSON.stringify([...decided, ...trained].map((name) => result[name]))
  } catch {
    return 'refused'
  }
}

/** The columns of the example batch without those that change nothing. */
export function neededColumns(recipe: AnyRecipe): Batch {
  const given = Object.entries(exampleBatch(recipe)).filter(([, value]) => value !== undefined)
  const step = stepOf(recipe)
  let batch: Batch = Object.fromEntries(given)
  const wanted = outcome(recipe, step, batch)
  for (const name of ['logp', ...Object.keys(columns)]) {
    if (recipe.description.example?.[name] !== undefined) continue
    const { [name]: _, ...without } = batch
    if (outcome(recipe, step, without) === wanted) batch = without
  }
  return batch
}

type Stage = 'prepareStep' | 'the loss'
const without = (batch: Batch, name: string): Batch => ({ ...batch, [name]: undefined })

/** Where a step on the batch is refused; undefined if it runs. */
function refusal(recipe: AnyRecipe, batch: Batch): Stage | undefined {
  let stage: Stage = 'prepareStep'
  try {
    const given = Object.entries(batch).filter(([, value]) => value !== undefined)
    const prepared = prepareStep(recipe, Object.fromEntries(given))
    stage = 'the loss'
    const { logp, x, mean, std, oldMean, refMean } = batch as LossPolicy
    if (recipe.objective !== null) prepared.loss({ logp, x, mean, std, oldMean, refMean } as LossPolicy)
    return undefined
  } catch (error) {
    if (!String((error as { code?: unknown }).code).startsWith('ERR_GRPO_')) throw error // a bug, no refusal
    return stage
  }
}

/** Values of an option to try: 0, null and false often switch a term off. What the example is refused with is left out. */
function trials(make: Make, name: string, text: string): unknown[] {
  const { kind, choices, nullable } = parseOption(name, text)
  const listed = { enum: choices, boolean: [false, true] }[kind as string] ?? [0, 0.1, 1, 2]
  return [...listed, ...(nullable ? [null] : [])].filter((value) => {
    try {
      return refusal(make({ [name]: value }), exampleBatch(make())) === undefined
    } catch {
      return false
    }
  })
}

interface Need {
  readonly column: string
  readonly stage: Stage
  /** 'unless klCoef is 0', as far as single options of the example show it. */
  readonly when: readonly string[]
}

/** 'klCoef is 0', 'klCoef is not 0', 'kl is k1 or k3'; `others` are the values that were tried and are not meant. */
function among(name: string, values: readonly unknown[], others: readonly unknown[]): string {
  if (values.length === 1) return `${name} is ${values[0]}`
  if (others.length === 1) return `${name} is not ${others[0]}`
  return typeof values[0] === 'number' ? `${name} has certain values` : `${name} is ${values.join(' or ')}`
}

/** What the example of a method is refused without, with its defaults and with each option changed alone. */
export function needs(make: Make): Need[] {
  const recipe = make()
  const example = exampleBatch(recipe)
  const policy = example.mean === undefined ? ['logp'] : ['mean', 'x', 'std', 'oldMean', 'refMean']
  const own = Object.keys(recipe.description.columns ?? {})
  const options = Object.entries(recipe.description.options ?? {}).map(([option, [text]]) => {
    return { option, fallback: parseOption(option, text).fallback, values: trials(make, option, text) }
  })
  const asked = [...Object.keys(columns), ...policy].filter(
    (name) => example[name] !== undefined && !own.includes(name),
  )
  const neededOf = new Map(asked.map((column) => [column, refusal(recipe, without(example, column))]))
  const spare = asked.filter((column) => neededOf.get(column) === undefined)
  // What runs without all of those that the defaults can spare runs without each: most values need no further step.
  const bare = spare.reduce(without, example)
  const runsBare = new Map(
    options.map(({ option, values }) => [
      option,
      new Set(values.filter((value) => refusal(make({ [option]: value }), bare) === undefined)),
    ]),
  )
  return asked.flatMap((column): Need[] => {
    const batch = without(example, column)
    const needed = neededOf.get(column)
    const changed = options.flatMap(({ option, fallback, values }) => {
      const all = [...new Set([...values, fallback])]
      const stageOf = (value: unknown) => {
        if (value === fallback) return needed
        if (needed === undefined && runsBare.get(option)?.has(value)) return undefined
        return refusal(make({ [option]: value }), batch)
      }
      const stages = new Map(all.map((value) => [value, stageOf(value)]))
      const other = all.filter((value) => (stages.get(value) === undefined) !== (needed === undefined))
      const same = all.filter((value) => !other.includes(value))
      return other.length === 0 ? [] : [{ text: among(option, other, same), stage: stages.get(other[0]) }]
    })
    const stage = needed ?? changed[0]?.stage
    if (stage === undefined) return []
    return [{ column, stage, when: changed.map(({ text }) => `${needed === undefined ? 'if' : 'unless'} ${text}`) }]
  })
}

/** Columns that the example is not refused without, but has another result. */
function used(recipe: AnyRecipe, found: readonly Need[]): string[] {
  const kept = Object.keys(neededColumns(recipe))
  return Object.keys(columns).filter((name) => kept.includes(name) && !found.some(({ column }) => column === name))
}

/** Needed columns that, all together, are not needed where the batch brings advantages. */
function replaced(recipe: AnyRecipe, found: readonly Need[]): string[] {
  let batch: Batch = { ...exampleBatch(recipe), advantage: columns.rewards }
  const gone: string[] = []
  for (const { column, when } of found) {
    if (!(column in columns) || when.some((text) => text.startsWith('if'))) continue
    if (refusal(recipe, without(batch, column)) !== undefined) continue
    batch = without(batch, column)
    gone.push(column)
  }
  return gone
}

const words = ({ gaussian }: AnyRecipe): Record<string, string> => ({
  logp: `the policy (logp, logits or hidden${gaussian === undefined ? '' : '; or mean, x, std'})`,
  mean: 'the policy (mean)',
  entropy: 'entropy (computed where the policy is logits or hidden)',
})

/** The lines of needs, for `npm run recipes -- NAME`. */
export function needsLines(make: Make): string {
  const recipe = make()
  const found = needs(make)
  const shown = ({ column, when }: Need) =>
    [words(recipe)[column] ?? column, when.join(' or ')].filter((part) => part !== '').join(' ')
  const line = (text: string, list: string[]) => (list.length > 0 ? [`  ${text} ${list.join(', ')}`] : [])
  const at = (stage: Stage) => line(`${stage} needs`, found.filter((need) => need.stage === stage).map(shown)) // biome-ignore format: one text
  return [
    ...at('prepareStep'),
    ...(recipe.objective === null ? ['  there is no loss'] : at('the loss')),
    ...line('used if given:', used(recipe, found)),
    ...line('not needed if advantage is given:', replaced(recipe, found)),
  ].join('\n')
}
