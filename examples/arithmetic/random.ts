/** Numbers in [0, 1) that depend on the seed alone, so that every run of the example sees the same problems. */
export type Random = () => number

/** A counter stepped by the golden ratio and scrambled by two multiplications: every 32-bit value comes once a period. */
export function seededRandom(seed: number): Random {
  let counter = seed | 0
  return () => {
    counter = (counter + 0x9e3779b9) | 0
    let bits = Math.imul(counter ^ (counter >>> 16), 0x21f0aaad)
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97)
    return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32
  }
}

/** One draw from the normal distribution with mean 0 and standard deviation 1 (Box and Muller). */
export function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** Index i with probability probabilities[i]. */
export function draw(probabilities: ArrayLike<number>, random: Random): number {
  const last = probabilities.length - 1
  let rest = random()
  for (let i = 0; i < last; i++) {
    rest -= probabilities[i] as number
    if (rest < 0) return i
  }
  return last
}
