// The shape of every method: what it is (Description), what it does at each point of an optimization step (Points), and the
// function that makes one from its options (recipe).

import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import type { DeviceArray } from '../../arrays/device_memory.js'
import type { CallOptions } from '../../call/types.js'
import type { GroupAdvantageOptions } from '../../group_advantage.js'
import type { Objective } from '../../objective.js'
import type { Chosen, ColumnsOf, Options, OptionTable } from './columns.js'
import { chooseOptions } from './columns.js'
import type { Context } from './context.js'
import type { GaussianKind } from './gaussian.js'
import { knowColumns } from './names.js'
import type { Shape } from './shape.js'

/** Where the formula was read. What is inferred is never presented as published. */
export type Source = 'paper' | 'code' | 'third-party' | 'inferred'

export interface Description {
  /** In camelCase, as it is called in `recipes`. */
  readonly name: string
  readonly paper: { readonly title: string; readonly arxiv?: string }
  readonly source: Source
  /** What the sources leave open, in one sentence. */
  readonly unknown?: string
  /** The equations, as text. */
  readonly equation: string
  /** What the method needs in a batch beside the columns of Batch: see columns.ts. */
  readonly columns?: Readonly<Record<string, string>>
  /** Options with their published defaults: see columns.ts. */
  readonly options?: OptionTable
  /**
   * What the points look at on the host, of the columns of tokens and of the policy (logp, entropy), or a function of the
   * options to that: `step` by rewards, advantages, select and update, once per batch; `update` by weights and objective,
   * at each update. It is then fetched ahead where it lies on a device, and not waited for in the middle of a point. What
   * is not named can be looked at all the same.
   */
  readonly reads?: Reads | ((options: never) => Reads)
  /** What is carried from one step to the next: plain objects, lists, numbers and strings. */
  readonly state?: {
    readonly version: number
    initial(): unknown
    /** What saved data must look like, see shape.ts: a state is held against it when it is read. */
    readonly shape?: Shape
    /** What is wrong with data of that shape, as the end of a sentence that begins with `state`; undefined if nothing. */
    check?(data: never): string | undefined
  }
  /** Values of the extra columns for `exampleBatch`, so that the method can be shown and swept by tests. */
  readonly example?: Readonly<Record<string, unknown>>
}

/** Names of columns of tokens, and logp and entropy of the policy. */
export interface Reads {
  readonly step?: readonly string[]
  readonly update?: readonly string[]
}

/** The state of a method: unknown for any method, undefined for one that has none. */
export type StateOf<D extends Description> = Description extends D
  ? unknown
  : D extends { state: { initial(): infer State } }
    ? State
    : undefined
/** The options of an objective, of which each may also be undefined. */
type ObjectiveOptions = { [Name in keyof Objective]?: Objective[Name] | undefined }
export type ContextOf<D extends Description> = Context<ColumnsOf<D['columns']>, StateOf<D>>

type Numbers = ArrayLike<number>

/** A point that gives both is refused: a rollout's advantage, or each token's. */
export type Advantages =
  | { readonly advantage: Numbers; readonly tokenAdvantage?: undefined }
  | { readonly tokenAdvantage: Float32Array; readonly advantage?: undefined }

/** What enters the loss: 1 = kept. What is left out is masked, and counts in no denominator. */
export interface Selection {
  readonly rollouts?: Uint8Array | undefined // [N]
  readonly tokens?: Uint8Array | undefined // [T]
}

/** What the loss reads beside log-probabilities and advantages. A selection that keeps the denominators is a weight. */
export interface Weights {
  /** One on a device belongs to the step, which frees it. */
  readonly weight?: Float32Array | DeviceArray | undefined // [T]
  readonly ratioLow?: Float32Array | undefined // [T]
  readonly ratioHigh?: Float32Array | undefined // [T]
  /** Multiplies a token's share of the entropy bonus, and no count; the bonus alone. */
  readonly entropyWeight?: Float32Array | undefined // [T]
  /** Tokens that the loss leaves out, beyond the selection. */
  readonly mask?: Uint8Array | undefined // [T]
  /** In place of the batch's. */
  readonly oldLogp?: Float32Array | DeviceArray | undefined // [T]
  readonly refLogp?: Float32Array | DeviceArray | undefined // [T]
  /** In place of oldLogp in the ratio that a `klWeight` multiplies the KL by; for it alone. */
  readonly klOldLogp?: Float32Array | undefined // [T]
}

/** A loss that is no policy objective: its value, and its gradient with respect to the log-probabilities. */
export interface OwnLoss {
  readonly loss: number
  readonly gradLogp: Float32Array // [T]
  readonly gradEntropy?: Float32Array | undefined // [T]
  /** What the loss is a mean over (pairs, groups), if it is one: a normalizer then takes its place. */
  readonly count?: number | undefined
}

/** groupAdvantage's options: its advantages, of the rewards as the point `rewards` left them. */
export type AdvantageOptions = Omit<GroupAdvantageOptions, keyof CallOptions<never>>

/** Written as methods, like the other points: only so is a method with columns of its own one of AnyRecipe. */
type AdvantagesMethod<Columns, State> = {
  advantages(c: Context<Columns, State>): Advantages | null
}['advantages']
type ObjectiveMethod<Columns, State> = {
  objective(c: Context<Columns, State>): ObjectiveOptions | OwnLoss
}['objective']

