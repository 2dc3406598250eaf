// Before any test of a run. `npm test` has prepared it by then, so that a compiler's words stand alone; vitest by itself
// prepares it here, and adds words of its own where that fails.
import { prepare } from './prepare.mjs'

export function setup(): void {
  const problem = process.env.GRPO_TEST_PREPARED ? undefined : prepare()
  if (problem !== undefined) throw new Error(problem)
}
