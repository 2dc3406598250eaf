import type { Moments, StandardizeOptions } from '../../lib/index.js'

type Options = Omit<StandardizeOptions, 'moments'>

// The float64 equation: (x - mean) / (sqrt(m2 / (count - ddof)) + eps); a standard deviation of 0 divides nothing. With
// round = Math.fround it is the plain float32 formula.
export function reference(
  x: ArrayLike<number>,
  mask: ArrayLike<number> | undefined,
  { count, mean, m2 }: Moments,
  o: Options = {},
  round = (v: number) => v,
): number[] {
  const { ddof = 1, eps = 1e-8, epsUnderRoot = false, center = true } = o
  const variance = count > ddof ? round(round(m2) / (count - ddof)) : 0
  const plain = epsUnderRoot ? round(Math.sqrt(round(variance + eps))) : round(round(Math.sqrt(variance)) + eps)
  const divisor = variance === 0 ? 1 : plain
  return Array.from(x, (v, i) =>
    mask !== undefined && mask[i] === 0 ? 0 : round(round(v - (center ? round(mean) : 0)) / divisor),
  )
}
