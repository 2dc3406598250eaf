// docs/recipes.json, the `grpo-kernels/recipes.json` of the package: what programs in Python and C need to run a method by its
// name. What a method computes from the batch is found by watching a step on its example.
import { makeOf, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import { type AnyRecipe, prepareStep } from '../../lib/recipes/index.js'
import { parseColumn } from '../../lib/recipes/step/columns.js'

export const recipesPage = 'docs/recipes.json'

type Values = Readonly<Record<string, unknown>>
/** Of a point: nothing, the same for every batch, from the batch, or from the current policy too. */
type Origin = 'none' | 'constant' | 'batch' | 'policy'

export interface RecipeEntry {
  readonly name: string
  readonly paper: AnyRecipe['paper']
  readonly source: AnyRecipe['source']
  readonly unknown: string | null
  readonly equation: string
  /** Whether groupAdvantage with `advantage`, and policyLoss with `objective`, are all of it. */
  readonly expressible: boolean
  readonly rewards: 'none' | 'batch'
  readonly advantages: 'groupAdvantage' | 'batch' | 'none'
  readonly selection: Exclude<Origin, 'constant'>
  readonly weights: Exclude<Origin, 'constant'>
  readonly loss: 'objective' | 'batch' | 'policy' | 'own' | 'none'
  /** Options of groupAdvantage; null where the advantages are not those of it. */
  readonly advantage: Values | null
  /** null unless `loss` is 'objective'. */
  readonly objective: Values | null
  readonly columns: Readonly<Record<string, object>>
  /** `sets`: the fields that take the option's value as it is, which changes nothing else. */
  readonly options: Readonly<Record<string, object>>
  readonly state: { readonly version: number; readonly initial: unknown } | null
}

const defined = (bag: object): Values => Object.fromEntries(Object.entries(bag).filter(([, value]) => value !== undefined)) // biome-ignore format: one line

/** An object that notes the names that are looked up in it. */
function noted<T extends object>(target: T, reads: Set<string>, inner?: (name: string) => unknown): T {
  return new Proxy(target, {
    get(of, name) {
      const own = inner?.(String(name))
      if (own !== undefined) return own
      reads.add(String(name))
      return Reflect.get(of, name, of)
    },
  })
}

interface Seen {
  readonly result: object | null
  /** What the point looked at, but for the columns of which it took none and the name of the method. */
  readonly reads: ReadonlySet<string>
}

/** What the points of a method looked at and returned in a step on its example, by their names. */
function watchedStep(recipe: AnyRecipe): ReadonlyMap<string, Seen> {
  const seen = new Map<string, Seen>()
  const watch = (name: 'select' | 'weights' | 'objective') => {
    const point = recipe[name] as ((c: object) => object) | object | null | undefined
    if (typeof point !== 'function') return {}
    const call = (c: Values & { readonly method: string }) => {
      const reads = new Set<string>()
      const columns = noted((c.columns ?? {}) as object, reads)
      const result = point(noted(c, reads, (key) => ({ columns, method: c.method })[key]))
      seen.set(name, { result, reads })
      return result
    }
    return { [name]: call }
  }
  const watched = { ...recipe, ...watch('select'), ...watch('weights'), ...watch('objective') } as AnyRecipe
  const batch = exampleBatch(recipe)
  const prepared = prepareStep(watched, batch)
  const { logp, x, mean, std, oldMean, refMean } = batch
  if (recipe.objective !== null) prepared.loss({ logp, x, mean, std, oldMean, refMean } as never)
  return seen
}

const looksAtPolicy = (reads: ReadonlySet<string>) => reads.has('logp') || reads.has('entropy')

/** Of `select` and `weights`: one that returns nothing, whatever the batch, is none. */
function originOf(seen: Seen | undefined): RecipeEntry['weights'] {
  if (seen === undefined) return 'none'
  if (seen.reads.size === 0 && Object.keys(defined(seen.result ?? {})).length === 0) return 'none'
  return looksAtPolicy(seen.reads) ? 'policy' : 'batch'
}

function lossOf({ objective }: AnyRecipe, seen: Seen | undefined): Pick<RecipeEntry, 'loss' | 'objective'> {
  if (objective === null) return { loss: 'none', objective: null }
  if (typeof objective !== 'function') return { loss: 'objective', objective: defined(objective ?? {}) }
  const { result, reads } = seen as Seen
  if (result !== null && 'gradLogp' in result) return { loss: 'own', objective: null }
  if (reads.size === 0) return { loss: 'objective', objective: defined(result as object) }
  return { loss: looksAtPolicy(reads) ? 'policy' : 'batch', objective: null }
}

function advantagesOf({ advantages = {} }: AnyRecipe, hasNone: boolean): Pick<RecipeEntry, 'advantages' | 'advantage'> {
  if (typeof advantages === 'object' && advantages !== null)
    return { advantages: 'groupAdvantage', advantage: defined(advantages) }
  return { advantages: hasNone ? 'none' : 'batch', advantage: null }
}

const columnsOf = ({ description }: AnyRecipe) =>
  Object.entries(description.columns ?? {}).map(([column, text]) => parseColumn(column, text))

type Core = Omit<RecipeEntry, 'name' | 'paper' | 'source' | 'unknown' | 'equation' | 'columns' | 'options' | 'state'>

/** What a method computes, with the options that it was made with. */
function coreOf(recipe: AnyRecipe): Core {
  const seen = watchedStep(recipe)
  const { advantage, tokenAdvantage } = prepareStep(recipe, exampleBatch(recipe))
  const found = {
    rewards: recipe.rewards === undefined ? ('none' as const) : ('batch' as const),
    ...advantagesOf(recipe, advantage === undefined && tokenAdvantage === undefined),
    selection: originOf(seen.get('select')),
    weights: originOf(seen.get('weights')),
    ...lossOf(recipe, seen.get('objective')),
  }
  const points = [found.rewards, found.selection, found.weights].every((point) => point === 'none')
  const known = found.advantage !== null && found.objective !== null
  return { expressible: points && known && columnsOf(recipe).every((column) => column.optional), ...found }
}

interface Trial {
  readonly value: unknown
  readonly core: Core
}

/** Values of an option, and what the method then computes; those that it refuses, alone, are left out. */
function trialsOf(name: string, option: string, spec: string): Trial[] {
  const { kind, choices, nullable, fallback } = parseOption(option, spec)
  const listed = { enum: choices, boolean: [false, true], integer: [0, 1, 2, 3] }[kind as string] ?? [0.125, 0.75, 2, 3]
  const values = [...listed, ...(nullable ? [null] : [])].filter((value) => value !== fallback)
  return values.flatMap((value) => {
    try {
      return [{ value, core: coreOf(makeOf(name)({ [option]: value })) }]
    } catch (error) {
      if (!String((error as { code?: unknown }).code).startsWith('ERR_GRPO_')) throw error // a bug, no refusal
      return []
    }
  })
}

const sorted = (x: unknown): string =>
  JSON.stringify(x, (_, value) => (value?.constructor === Object ? Object.entries(value).sort() : value))

/** The fields that take the value of an option as it is; undefined if it changes anything else, or nothing. */
function fieldsOf(core: Core, trials: readonly Trial[]): string[] | undefined {
  const fields = (['advantage', 'objective'] as const).flatMap((part) => {
    const names = new Set(trials.flatMap((trial) => Object.keys(trial.core[part] ?? {})))
    const differs = (name: string) => trials.some((trial) => trial.core[part]?.[name] !== core[part]?.[name])
    return [...names].filter(differs).map((name) => ({ part, name }))
  })
  const isExact = ({ value, core: changed }: Trial) => {
    const expected = { ...core }
    for (const { part, name } of fields) expected[part] = { ...expected[part], [name]: value }
    return sorted(expected) === sorted(changed)
  }
  return fields.length > 0 && trials.every(isExact) ? fields.map(({ part, name }) => `${part}.${name}`) : undefined
}

function optionOf(recipe: string, core: Core, name: string, [spec, meaning]: readonly [string, string]): object {
  const { kind, fallback, nullable, choices } = parseOption(name, spec)
  const range = kind === 'enum' ? '' : spec.replace(/^\w+\?? ?(= \S+)? ?/, '')
  const sets = fieldsOf(core, trialsOf(recipe, name, spec))
  return {
    ...{ kind, default: fallback, nullable },
    ...(kind === 'enum' && { choices }),
    ...(range && { range }),
    ...(sets && { sets }),
    meaning,
  }
}

function entryOf(name: string): RecipeEntry {
  const recipe = recipeOf(name)
  const { paper, source, unknown = null, state, description } = recipe
  const core = coreOf(recipe)
  const options = Object.entries(description.options ?? {})
  return {
    ...{ name, paper, source, unknown, equation: description.equation },
    ...core,
    columns: Object.fromEntries(columnsOf(recipe).map(({ name, ...column }) => [name, column])),
    options: Object.fromEntries(options.map(([one, text]) => [one, optionOf(name, core, one, text)])),
    state: state === undefined ? null : { version: state.version, initial: state.initial() },
  }
}

export type RecipesFile = Readonly<Record<'methods' | 'presets', Readonly<Record<string, RecipeEntry>>>>

/** The text of the file. */
export function recipesText(): string {
  const entries = (list: readonly string[]) => Object.fromEntries(list.map((name) => [name, entryOf(name)]))
  return `${JSON.stringify({ methods: entries(names), presets: entries(presetNames) }, null, 2)}\n`
}
