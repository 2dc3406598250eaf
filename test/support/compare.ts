// Comparisons that say where numbers differ. No tolerance here is a guess: `accurate` takes it from the error of a plain
// version of the same formula in the same dtype, `golden` from the dtype itself.
import { expect } from 'vitest'
import type { HostArray } from '../../lib/index.js'
import { ulp, values } from './numbers.js'

export { ulp, values }

type Numbers = ArrayLike<number>

function compare(actual: Numbers, expected: Numbers, limit: (i: number) => number): void {
  expect(actual.length, 'length').toBe(expected.length)
  const wrong: string[] = []
  let count = 0
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] as number
    const e = expected[i] as number
    const same = Object.is(a, e) || a === e || (Number.isFinite(a) && Number.isFinite(e) && Math.abs(a - e) <= limit(i))
    if (same) continue
    if (count++ < 5) {
      const where =
        Number.isFinite(a) === Number.isFinite(e) ? `off by ${Math.abs(a - e)}, limit ${limit(i)}` : 'not both finite'
      wrong.push(`[${i}] is ${a}, expected ${e} (${where})`)
    }
  }
  if (count > 0) expect.fail(`${count} of ${expected.length} values differ:\n${wrong.join('\n')}`)
}

/**
 * The accuracy rule: against the float64 result, at most twice the largest error of the plain formula computed in the
 * array's own precision (float32, or float32 on inputs rounded to bf16), plus the last digit of the result. Where a test
 * asks for another number of `times`, it says why.
 */
export function accurate(actual: HostArray, exact: Numbers, plain: Numbers, times = 2): void {
  let error = 0
  for (let i = 0; i < exact.length; i++) {
    const difference = Math.abs((plain[i] as number) - (exact[i] as number))
    if (Number.isFinite(difference)) error = Math.max(error, difference)
  }
  compare(values(actual), exact, (i) => times * error + ulp(exact[i] as number, actual.dtype))
}

/**
 * The rule for 16-bit results of 16-bit inputs, whose rows are those of their last axis: root mean square error at most 1.25 times that
 * of the plain formula rounded once, and each element within twice the plain formula's largest error and one unit in the
 * last place at the larger of the element and the root mean square of its row. Others: `accurate`.
 */
export function accurateRows(actual: HostArray, exact: Numbers, plain: Numbers): void {
  const { dtype } = actual
  if (dtype !== 'bf16' && dtype !== 'f16') {
    accurate(actual, exact, plain)
    return
  }
  const own = values(actual)
  const width = actual.shape.at(-1) ?? 1
  const at = (x: Numbers, i: number) => x[i] as number
  const rounded = Array.from(
    exact,
    (_, i) => Math.round(at(plain, i) / ulp(at(plain, i), dtype)) * ulp(at(plain, i), dtype),
  )
  let [error, ownSquares, roundedSquares] = [0, 0, 0]
  const rowSquares = new Float64Array(Math.ceil(exact.length / width))
  for (let i = 0; i < exact.length; i++) {
    const e = at(exact, i)
    if (!Number.isFinite(e)) continue
    error = Math.max(error, Math.abs(at(plain, i) - e))
    ownSquares += (at(own, i) - e) ** 2
    roundedSquares += (at(rounded, i) - e) ** 2
    const row = Math.floor(i / width)
    rowSquares[row] = at(rowSquares, row) + e ** 2 / width
  }
  const size = (i: number) => Math.max(Math.abs(at(exact, i)), Math.sqrt(at(rowSquares, Math.floor(i / width))))
  compare(own, exact, (i) => 2 * error + ulp(size(i), dtype))
  expect(Math.sqrt(ownSquares), 'root mean square error').toBeLessThanOrEqual(1.25 * Math.sqrt(roundedSquares))
}

/** Golden numbers, to `digits` ulps of the array's dtype at the largest magnitude among them (default 4). */
export function golden(actual: HostArray, expected: Numbers, digits = 4): void {
  const largest = Math.max(...Array.from(expected, Math.abs).filter(Number.isFinite), 0)
  compare(values(actual), expected, () => digits * ulp(largest, actual.dtype))
}

/** The same to the last bit. */
export function identical(actual: HostArray, expected: HostArray): void {
  expect(actual.dtype).toBe(expected.dtype)
  expect(actual.shape).toEqual(expected.shape)
  expect(Buffer.compare(bytes(actual), bytes(expected)), 'bits differ').toBe(0)
}

const bytes = (x: HostArray) => Buffer.from(x.data.buffer, x.data.byteOffset, x.data.byteLength)

/** For float64 against float64: relative to the largest magnitude. */
export function close(actual: Numbers, expected: Numbers, relative: number): void {
  const largest = Math.max(...Array.from(expected, Math.abs).filter(Number.isFinite), 1e-300)
  compare(actual, expected, () => relative * largest)
}

/** A message that ends with these words. */
export const exactly = (text: string): RegExp => new RegExp(`${text.replace(/[.+*?()[\]{}|^$\\]/g, '\\$&')}$`)

/** What a failing call throws: class, code, operation and argument, and nothing written is the caller's to check. */
export function refuses(
  call: () => unknown,
  expected: { error: typeof TypeError | typeof RangeError; code: string; argument?: string; message?: RegExp },
): void {
  try {
    call()
  } catch (error) {
    expect(error).toBeInstanceOf(expected.error)
    expect(error).toMatchObject({
      code: expected.code,
      ...(expected.argument !== undefined && { argument: expected.argument }),
    })
    if (expected.message) expect((error as Error).message).toMatch(expected.message)
    expect((error as Error).message, 'a name of the C interface').not.toMatch(/\{\w+\}/)
    return
  }
  expect.fail('expected an error')
}
