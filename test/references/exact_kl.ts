// The gradient of a weighted KL in whole numbers: fixed point with 600 binary places, so that sums in which float64 loses
// every digit keep hundreds of them.
const places = 600n
const one = 1n << places

const times = (a: bigint, b: bigint) => (a * b) >> places

/** A float64 number, exactly. */
function fixed(x: number): bigint {
  const shift = 1074 // the smallest subnormal number is 2^-1074
  let [value, exponent] = [x, 0]
  while (!Number.isSafeInteger(value)) [value, exponent] = [value * 2, exponent + 1]
  if (exponent > shift || exponent > Number(places)) throw new RangeError(`${x} has more places than ${places}`)
  return BigInt(value) << (places - BigInt(exponent))
}

/** The Taylor series of x / 2^16, squared sixteen times. */
function exp(x: bigint): bigint {
  const reduced = x >> 16n
  let [sum, term] = [one, one]
  for (let n = 1n; term !== 0n && term !== -1n; n++) {
    term = times(term, reduced) / n
    sum += term
  }
  for (let i = 0; i < 16; i++) sum = times(sum, sum)
  return sum
}

function toNumber(x: bigint): number {
  const extra = BigInt(Math.max(0, x.toString(2).length - 64)) // far more than a float64 holds
  return Number(x >> extra) * 2 ** Number(extra - places)
}

/**
 * d/dlogp of exp(logp - oldLogp) v(logp - refLogp), which is the ratio times v + v'. v' is the derivative of v, or with
 * 'k2' the difference itself.
 */
export function exactWeightedGradient(
  logp: number,
  oldLogp: number,
  refLogp: number,
  kl: 'k1' | 'k2' | 'k3' | 'abs',
  gradient: 'exact' | 'k2',
): number {
  const x = fixed(logp) - fixed(refLogp)
  const inverse = exp(-x)
  const sign = x > 0n ? one : x < 0n ? -one : 0n
  const [value, own] = {
    k1: [x, one],
    k2: [times(x, x) / 2n, x],
    k3: [inverse - one + x, one - inverse],
    abs: [x < 0n ? -x : x, sign],
  }[kl] as [bigint, bigint]
  const slope = gradient === 'k2' ? x : own
  return toNumber(times(exp(fixed(logp) - fixed(oldLogp)), value + slope))
}
