// Random draws of indices. `random` gives numbers in [0, 1): the same ones give the same draws.
import { descending, sum } from './statistics.js'

type Weights = ArrayLike<number>

/** Weights that are all 0 are all 1. */
const positive = (weights: Weights): Float64Array =>
  sum(weights) > 0 ? Float64Array.from(weights) : new Float64Array(weights.length).fill(1)

/** Draws in proportion to the weights, with replacement. */
export function repeatedDraws(weights: Weights, count: number, random: () => number): number[] {
  const w = positive(weights)
  const total = sum(w)
  return Array.from({ length: count }, () => {
    let rest = random() * total
    let last = 0
    for (let i = 0; i < w.length; i++) {
      if (w[i] === 0) continue
      last = i
      rest -= w[i] as number
      if (rest < 0) break
    }
    return last
  })
}

/**
 * Draws one after the other, each in proportion to the weights of what is left. The keys log(u) / w sort in that order
 * (Efraimidis and Spirakis 2006).
 */
export const distinctDraws = (weights: Weights, count: number, random: () => number): number[] =>
  descending(positive(weights).map((w) => Math.log(random()) / w)).slice(0, count)

/** The first `count` places of a random order; all, if there are no more. */
export function sampleOf(places: readonly number[], count: number, random: () => number): number[] {
  const order = places.slice()
  const drawn = Math.min(count, order.length)
  for (let i = 0; i < drawn; i++) {
    const j = i + Math.floor(random() * (order.length - i))
    const other = order[j] as number
    order[j] = order[i] as number
    order[i] = other
  }
  return order.slice(0, drawn)
}

/** Numbers from 0 to 1, the same for the same seed and step (mulberry32). */
export function randomNumbers(seed: number, step: number): () => number {
  let state = Math.imul(seed, 0x9e3779b9) ^ Math.imul(step + 1, 0x85ebca6b)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}
