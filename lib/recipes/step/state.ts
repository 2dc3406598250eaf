// What a method carries from one step to the next: a plain object, with the name and the version of the method it is of.

import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { type AnyRecipe, checkRecipe, type StateOf } from './recipe.js'

export interface SavedState<State = unknown> {
  readonly method: string
  readonly version: number
  readonly data: State
}

const isSaved = (x: unknown): x is SavedState =>
  typeof x === 'object' && x !== null && 'method' in x && typeof x.method === 'string' && 'version' in x && 'data' in x

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
  return state.data
}

export const saved = (recipe: AnyRecipe, data: unknown): SavedState | undefined =>
  recipe.state === undefined ? undefined : { method: recipe.name, version: recipe.state.version, data }

// JSON writes -0 as 0.
const minusZero = 'minus zero'
const isMinusZero = (x: unknown): boolean =>
  typeof x === 'object' && x !== null && Object.keys(x).length === 1 && (x as Record<string, unknown>)[minusZero] === 0

/** The text of a state. A number that JSON cannot hold (NaN, an infinity) is refused rather than changed. */
export function toJSON(state: SavedState): string {
  if (!isSaved(state)) throw grpoError('kind', 'toJSON', 'state', `is ${describe(state)}, expected the state that a step returned`) // biome-ignore format: one text
  return JSON.stringify(state, (key, value) => {
    if (typeof value !== 'number' || Number.isFinite(value)) return Object.is(value, -0) ? { [minusZero]: 0 } : value
    throw grpoError('value', 'toJSON', 'state', `has ${value} at ${key}, which JSON cannot hold`)
  })
}

/**
 * A state from its text, for the method that it is of: a run that is saved, restored and continued gives the same bits.
 *
 * @throws RangeError for a state of another method or version; TypeError for a text that is no state
 */
export function fromJSON<R extends AnyRecipe>(recipe: R, text: string): SavedState<StateOf<R['description']>> {
  const method: AnyRecipe = checkRecipe(recipe, 'fromJSON')
  let state: SavedState<StateOf<R['description']>>
  try {
    state = JSON.parse(text, (_, value) => (isMinusZero(value) ? -0 : value))
  } catch (cause) {
    throw grpoError('kind', method.name, 'state', `is no JSON: ${(cause as Error).message}`, cause)
  }
  openState(method, state)
  return state
}
