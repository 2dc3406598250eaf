import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { gtpo } from '../../../lib/recipes/methods/gtpo.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { starts } from '../masked.js'

function batchOf(ids: number[][], rewards: number[], H: number[]) {
  const T = ids.flat().length
  return {
    rewards,
    groupStart: [0, rewards.length],
    token: ids.flat(),
    sequenceStart: starts(ids.map((list) => list.length)),
    entropy: Float32Array.from(ids.flatMap((list, i) => list.map(() => H[i]!))),
    logp: new Float32Array(T).fill(-1),
  }
}
const ids = [[1, 2, 3, 7, 8], [1, 2, 4, 7, 8], [1, 5, 3, 7, 8], [1, 2, 6, 7, 8]] // biome-ignore format: a table
const example = { ...batchOf(ids, [1, 0, 1, 0], [0.3, 0.5, 0.4, 0.9]), initialEntropy: 0.5 }
const rows = (x: ArrayLike<number>) => [0, 1, 2, 3].map((i) => Array.from(x).slice(5 * i, 5 * i + 5))
const lambda = [[2, 2, 1, 2, 2], [0, 0, 1, 0, 0], [2, 1, 1, 2, 2], [0, 0, 1, 0, 0]] // biome-ignore format: a table
/** Without the entropy, what is left at the tokens is A lambda. */
const bare = { gamma: 0, threshold: 9 }

golden('gtpo', 'advantages and conflict weights', (check) => {
  const { tokenAdvantage } = prepareStep(gtpo(bare), example)
  const A = rows(tokenAdvantage!).map((row) => row[2]!)
  check.float32(A, [0.5, -0.5, 0.5, -0.5])
  check.float32(rows(tokenAdvantage!).flatMap((row, i) => row.map((x) => x / A[i]! + 0)), lambda.flat()) // biome-ignore format: short
})

golden('gtpo', 'which tokens are in conflict', (check) => {
  // In a run the weight is 3 or 0, elsewhere 1.
  const { tokenAdvantage } = prepareStep(gtpo({ ...bare, conflictWeight: 3 }), example)
  const inRun = Array.from(tokenAdvantage!, (x) => Number(Math.abs(x) !== 0.5))
  check.float64(inRun, [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1])
})

golden('gtpo', 'advantages less entropies', (check) => {
  for (const form of ['paper', 'code'] as const) {
    // Two tokens are in conflict at each end: the released code divides by 2.
    const n = form === 'code' ? 2 : 1
    const shaped = rows(prepareStep(gtpo({ form }), example).tokenAdvantage!).map((row) => n * row[2]!)
    check.float32(shaped, [0.47, -0.55, 0.46, 0])
  }
})

const perRollout = (options: Parameters<typeof gtpo>[0]) =>
  rows(prepareStep(gtpo(options), example).tokenAdvantage!).map((row) => -row.reduce((a, b) => a + b) / 5 + 0)

golden('gtpo', 'the published loss', (check) => {
  check.float32(perRollout({}), [-0.846, 0.11, -0.736, 0])
  check.float32(optimizationStep(gtpo(), example).loss, -0.368)
})

// The released code takes the union of the leading run and of the trailing run in reversed positions, so that both begin at
// position 0 and their union is the longer one: n is 2 for every rollout here. The numbers of b 4 have n 4, 4, 3, 4, from the
// union in place, and with them -0.2115, 0.0275, -0.2453, 0 and -0.4293.
golden('gtpo', 'the loss of the released code, with n as it is there', (check) => {
  const options = { form: 'code', threshold: 0.7 } as const
  check.float32(perRollout(options), [-0.423, 0.055, -0.368, 0])
  check.float32(optimizationStep(gtpo(options), example).loss, -0.736)
})

edge('gtpo', 'runs, by the definition at every place', () => {
  const { integer } = random(9)
  for (let run = 0; run < 200; run++) {
    const group = Array.from({ length: 5 }, () => Array.from({ length: 1 + integer(5) }, () => integer(2)))
    const rewards = group.map(() => integer(3))
    const sign = rewards.map((r) => Math.sign(5 * r - rewards.reduce((a, b) => a + b)))
    const weight = (i: number, t: number) => {
      if (sign[i] === 0) return 1
      const own = sign[i]! > 0 ? 2 : 0
      // Every place from this end up to t has the own token in a rollout of either sign.
      const inRun = (place: number, of: (list: number[]) => number[]) =>
        Array.from({ length: place + 1 }, (_, p) => p).every((p) =>
          [1, -1].every((s) => group.some((other, k) => sign[k] === s && of(other)[p] === of(group[i]!)[p])),
        )
      const forward = inRun(t, (list) => list)
      const backward = inRun(group[i]!.length - 1 - t, (list) => list.toReversed())
      return (forward ? own : 1) * (backward ? own : 1)
    }
    const { tokenAdvantage } = prepareStep(gtpo(bare), {
      ...batchOf(group, rewards, [0, 0, 0, 0, 0]),
      initialEntropy: 1,
    })
    const mean = rewards.reduce((a, b) => a + b) / 5
    const expected = group.flatMap((list, i) => list.map((_, t) => Math.fround(rewards[i]! - mean) * weight(i, t)))
    tokenAdvantage!.forEach((x, t) => expect(x).toBeCloseTo(expected[t]!, 6))
  }
})

