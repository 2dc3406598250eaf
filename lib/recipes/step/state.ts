// What a method carries from one step to the next: a plain object, with the method, its version and its options.

import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { type AnyRecipe, checkRecipe, type StateOf } from './recipe.js'
import { checkShape } from './shape.js'

export interface SavedState<State = unknown> {
  readonly method: string
  readonly version: number
  /** Of the method that saved it: what it counts and keeps depends on them. */
  readonly options: Readonly<Record<string, unknown>>
  readonly data: State
}

const isSaved = (x: unknown): x is SavedState =>
  typeof x === 'object' && x !== null && 'method' in x && typeof x.method === 'string' && 'version' in x && 'data' in x

const kindOf = (x: unknown): string => (x === null ? 'null' : Array.isArray(x) ? 'list' : typeof x)

/** Throws unless data is what the method saves. Of a method without a shape only that it is an object, or a list, is known. */
function checkData({ name, state }: AnyRecipe, data: unknown): void {
  if (state === undefined) return
  if (state.shape !== undefined) checkShape(name, state.shape, data, 'data')
  else {
    const initial = state.initial()
    if (initial !== null && kindOf(data) !== kindOf(initial)) {
      throw grpoError('kind', name, 'state', `has ${describe(data)} at data, expected ${describe(initial)}`)
    }
  }
  const problem = state.check?.(data as never)
  if (problem !== undefined) throw grpoError('value', name, 'state', problem)
}

/** Throws unless the state was saved with the options of the method. */
function checkOptions({ name, options }: AnyRecipe, given: unknown): void {
  if (given === undefined) {
    throw grpoError('value', name, 'state', 'names no options: it was saved by an older release, and whether the method had these is not known') // biome-ignore format: one text
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw grpoError('kind', name, 'state', `has ${describe(given)} at options, expected an object`)
  }
  const own = new Map(Object.entries(options ?? {}))
  const saved = new Map(Object.entries(given))
  const text = (x: unknown) => (x === undefined ? 'absent' : describe(x))
  const different = [...new Set([...own.keys(), ...saved.keys()])]
    .filter((option) => own.get(option) !== saved.get(option))
    .map((option) => `${option} is ${text(saved.get(option))}, expected ${text(own.get(option))}`)
  if (different.length === 0) return
  throw grpoError('value', name, 'state', `is one of other options: ${different.join('; ')}`)
}

/** The data of a state that fits the method, or its initial one. */
export function openState(recipe: AnyRecipe, state: SavedState | undefined): unknown {
  const { name, state: own } = recipe
  if (state === undefined) return own?.initial()
  if (own === undefined) throw grpoError('kind', name, 'state', 'is given, but the method has none')
  if (!isSaved(state)) {
    throw grpoError('kind', name, 'state', `is ${describe(state)}, expected what the step before returned`)
  }
  if (state.method !== name)
    throw grpoError('value', name, 'state', `is one of ${state.method}, expected one of ${name}`)
  if (state.version !== own.version) {
    throw grpoError('value', name, 'state', `has version ${describe(state.version)}, expected ${own.version}`)
  }
  checkData(recipe, state.data)
  checkOptions(recipe, state.options)
  return state.data
}

export function saved({ name, state, options = {} }: AnyRecipe, data: unknown): SavedState | undefined {
  return state && { method: name, version: state.version, options: { ...options }, data }
}

// JSON writes -0 as 0: here it is { 'minus zero': 0 }. A name that would be taken for that gets a backslash before it.
const minusZero = 'minus zero'
const isMinusZero = (x: object): boolean =>
  Object.keys(x).length === 1 && (x as Record<string, unknown>)[minusZero] === 0

/** The object with other names; itself if none changes. */
function renamed(x: object, pattern: RegExp, rename: (name: string) => string): object {
  if (Array.isArray(x) || !Object.keys(x).some((name) => pattern.test(name))) return x
  return Object.fromEntries(Object.entries(x).map(([name, value]) => [pattern.test(name) ? rename(name) : name, value]))
}
const written = (x: object) => renamed(x, /^\\*minus zero$/, (name) => `\\${name}`)
const restored = (x: object) => (isMinusZero(x) ? -0 : renamed(x, /^\\+minus zero$/, (name) => name.slice(1)))

/** The text of a state. A number that JSON cannot hold (NaN, an infinity) is refused rather than changed. */
export function toJSON(state: SavedState): string {
  if (!isSaved(state)) throw grpoError('kind', 'toJSON', 'state', `is ${describe(state)}, expected the state that a step returned`) // biome-ignore format: one text
  return JSON.stringify(state, (key, value) => {
    if (typeof value === 'object' && value !== null) return written(value)
    if (typeof value !== 'number' || Number.isFinite(value)) return Object.is(value, -0) ? { [minusZero]: 0 } : value
    throw grpoError('value', 'toJSON', 'state', `has ${value} at ${key}, which JSON cannot hold`)
  })
}

/**
 * A state from its text, for the method that it is of: a run that is saved, restored and continued gives the same bits.
 *
 * @throws RangeError for a state of another method, version or other options, or with a number out of range; TypeError for
 *         a text that is no state, or whose data is not what the method saves
 */
export function fromJSON<R extends AnyRecipe>(recipe: R, text: string): SavedState<StateOf<R['description']>> {
  const method: AnyRecipe = checkRecipe(recipe, 'fromJSON')
  let state: SavedState<StateOf<R['description']>>
  try {
    state = JSON.parse(text, (_, value) => (typeof value === 'object' && value !== null ? restored(value) : value))
  } catch (cause) {
    throw grpoError('kind', method.name, 'state', `is no JSON: ${(cause as Error).message}`, cause)
  }
  openState(method, state)
  return state
}
