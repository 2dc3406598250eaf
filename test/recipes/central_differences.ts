// Gradients of a float64 function, to hold hand-derived ones against.
import { expect } from 'vitest'
import { ulp } from '../support/compare.js'

type Numbers = ArrayLike<number>

/** Central differences of fourth order: with steps of 1e-3 their error is below 1e-9 for the functions here. */
export function centralDifferences(f: (x: number[]) => number, x: Numbers): number[] {
  const h = 1e-3
  return Array.from(x, (_, i) => {
    const at = (step: number) => f(Array.from(x, (value, j) => (i === j ? value + step : value)))
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
  })
}

function close(actual: Numbers, expected: Numbers, limit: (e: number) => number): void {
  expect(actual.length, 'length').toBe(expected.length)
  const wrong = Array.from(expected, (e, i) => [i, actual[i] as number, e] as const).filter(
    ([, a, e]) => !(Math.abs(a - e) <= limit(e)),
  )
  expect(wrong.map(([i, a, e]) => `[${i}] is ${a}, expected ${e} to ${limit(e)}`)).toEqual([])
}

/** A float64 gradient, to 1e-9. */
export const closeIn64 = (actual: Numbers, expected: Numbers): void =>
  close(actual, expected, (e) => 1e-9 * Math.max(1, Math.abs(e)))

/** A gradient that was rounded to float32: 4 of its last digits at the largest number, as `check.float32` has it. */
export function closeIn32(actual: Numbers, expected: Numbers, condition = 1): void {
  const largest = condition * Math.max(0, ...Array.from(expected, Math.abs))
  close(actual, expected, () => 4 * ulp(largest))
}
