// A batch so small that it can be printed: two prompts with four rollouts each, 12 tokens in all.
import type { AnyRecipe } from '../../lib/recipes/index.js'

/** Every column that a trainer has; logp, oldLogp, refLogp and rolloutLogp differ from one another. */
export const columns = {
  rewards: [1, 0, 1, 0, 0, 1, 0, 0],
  groupStart: [0, 4, 8],
  sequenceStart: [0, 2, 3, 5, 6, 7, 9, 10, 12],
  token: [1, 2, 3, 1, 4, 1, 2, 0, 3, 2, 4, 0],
  oldLogp: [-0.7, -1.6, -0.9, -1.2, -0.4, -1.1, -0.5, -2.1, -0.8, -1.3, -0.6, -1.9],
  refLogp: [-0.8, -1.5, -1.1, -1.0, -0.5, -1.3, -0.6, -1.8, -0.9, -1.2, -0.8, -1.7],
  rolloutLogp: [-0.75, -1.55, -0.95, -1.15, -0.42, -1.0, -0.55, -2.0, -0.85, -1.25, -0.65, -1.95],
  entropy: [1.1, 0.9, 1.2, 0.4, 0.7, 1.0, 0.8, 1.3, 0.6, 0.5, 1.15, 0.95],
}
export const logp = [-0.6, -1.7, -1.0, -1.1, -0.5, -1.0, -0.4, -2.0, -0.9, -1.4, -0.7, -1.8]

const float32 = ['oldLogp', 'refLogp', 'rolloutLogp', 'entropy']

/** The batch of a method: the columns, its own ones from its description, and the policy's log-probabilities. */
export function exampleBatch(recipe: AnyRecipe): Record<string, unknown> {
  const all = Object.entries({ ...columns, ...recipe.description.example })
  const arrays = all.map(([name, list]) => [name, float32.includes(name) ? Float32Array.from(list as number[]) : list])
  return { logp: Float32Array.from(logp), ...Object.fromEntries(arrays) }
}