/**
 * What a method does, in the order of a step. A point that is left out is that of the operations: the rewards as they are,
 * groupAdvantage's defaults, everything selected, no weights, the objective's defaults.
 */
export interface Points<Columns, State> {
  /** [N] from c.rewards */
  rewards?(c: Context<Columns, State>): Float64Array
  /** Options of groupAdvantage, or what stands in its place. null, or null from it: the method has no advantages. */
  readonly advantages?: AdvantageOptions | AdvantagesMethod<Columns, State> | null
  select?(c: Context<Columns, State>): Selection
  /** Runs again for every update on the same batch, as the objective does: both see the current policy. */
  weights?(c: Context<Columns, State>): Weights
  /** null: the method has no loss. */
  readonly objective?: ObjectiveOptions | ObjectiveMethod<Columns, State> | null
  /** What c.logp is where the policy is a Gaussian. Default 'logp'. */
  readonly gaussian?: GaussianKind
  /** The state after this step. Runs once per batch, after `select`. */
  update?(c: Context<Columns, State>): State
  /**
   * Decisions about rollouts, as functions of data: how many, which to replace, where to branch, at which temperature.
   * `next` is called at the end of a step, with the new state, and is returned as its `sample`.
   */
  readonly sample?: {
    next?(c: Context<Columns, State>): unknown
    [decision: string]: ((...parameters: never[]) => unknown) | undefined
  }
}

type PointsOf<D extends Description> = Points<ColumnsOf<D['columns']>, StateOf<D>>

/** A method with its options chosen: what it is, and what it does. */
export type Recipe<D extends Description, P> = P &
  Pick<D, Extract<keyof D, 'name' | 'paper' | 'source' | 'unknown' | 'state'>> & {
    readonly options: Chosen<D['options']>
    readonly description: D
    readonly reads?: Reads | undefined
  }

/** Any method, whatever its columns and state. */
export type AnyRecipe = Points<unknown, unknown> &
  Pick<Description, 'name' | 'paper' | 'source' | 'unknown' | 'state'> & {
    readonly options?: object | undefined
    readonly description: Description
    readonly reads?: Reads | undefined
  }

/** The function of its options that a method is in `recipes`. */
export interface RecipeFunction<D extends Description, P> {
  (options?: Options<D['options']>): Recipe<D, P>
  readonly description: D
}

/**
 * Defines a method: `recipe(description, build)` is the function of its options that users call, as those in `recipes`
 * are. What it returns goes into prepareStep and optimizationStep.
 *
 *   const brief = recipe(
 *     { name: 'brief', paper: { title: '...' }, source: 'paper', equation: 'A = R - mean',
 *       columns: { correct: 'flag[N] whether the answer is right' },
 *       options: { bonus: ['number = 0.1 >= 0', 'for a right answer'] } },
 *     ({ bonus }) => ({ rewards: ({ rewards, columns }) => rewards.map((r, i) => r + bonus * columns.correct[i]) }))
 *   prepareStep(brief({ bonus: 0.2 }), batch)
 *
 * A column is `kind[axes]? what it means`: number, f32, integer, flag, id or any; axes N rollouts, G groups, T loss
 * tokens, or a letter of one's own; none: one value; ?: may be absent. An option is [spec, what it means] with the spec
 * `number = 0.2 >= 0`, `number? = null > 1`, `integer = 1 0..1`, `boolean = true` or `enum first|second`, whose first
 * choice is the default. Both are checked, and typed from their text.
 *
 * @param description  what the method is: name, paper, equation, its own columns, options, and state
 * @param build        from the options, defaults filled in, to the points that the method changes: see Points
 * @returns the function of the options, with `description` beside it
 * @throws RangeError or TypeError, when called, for an option that the method does not have or that is out of range
 */
export function recipe<const D extends Description, P extends PointsOf<D>>(
  description: D,
  build: (options: Chosen<D['options']>) => P,
): RecipeFunction<D, P> {
  if (typeof description !== 'object' || description === null || typeof description.name !== 'string') {
    throw grpoError('kind', 'recipe', 'description', `is ${describe(description)}, expected an object with a name`)
  }
  if (typeof build !== 'function') {
    throw grpoError('kind', 'recipe', 'build', `is ${describe(build)}, expected a function of the options`)
  }
  const { name, paper, source, unknown, state } = description
  knowColumns(Object.keys(description.columns ?? {}))
  const make = (given?: Options<D['options']>) => {
    const options = chooseOptions(name, description.options, given) as Chosen<D['options']>
    const reads = typeof description.reads === 'function' ? description.reads(options as never) : description.reads
    const made = { name, paper, source, unknown, state, description, options, reads, ...build(options) }
    return Object.freeze(made) as unknown as Recipe<D, P>
  }
  return Object.assign(make, { description })
}

/** Refuses what is no method, and a method that was not called. */
export function checkRecipe(recipe: AnyRecipe, caller: string): AnyRecipe {
  if (typeof recipe === 'object' && recipe !== null && typeof recipe.name === 'string' && 'description' in recipe) {
    return recipe
  }
  const hint = typeof recipe === 'function' ? ': call it, as in recipes.grpo()' : ', as recipes.grpo() makes it'
  throw grpoError('kind', caller, 'recipe', `is ${describe(recipe)}, expected a method${hint}`)
}
