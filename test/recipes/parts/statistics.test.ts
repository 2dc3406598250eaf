// The quantile of many values is selected, not sorted: the same number.
import { expect, test } from 'vitest'
import { quantile } from '../../../lib/recipes/parts/statistics.js'

function bySorting(x: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(x).sort()
  const place = q * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(place)] as number, sorted[Math.ceil(place)] as number]
  return below + (above - below) * (place - Math.floor(place))
}

/** Without a pattern that a pivot could fit to. */
const mixed = (i: number) => ((Math.imul(i + 1, 2_654_435_761) >>> 0) % 100_003) / 7
const n = 5000
const lists: Record<string, (i: number) => number> = {
  mixed,
  rising: (i) => i,
  falling: (i) => -i,
  equal: () => 0.25,
  'few values': (i) => (mixed(i) % 3) | 0,
  'a pipe organ': (i) => Math.min(i, n - i),
  infinite: (i) => [Infinity, -Infinity, mixed(i)][i % 3] as number,
  'with NaN': (i) => (i % 50 === 7 ? Number.NaN : mixed(i)),
}

test.each(Object.entries(lists))('quantiles of a list: %s', (_, f) => {
  for (const size of [n, n - 1, 1001, 10, 1]) {
    const x = Float64Array.from({ length: size }, (_, i) => f(i))
    for (const q of [0, 0.001, 0.2, 0.5, 0.8, 0.9999, 1]) expect(quantile(x, q)).toBe(bySorting(x, q))
  }
})

test('every place of a list, whichever pivots lie there', () => {
  const size = 2049 // so that q (size - 1) is exactly each place
  const x = Float64Array.from({ length: size }, (_, i) => mixed(i))
  const sorted = x.slice().sort()
  expect(Array.from(x, (_, place) => quantile(x, place / (size - 1)))).toEqual(Array.from(sorted))
})
