import type { SelectRolloutsOptions } from '../../lib/index.js'

/** How many of n: the contract's formula, in float64. */
const howMany = (n: number, { count, fraction }: SelectRolloutsOptions) =>
  typeof count === 'number' ? Math.min(n, count) : Math.min(n, Math.max(1, Math.ceil((fraction as number) * n - 1e-9)))

/** k^2 times the variance of k whole numbers, exactly; an infinity stands for 2^128. */
function variance(values: number[]): bigint {
  const x = values.map((v) => BigInt(Number.isFinite(v) ? v : Math.sign(v) * 2 ** 128))
  const sum = x.reduce((a, b) => a + b, 0n)
  return BigInt(x.length) * x.reduce((a, b) => a + b * b, 0n) - sum * sum
}

// Of one group or batch: the scores sorted; of largest values and the rest smallest, the first division of k that has the
// largest exact variance (scores are whole numbers here). Equal scores in order of their index.
export function reference(
  score: ArrayLike<number>,
  mask: ArrayLike<number> | undefined,
  o: SelectRolloutsOptions,
): number[] {
  const unmasked = Array.from({ length: score.length }, (_, i) => i).filter((i) => mask === undefined || mask[i] !== 0)
  const at = (i: number) => score[i] as number
  const candidates = unmasked.filter((i) => !Number.isNaN(at(i)))
  const k = Math.min(candidates.length, howMany(unmasked.length, o))
  const ascending = candidates.map(at).sort((a, b) => (a === b ? 0 : a < b ? -1 : 1))
  const division = (large: number) => [
    ...ascending.slice(0, k - large),
    ...ascending.slice(ascending.length - large, ascending.length),
  ]
  let large = o.rule === 'top' ? k : Math.ceil(k / 2)
  if (o.rule === undefined || o.rule === 'max_variance') {
    large = 0
    for (let l = 1; l <= k; l++) if (variance(division(l)) > variance(division(large))) large = l
  }
  const kept = Array<number>(score.length).fill(0)
  const places = division(large)
  for (const i of candidates) {
    const place = places.indexOf(at(i))
    if (place < 0) continue
    places.splice(place, 1)
    kept[i] = 1
  }
  return kept
}
