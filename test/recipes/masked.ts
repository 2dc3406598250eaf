// What every method with tokens has in common: without a token of the policy there is nothing to learn.
import { expect } from 'vitest'
import { type AnyRecipe, optimizationStep } from '../../lib/recipes/index.js'
import { fixture } from './fixture.js'

/** On the fixture with these columns and every token masked, loss and gradient are 0. */
export function learnsNothing(recipe: AnyRecipe, columns: object): void {
  const step = optimizationStep(recipe, { ...fixture, ...columns, mask: new Uint8Array(8) } as never)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
}

/** First token of each rollout, from their lengths. */
export const starts = (lengths: readonly number[]): number[] =>
  lengths.reduce((all, n) => all.concat((all.at(-1) as number) + n), [0])