edge('gtpo', 'tokens in both runs have the weight twice', () => {
  const same = { ...batchOf([[1, 2, 3], [1, 2, 3]], [1, 0], [0, 0]), initialEntropy: 1 } // biome-ignore format: short
  expect(Array.from(prepareStep(gtpo(), same).tokenAdvantage!, (x) => x + 0)).toEqual([2, 2, 2, 0, 0, 0])
})

edge('gtpo', 'masked tokens have no place, and end no run', () => {
  const given = { ...batchOf([[9, 1, 5, 2, 8], [1, 6, 2]], [1, 0], [0, 0]), mask: [0, 1, 1, 1, 0, 1, 1, 1], initialEntropy: 1 } // biome-ignore format: short
  given.entropy[0] = NaN
  const { tokenAdvantage } = prepareStep(gtpo({ gamma: 0 }), given)
  expect(Array.from(tokenAdvantage!, (x) => x + 0)).toEqual([0, 1, 0.5, 1, 0, 0, -0.5, 0])
})

edge('gtpo', 'a group of one, equal rewards, rejected rollouts, rollouts without tokens', () => {
  const given = batchOf([[1, 2], [1, 2], [1], [1], [], [1, 2]], [1, 3, 3, 1, 0, 5], [0.1, 0.1, 0.1, 0.1, 0, 0.1]) // biome-ignore format: short
  const more = { groupStart: [0, 1, 3, 6], rolloutMask: [1, 1, 1, 1, 1, 0], initialEntropy: 0 }
  const { tokenAdvantage } = prepareStep(gtpo(), { ...given, ...more })
  const [H, A] = [Math.fround(0.1), 0.5]
  const entropies = [-H, -H, -H, -H, -H].map((x) => 0.1 * x)
  expect(Array.from(tokenAdvantage!)).toEqual([...entropies, A - 0.1 * H, 0, 0].map(Math.fround))
})

edge('gtpo', 'a model that began above the threshold filters nothing; its entropy is that of the first batch', () => {
  const { initialEntropy, ...given } = example
  const first = prepareStep(gtpo(), given)
  expect(first.state!.data.initialEntropy).toBeCloseTo(0.525, 7)
  expect(rows(first.tokenAdvantage!)[3]![2]).toBe(0)
  const higher = { ...given, entropy: new Float32Array(20).fill(0.9) }
  const open = prepareStep(gtpo(), higher)
  expect(rows(open.tokenAdvantage!)[3]![2]).toBeCloseTo(-0.59, 6)
  const later = prepareStep(gtpo(), higher, fromJSON(gtpo(), toJSON(first.state!)))
  expect(Array.from(later.tokenAdvantage!)).toEqual(Array(20).fill(0))
  expect(later.state).toEqual(first.state)
})

edge('gtpo', 'the released code does not look at old log-probabilities, the paper does', () => {
  const given = { ...example, oldLogp: new Float32Array(20).fill(-1.5) }
  const code = optimizationStep(gtpo({ form: 'code' }), given)
  expect(code.loss).toBe(optimizationStep(gtpo({ form: 'code' }), example).loss)
  const t = 2
  expect(code.gradLogp!.data[t]).toBeCloseTo(-0.47 / 2 / 5, 7)
  expect(optimizationStep(gtpo(), given).loss).toBeCloseTo(-0.368 * Math.exp(0.5), 6)
})

edge('gtpo', 'everything masked: loss and gradient 0, no initial entropy yet', () => {
  const given = { ...example, mask: new Uint8Array(20) }
  const { initialEntropy, ...rest } = given
  const step = optimizationStep(gtpo(), rest)
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  expect(step.state!.data).toEqual({ initialEntropy: null })
})

edge('gtpo', 'a missing column', () => {
  expect(() => prepareStep(gtpo(), { ...fixture, rewards: [1, 0] })).toThrow('gtpo: entropy is missing from the batch')
  const { token, ...rest } = example
  expect(() => prepareStep(gtpo(), rest)).toThrow('gtpo: token is missing from the batch')
})

edge('gtpo', 'a reward that is the mean but for rounding has no sign', () => {
  // All tokens agree: rollouts with a sign are in conflict everywhere. The mean of the second group is 0.7000000000000001.
  for (const rewards of [
    [0.1, 0.1, 0.1],
    [0.6, 0.7, 0.8],
    [0.1, 0.2, 0.3],
  ]) {
    const given = { ...batchOf([[1, 2], [1, 2], [1, 2]], rewards, [0.5, 0.5, 0.5]), initialEntropy: 1 } // biome-ignore format: short
    const { tokenAdvantage } = prepareStep(gtpo(), given)
    // Without a sign the weight is 1, and the entropy is left.
    expect(Array.from(tokenAdvantage!.subarray(2, 4))).toEqual([-0.05, -0.05].map(Math.fround))
  }
})

edge('gtpo', 'a rejected rollout enters no mean', () => {
  const given = { ...batchOf([[1], [2], [3]], [1, 0, Number.NaN], [0, 0, 0]), initialEntropy: 1, rolloutMask: [1, 1, 0] } // biome-ignore format: short
  expect(Array.from(prepareStep(gtpo(), given).tokenAdvantage!)).toEqual([0.5, -0.5, 0])
})
