import { grpoError } from './addon/errors.js'
import { describe } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { call, checkSignal, map, operation, toHost, value } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface MomentsInputs {
  x: ArrayInput<'f32'>
  mask?: ArrayInput<'u8'> | undefined
}

/** Its result is three numbers: there is no output to write elsewhere. */
export type MomentsOptions = Omit<CallOptions, 'out'>

/** Statistics of a set of numbers, from which those of a union of sets can be computed. */
export interface Moments {
  /** How many numbers. */
  count: number
  /** Their mean; 0 if there are none. */
  mean: number
  /** Sum of their squared distances from the mean: (count - ddof) times the variance. */
  m2: number
}

export const matches: Matches<'moments', MomentsInputs, MomentsOptions> = true

/**
 * Count, mean and sum of squared distances from the mean of the unmasked values of a batch.
 *
 *   mean = (1 / count) sum_i x[i],   m2 = sum_i (x[i] - mean)^2,   over i with mask[i] != 0
 *
 * float64 in two passes over blocks of fixed length: the same bits with any number of threads. Values that are all equal
 * have exactly that mean and exactly m2 = 0. No values at all give 0, 0, 0. NaN and infinity propagate; where masked they
 * are not looked at. On a device it waits for the numbers.
 *
 * Accuracy: float64: of n values, the error of the mean is below 8 n 2^-53 of the largest magnitude, that of m2 below
 * n times the product of the two; values that share an offset of 1e6 keep their digits.
 *
 * @param inputs.x     f32[N]  any unit
 * @param inputs.mask  u8[N]   0 = does not count
 * @returns count, mean (unit of x) and m2 (its square), as numbers; for `mergeMoments` and `standardize`
 * @throws RangeError if the lengths differ
 * @see Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983
 * @example
 * import { moments } from 'grpo-kernels'
 *
 * console.log(moments({ x: new Float32Array([1, 2, 3, 6]) }))
 * console.log(moments({ x: new Float32Array([1, 2, NaN, 6]), mask: new Uint8Array([1, 1, 0, 1]) }))
 */
export const moments = operation((inputs: MomentsInputs, options: MomentsOptions = {}) => {
  if ((options as CallOptions | null)?.out !== undefined) {
    throw grpoError('unknown', 'moments', 'out', 'is no option of this operation, whose result is three numbers')
  }
  return map(toHost(call('moments', inputs, options)), ({ moments: { data } }): Moments => {
    const [count = 0, mean = 0, m2 = 0] = data
    return { count, mean, m2 }
  })
})

function checked(list: unknown): readonly Moments[] {
  if (!Array.isArray(list)) throw grpoError('kind', 'mergeMoments', 'list', `is ${describe(list)}, expected an array`)
  for (const [i, item] of list.entries()) checkMoments('mergeMoments', `list[${i}]`, item)
  return list as Moments[]
}

/** Throws unless `item` is { count, mean, m2 }. */
export function checkMoments(operation: string, argument: string, item: unknown): asserts item is Moments {
  const { count, mean, m2 } = (item ?? {}) as Partial<Moments>
  if (typeof count !== 'number' || typeof mean !== 'number' || typeof m2 !== 'number') {
    throw grpoError('kind', operation, argument, `is ${describe(item)}, expected { count, mean, m2 }, three numbers`)
  }
  if (!(count >= 0)) throw grpoError('value', operation, argument, `has count ${count}, expected at least 0`)
  if (m2 < 0) throw grpoError('value', operation, argument, `has m2 ${m2}, expected at least 0: it is a sum of squares`)
}

/**
 * The moments of several sets together, from those of each: of the ranks of a distributed trainer, or of micro-batches.
 *
 *   count = n + k,   mean = mean_n + d k / count,   m2 = m2_n + m2_k + d^2 n k / count,   d = mean_k - mean_n
 *
 * From the first to the last, in float64; no term cancels, however large an offset the sets share. The order changes no
 * more than the last digits: ranks that need the same bits merge in the same order. Sets that hold one and the same value
 * keep exactly that mean and m2 = 0. An empty list, and sets without values, add nothing.
 *
 * @param list  results of `moments`
 * @returns count, mean, m2 of the union
 * @throws TypeError if an entry is not { count, mean, m2 }; RangeError if a count or m2 is negative
 * @see Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983
 * @example
 * import { mergeMoments, moments } from 'grpo-kernels'
 *
 * const here = moments({ x: new Float32Array([1, 2, 3]) })
 * const there = moments({ x: new Float32Array([6]) }) // of another rank
 * console.log(mergeMoments([here, there]))
 */
export const mergeMoments = operation((list: readonly Moments[], options: Pick<CallOptions, 'signal'> = {}) => {
  checkSignal('mergeMoments', options)
  const moments = checked(list)
  return value(() => moments.reduce(merge, nothing))
})

const nothing: Moments = { count: 0, mean: 0, m2: 0 }

function merge(a: Moments, b: Moments): Moments {
  if (a.count === 0) return { count: b.count, mean: b.mean, m2: b.m2 }
  if (b.count === 0) return a
  const count = a.count + b.count
  const delta = a.mean === b.mean ? 0 : b.mean - a.mean
  // With an infinite mean too, the order changes nothing.
  if (!Number.isFinite(delta)) return { count, mean: a.mean + b.mean, m2: Number.NaN }
  const squares = delta * delta * ((a.count / count) * b.count)
  return { count, mean: a.mean + delta * (b.count / count), m2: a.m2 + b.m2 + squares }
}
