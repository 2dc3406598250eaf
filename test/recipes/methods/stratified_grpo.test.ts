import { expect } from 'vitest'
import { prepareStep } from '../../../lib/recipes/index.js'
import { stratifiedGrpo } from '../../../lib/recipes/methods/stratified_grpo.js'
import { random } from '../../support/random.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = { rewards: [1, 0, 1, 1, 0, 0, 1, 1], groupStart: [0, 8], stratum: [0, 0, 1, 1, 1, 1, 2, 2] }
const advantagesOf = (options: Parameters<typeof stratifiedGrpo>[0], given = batch) =>
  prepareStep(stratifiedGrpo(options), given).advantage!

golden('stratifiedGrpo', 'the two normalisations and their blend', (check) => {
  const [high, low, one] = [0.774595069245, -1.29099178207, 0.999998000004]
  check.float32(advantagesOf({ alpha: 0 }), [high, low, high, high, low, low, high, high])
  check.float32(advantagesOf({ alpha: 1 }), [one, -one, one, one, -one, -one, 0, 0])
  const [a, b, c] = [0.954917413852, -1.05819675642, 0.154919013849]
  check.float32(advantagesOf({ alpha: 0.8 }), [a, b, a, a, b, b, c, c])
})

golden('stratifiedGrpo', 'ddof 1', (check) => {
  const [a, b, c] = [0.837732610492, -0.934341602134, 0.144913487462]
  check.float32(advantagesOf({ alpha: 0.8, ddof: 1 }), [0.710598112413, -0.807207104054, a, a, b, b, c, c])
})

const withSingleton = { rewards: [0.9, 0.7, 0.5, 0.1, 0.3, 0.2], groupStart: [0, 6], stratum: [0, 0, 0, 1, 1, 2] }
golden('stratifiedGrpo', 'a stratum of one', (check) => {
  check.float32(
    advantagesOf({}, withSingleton),
    [1.37457693717, 0.355408063502, -0.663760810162, -1.09756528896, 0.386749161959, -0.355408063502],
  ) // biome-ignore format: short
})

edge('stratifiedGrpo', 'a stratum of one has the stratified advantage 0, with both divisors', () => {
  for (const ddof of [0, 1]) expect(advantagesOf({ alpha: 1, ddof }, withSingleton)[5]).toBe(0)
})

edge('stratifiedGrpo', 'the cross-stratum bias and the variances, as the paper proves them', () => {
  const { integer, normal } = random(5)
  const rewards = Array.from({ length: 40 }, () => Math.fround(normal()))
  const given = { rewards, groupStart: [0, 17, 40], stratum: rewards.map(() => integer(4)) }
  const overall = advantagesOf({ alpha: 0, scale: 'none' }, given)
  const within = advantagesOf({ alpha: 1, scale: 'none' }, given)
  const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length
  for (const [begin, end] of [
    [0, 17],
    [17, 40],
  ] as const) {
    // biome-ignore format: a table
    const members = rewards.map((_, i) => i).slice(begin, end)
    const center = mean(members.map((i) => rewards[i]!))
    const bias = members.map((i) => {
      const same = members.filter((j) => given.stratum[j] === given.stratum[i])
      return mean(same.map((j) => rewards[j]!)) - center
    })
    // Two roundings to float32 of numbers below 4.
    members.forEach((i, k) => expect(Math.abs(overall[i]! - within[i]! - bias[k]!)).toBeLessThan(2 ** -21))
    const squares = (x: ArrayLike<number>) => mean(members.map((i) => x[i]! ** 2))
    expect(squares(overall) - squares(within)).toBeCloseTo(mean(bias.map((b) => b ** 2)), 6)
  }
})

edge('stratifiedGrpo', 'equal numbers in different groups are different strata; order does not matter', () => {
  const given = { rewards: [1, 0, 5, 0, 1, 7], groupStart: [0, 3, 6], stratum: [4, -1, 4, 4, 9, 4] }
  const within = Array.from(advantagesOf({ alpha: 1, scale: 'none' }, given))
  expect(within).toEqual([-2, 0, 2, -3.5, 0, 3.5])
})

edge('stratifiedGrpo', 'one stratum is GRPO; equal rewards, a group of one and rejected rollouts have 0', () => {
  const one = { ...batch, stratum: Array(8).fill(3) as number[] }
  expect(Array.from(advantagesOf({ alpha: 1 }, one))).toEqual(Array.from(advantagesOf({ alpha: 0 }, one)))
  const given = { rewards: [0.1, 0.1, 0.1, 4, 1, 9, 0], groupStart: [0, 3, 4, 7], stratum: [0, 0, 1, 0, 0, 0, 0] }
  const prepared = prepareStep(stratifiedGrpo(), { ...given, rolloutMask: [1, 1, 1, 1, 1, 0, 1] })
  expect(Array.from(prepared.advantage!).slice(0, 4)).toEqual([0, 0, 0, 0])
  expect(prepared.advantage![5]).toBe(0)
  expect(prepared.advantage![4]).toBe(-prepared.advantage![6]!)
})

edge('stratifiedGrpo', 'everything masked', () => learnsNothing(stratifiedGrpo(), { rewards: [0, 1], stratum: [0, 0] }))
edge('stratifiedGrpo', 'a missing column', () => {
  expect(() => prepareStep(stratifiedGrpo(), { rewards: [1], groupStart: [0, 1] } as never)).toThrow(
    'stratifiedGrpo: stratum is missing from the batch, expected integer[N]: the stratum of each rollout',
  )
})
