// Which problems a step samples: drawn evenly, or as single-stream policy optimization draws them, by what it knows.
import { type AnyRecipe, recipes, type SavedState } from '../../lib/recipes/index.js'
import type { Problem } from '../arithmetic/problems.js'
import type { Random } from '../arithmetic/random.js'

export interface Problems {
  readonly training: readonly Problem[]
  readonly heldOut: readonly Problem[]
}

export const nameOf = ({ left, right }: Problem): string => `${left}+${right}`

/** `count` different problems of the pool. */
export function problemsOf(
  recipe: AnyRecipe,
  state: SavedState | undefined,
  { training }: Problems,
  count: number,
  random: Random,
): Problem[] {
  const { weights, draw } = recipes.spo().sample
  const known = recipe.name === 'spo' && state !== undefined ? (state.data as Parameters<typeof weights>[0]) : undefined
  const weight = known === undefined ? new Float64Array(training.length).fill(1) : weights(known, training.map(nameOf))
  return draw(weight, Math.min(count, training.length), random).map((i) => training[i] as Problem)
}
