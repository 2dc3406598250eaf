// The statistics of micro-batches and ranks, added up.
import { grpoError } from '../addon/errors.js'
import { hostArray, lengthOf } from '../arrays/array.js'
import { isDeviceArray, live } from '../arrays/device_memory.js'
import type { ArrayInput } from '../arrays/input.js'

const extremes = { Min: { add: Math.min, of: Infinity }, Max: { add: Math.max, of: -Infinity } } as const
const sum = { add: (a: number, b: number) => a + b, of: 0 }

/**
 * Counts and sums are added, extremes, whose names end in Min or Max, compared.
 *
 * @param names  of the numbers of one array, in their order
 */
export function mergeStats<Name extends string>(
  operation: string,
  names: readonly Name[],
  stats: readonly ArrayInput<'f64'>[],
): (name: Name) => number {
  const rules = names.map((name) => extremes[name.slice(-3) as keyof typeof extremes] ?? sum)
  const total: number[] = rules.map(({ of }) => of)
  stats.forEach((given, i) => {
    const argument = `stats[${i}]`
    if (isDeviceArray(given)) live(operation, argument, given)
    const { dtype, data } = hostArray(operation, argument, isDeviceArray(given) ? given.readSync() : given, false)
    if (dtype !== 'f64') throw grpoError('dtype', operation, argument, `has dtype ${dtype}, expected f64`)
    if (lengthOf(data) !== names.length) {
      throw grpoError('shape', operation, argument, `has length ${lengthOf(data)}, expected ${names.length}`)
    }
    rules.forEach(({ add }, j) => {
      total[j] = add(total[j] as number, data[j] as number)
    })
  })
  return (name) => total[names.indexOf(name)] as number
}
