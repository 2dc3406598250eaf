// The tests of a method: `golden` for the numbers of the literature, which are counted (see closing_line.mjs), and `edge`
// for what its formula leaves open. all_recipes.test.ts fails for a method that lacks either.
import { expect, test } from 'vitest'
import { ulp } from '../support/compare.js'

type Numbers = ArrayLike<number>
declare module 'vitest' {
  interface TaskMeta {
    /** How many golden numbers the test has compared. */
    golden?: number
  }
}

function compare(actual: Numbers, expected: Numbers, limit: (e: number) => number): void {
  expect(actual.length, 'length').toBe(expected.length)
  const wrong = Array.from(expected, (e, i) => [i, actual[i] as number, e] as const).filter(
    ([, a, e]) => !(Object.is(a, e) || a === e || Math.abs(a - e) <= limit(e)),
  )
  const text = ([i, a, e]: (typeof wrong)[number]) => `[${i}] is ${a}, expected ${e} to ${limit(e)}`
  expect(wrong.slice(0, 5).map(text), `${wrong.length} of ${expected.length} differ`).toEqual([])
}

const listOf = (x: Numbers | number): Numbers => (typeof x === 'number' ? [x] : x)

export interface Check {
  /** What the layer computes in float64, to 1e-9 of the number (and 1e-9 below 1, where the literature rounds). */
  float64(actual: Numbers | number, expected: Numbers | number): void
  /**
   * What a kernel rounds to float32, to 4 of its last digits at the largest number: one for its rounding, three for that of
   * its inputs. `condition`: how much larger the inputs are than the result, where they cancel.
   */
  float32(actual: Numbers | number, expected: Numbers | number, condition?: number): void
}

/** Golden numbers of a method, from its public entry. */
export function golden(method: string, what: string, run: (check: Check) => void): void {
  test(`${method}, golden: ${what}`, ({ task }) => {
    let count = 0
    const counted = (limit: (largest: number) => (e: number) => number) => {
      return (given: Numbers | number, wanted: Numbers | number, condition = 1) => {
        const [actual, expected] = [listOf(given), listOf(wanted)]
        const largest = condition * Math.max(0, ...Array.from(expected, Math.abs))
        compare(actual, expected, limit(largest))
        count += expected.length
      }
    }
    run({
      float64: counted(() => (e) => 1e-9 * Math.max(1, Math.abs(e))),
      float32: counted((largest) => () => 4 * ulp(largest)),
    })
    expect(count, 'numbers that were compared').toBeGreaterThan(0)
    task.meta.golden = count
  })
}

/** What a method does where its formula leaves it open, or with a batch that it cannot take. */
export const edge = (method: string, what: string, run: () => void): void => test(`${method}, edge: ${what}`, run)
