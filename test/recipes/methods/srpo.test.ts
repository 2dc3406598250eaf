import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { selfImprovement, srpo } from '../../../lib/recipes/methods/srpo.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const roles = ['chosen', 'rejected', 'chosenFromRejected', 'rejectedFromRejected', 'chosenFromChosen', 'rejectedFromChosen'] as const // biome-ignore format: one list
/** The sums of one pair, in the order of the roles. */
const sums = [0.4, -0.1, 0.8, 0.1, 0.2, -0.3]
const pair = {
  sequenceStart: [0, 1, 2, 3, 4, 5, 6],
  logp: Float32Array.from(sums, (x) => x - 1),
  refLogp: new Float32Array(6).fill(-1),
  chosen: [0],
  rejected: [1],
  chosenFromRejected: [2],
  rejectedFromRejected: [3],
  chosenFromChosen: [4],
  rejectedFromChosen: [5],
}

golden('srpo', 'one pair', (check) => {
  // The losses are small differences of log-probabilities of 1.
  check.float32(optimizationStep(srpo({ beta: 0.5, alpha: 0 }), pair).loss, 0.04, 25)
  check.float32(optimizationStep(srpo({ beta: 0.5, alpha: 1 }), pair).loss, 0.085, 12)
  const { loss, gradLogp } = optimizationStep(srpo({ beta: 0.5 }), pair)
  check.float32(loss, 0.0625, 16)
  check.float32(gradLogp!.data, [-0.1, 0.1, -0.175, 0.075, -0.125, 0.225], 5)
})

edge('srpo', 'the gradient of a pair against central differences', () => {
  const of = (s: ArrayLike<number>) =>
    selfImprovement(Object.fromEntries(roles.map((role, k) => [role, s[k]])) as never, 0.3, 0.7)
  const { gradient } = of(sums)
  closeIn64(roles.map((role) => gradient[role]), centralDifferences((s) => of(s).loss, sums)) // biome-ignore format: short
})

edge('srpo', 'the optimum has loss 0: 2 P - 1 = 1 for both, and halves', () => {
  const optimum = {
    ...pair,
    logp: Float32Array.of(4, -4, 4, -1, 4, -1).map((x) => x - 5),
    refLogp: new Float32Array(6).fill(-5),
  }
  // With beta 0.1: s(w|l) - s(l|l) = s(w|w) - s(l|w) = 5, and s(w|l) + s(w) - s(l|w) - s(l) = 13, not 10.
  const { loss } = optimizationStep(srpo(), optimum)
  closeIn32([loss], [0.5 * 0.3 ** 2])
  const better = { ...optimum, logp: Float32Array.of(2.5, -2.5, 4, -1, 4, -1).map((x) => x - 5) }
  closeIn32([optimizationStep(srpo(), better).loss], [0], 0)
})

// Two pairs; a sequence may serve in both. The third pair has a sequence that is masked wholly.
const ragged = {
  sequenceStart: [0, 2, 3, 5, 6, 7, 9, 10, 11],
  mask: [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0],
  logp: Float32Array.of(-1, -0.5, -0.25, -3, Number.NaN, -1.25, -2, -0.75, -0.5, -1, -1),
  refLogp: Float32Array.of(-1.5, -0.75, -0.5, -3.25, -1, -1.5, -1, -1, -1, -1.25, -1),
  chosen: [0, 1, 0],
  rejected: [1, 0, 1],
  chosenFromRejected: [2, 5, 7],
  rejectedFromRejected: [3, 6, 3],
  chosenFromChosen: [4, 3, 4],
  rejectedFromChosen: [5, 2, 5],
}

edge('srpo', 'ragged sequences in several roles: the published equation', () => {
  const places = [[0, 1], [2], [3], [5], [6], [7, 8], [9]] // biome-ignore format: a table
  const [beta, alpha] = [0.4, 0.25]
  const exact = (logp: number[]) => {
    const s = places.map((list) => list.reduce((a, t) => a + logp[t]! - ragged.refLogp[t]!, 0))
    const one = (m: number) => {
      const [w, l, wl, ll, ww, lw] = roles.map((role) => s[ragged[role][m]!]!) as [number, number, number, number, number, number] // biome-ignore format: one line
      const generation = (beta * (wl + w - lw - l) - 1) ** 2
      return (1 - alpha) * generation + alpha * ((0.5 - beta * (wl - ll)) ** 2 + (0.5 - beta * (ww - lw)) ** 2)
    }
    return (one(0) + one(1)) / 2
  }
  const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
  const { loss, gradLogp } = optimizationStep(srpo({ beta, alpha }), ragged)
  closeIn32([loss], [exact(finite)])
  closeIn32(gradLogp!.data, centralDifferences(exact, finite))
})

edge('srpo', 'no pairs, equal sums, everything masked', () => {
  const nothing = Object.fromEntries(roles.map((role) => [role, []]))
  for (const change of [nothing, { mask: new Uint8Array(6) }]) {
    const { loss, gradLogp } = optimizationStep(srpo(), { ...pair, ...change })
    expect([loss, ...gradLogp!.data]).toEqual([0, 0, 0, 0, 0, 0, 0])
  }
  closeIn32([optimizationStep(srpo(), { ...pair, logp: pair.refLogp }).loss], [0.5 + 0.5 * 0.5])
})

edge('srpo', 'batches that it cannot take', () => {
  const { chosenFromChosen, ...batch } = pair
  expect(() => optimizationStep(srpo(), batch as never)).toThrow(/srpo: chosenFromChosen is missing from the batch, expected integer\[M\]/) // biome-ignore format: one text
  expect(() => optimizationStep(srpo(), { ...pair, rejectedFromChosen: [6] })).toThrow(
    'srpo: rejectedFromChosen has 6 at 0, expected a rollout from 0 to 5',
  )
  expect(() => optimizationStep(srpo(), { ...pair, chosenFromChosen: [1, 2] })).toThrow(/srpo: chosenFromChosen has 2 values, expected 1/) // biome-ignore format: one text
})
