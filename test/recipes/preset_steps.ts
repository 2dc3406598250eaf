// Steps of the presets on the golden fixture.
import { type AnyRecipe, optimizationStep } from '../../lib/recipes/index.js'
import { advantage, fixture, unmasked } from './fixture.js'
import type { Check } from './golden.js'

export const batch = { ...fixture, advantage }
/** Without TRL's correction, which is on by default. */
export const off = { importanceSamplingMode: 'none' } as const
const places = [0, 1, 2, 4, 5, 6, 7]
type Step = { loss: number; gradLogp?: { data: ArrayLike<number> } }

export const gradientOf = (step: Step) => unmasked(step.gradLogp!.data)
export const step = (recipe: AnyRecipe, given: object = batch) => optimizationStep(recipe, given as never)

/** `condition`: how much larger the terms of the loss are than the loss. */
export function expectStep(check: Check, recipe: AnyRecipe, loss: number, gradient: number[], condition = 1): void {
  const done = step(recipe)
  check.float32(done.loss, loss, condition)
  check.float32(gradientOf(done), gradient)
}

/** Loss and gradient of each token alone. */
export function perToken(recipe: AnyRecipe, given: object = batch): { losses: number[]; gradients: number[] } {
  const steps = places.map((t) => step(recipe, { ...given, mask: fixture.mask.map((_, u) => Number(u === t)) }))
  return { losses: steps.map(({ loss }) => loss), gradients: steps.map((one, k) => one.gradLogp!.data[places[k]!] as number) } // biome-ignore format: short
}
