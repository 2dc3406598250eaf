// A budget of rollouts handed out to prompts, as in Knapsack RL: what rollouts are worth, and ways to divide them.
import { descending } from './statistics.js'

/** What n rollouts of a prompt with success rate p are worth. */
export const value = (n: number, p: number) => (1 - p ** n - (1 - p) ** n) * p * (1 - p) ** 2
/**
 * log of value(n + 1, p) - value(n, p) = (p^n (1 - p) + (1 - p)^n p) p (1 - p)^2, which falls with n: a gain of many
 * rollouts is 0 as a number, but still larger than none. -Infinity for p = 0 or 1.
 */
export const logGain = (n: number, p: number) => {
  if (p === 0 || p === 1) return -Infinity
  const [success, failure] = [Math.log(p), Math.log1p(-p)]
  const [a, b] = [n * success + failure, n * failure + success]
  const larger = Math.max(a, b)
  return larger + Math.log(Math.exp(a - larger) + Math.exp(b - larger)) + success + 2 * failure
}

/** Adds an equal share of `count` to each of these places, the first ones taking what does not divide. */
export function shareOut(counts: number[], places: readonly number[], count: number): void {
  for (const [k, q] of places.entries()) {
    counts[q] = (counts[q] as number) + Math.floor(count / places.length) + Number(k < count % places.length)
  }
}

/** The largest `count` of what more rollouts of these prompts are worth, handed out one by one; returns how many. */
export function takeGains(counts: number[], gains: readonly { q: number; gain: number }[], count: number): number {
  const possible = gains.filter(({ gain }) => gain > -Infinity)
  const largest = descending(possible.map(({ gain }) => gain)).slice(0, count)
  for (const k of largest) counts[possible[k]?.q as number]! += 1
  return largest.length
}
