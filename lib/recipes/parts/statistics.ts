// Small statistics in float64, of what is small: a number per rollout or per prompt.
type Numbers = ArrayLike<number>

export function sum(x: Numbers): number {
  let total = 0
  for (let i = 0; i < x.length; i++) total += x[i] as number
  return total
}

/** 0 for no values. */
export const mean = (x: Numbers): number => (x.length === 0 ? 0 : sum(x) / x.length)

/**
 * The standard deviation with divisor n - ddof, in two passes. Values that are all equal have exactly 0, as have too few
 * for the divisor.
 */
export function standardDeviation(x: Numbers, ddof: number): number {
  const first = x[0]
  if (x.length <= ddof || Array.from(x).every((value) => value === first)) return 0
  const center = mean(x)
  let squares = 0
  for (let i = 0; i < x.length; i++) squares += ((x[i] as number) - center) ** 2
  return Math.sqrt(squares / (x.length - ddof))
}

/** Below this a sort is faster. */
const few = 1000

/**
 * Moves values so that the one at k is the one that a sort would leave there, with none above it before it and none below
 * it behind it: Hoare's selection. Where it does not get on, the rest is sorted after all. There is no NaN.
 */
function partition(x: Float64Array, k: number): void {
  let low = 0
  let high = x.length - 1
  for (let round = 0; high - low > few && round < 40; round++) {
    const pivot = x[(low + high) >> 1] as number
    let i = low
    let j = high
    while (i <= j) {
      while ((x[i] as number) < pivot) i++
      while ((x[j] as number) > pivot) j--
      if (i > j) break
      const value = x[i] as number
      x[i++] = x[j] as number
      x[j--] = value
    }
    if (k <= j) high = j
    else if (k >= i) low = i
    else return
  }
  x.subarray(low, high + 1).sort()
}

/** The quantile q of the values, interpolated linearly between the nearest two (NumPy's and PyTorch's default). */
export function quantile(x: Numbers, q: number): number {
  const values = Float64Array.from(x)
  const place = q * (values.length - 1)
  const [k, next] = [Math.floor(place), Math.ceil(place)]
  const isFast = values.length > few && !values.some(Number.isNaN)
  if (isFast) partition(values, k)
  else values.sort()
  const below = values[k] as number
  let above = values[next] as number
  if (isFast && next > k) for (let i = next; i < values.length; i++) above = Math.min(above, values[i] as number)
  return below + (above - below) * (place - Math.floor(place))
}

/** Indices from the largest to the smallest value; equal ones in their order. */
export const descending = (x: Numbers): number[] =>
  Array.from(x, (_, i) => i).sort((i, j) => (x[j] as number) - (x[i] as number) || i - j)

/** The values of x at these places. */
export const at = (x: Numbers, places: readonly number[]): number[] => places.map((i) => x[i] as number)

/** The mean; of values that are all equal exactly that value, so that nothing is learned from their rounding. */
export const centerOf = (x: readonly number[]): number => (x.every((value) => value === x[0]) ? (x[0] ?? 0) : mean(x))

/** To the nearest whole number; of two equally near ones the even one. */
export const roundHalfEven = (x: number): number => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x))
