// mulberry32, whose state goes on by 0x6d2b79f5 from what the seed and the step make of it:
//   state[n] = state[n - 1] + 0x6d2b79f5;  x = (s ^ s >>> 15) (s | 1);  y = x ^ (x + (x ^ x >>> 7) (x | 61));  y ^ y >>> 14
import { expect, test } from 'vitest'
import { distinctDraws, randomNumbers, repeatedDraws, sampleOf } from '../../../lib/recipes/parts/draws.js'

const m = 2n ** 32n
function mulberry32(begin: bigint, n: number): number[] {
  return Array.from({ length: n }, (_, i) => {
    const s = (begin + BigInt(i + 1) * 0x6d2b79f5n) % m
    const x = ((s ^ (s >> 15n)) * (s | 1n)) % m
    const y = x ^ ((x + (((x ^ (x >> 7n)) * (x | 61n)) % m)) % m)
    return Number(y ^ (y >> 14n)) / 2 ** 32
  })
}

test.each([
  [0, 0],
  [1, 0],
  [7, 12],
  [2 ** 31 - 1, 100_000],
])('the numbers of seed %d at step %d', (seed, step) => {
  const random = randomNumbers(seed, step)
  const begin = ((BigInt(seed) * 0x9e3779b9n) % m) ^ ((BigInt(step + 1) * 0x85ebca6bn) % m)
  expect(Array.from({ length: 20 }, random)).toEqual(mulberry32(begin, 20))
})

test('draws of numbers that are known', () => {
  const numbers =
    (...list: number[]) =>
    () =>
      list.shift() as number
  expect(repeatedDraws([0, 1, 0, 3], 4, numbers(0, 0.24, 0.25, 0.999))).toEqual([1, 1, 3, 3])
  // 1 - 2^-53 of the sum, rounded, is the sum: what has no weight is not drawn then either.
  expect(repeatedDraws([0.1, 0.2, 0.3, 0], 1, numbers(1 - 2 ** -53))).toEqual([2])
  expect(repeatedDraws([0, 0], 3, numbers(0, 0.49, 0.5))).toEqual([0, 0, 1])
  expect(distinctDraws([1, 4, 0], 2, numbers(0.5, 0.2, 0.9))).toEqual([1, 0]) // log(u) / w: -0.69, -0.40, -infinity
  expect(distinctDraws([0, 0, 0], 2, numbers(0.1, 0.9, 0.5))).toEqual([1, 2])
  expect(sampleOf([5, 6, 7], 2, numbers(0.7, 0))).toEqual([7, 6])
  expect(sampleOf([5, 6], 9, numbers(0.5, 0.9))).toEqual([6, 5])
})
