// Whole numbers in other containers than an Int32Array: ids come from tokenizers in 64 bits, offsets are written as lists.
import { grpoError } from '../addon/errors.js'
import { allocate, type HostArray, lengthOf, listed, typedArrayName, viewOf } from './array.js'

/**
 * As i32, a copy; undefined if the value is neither a BigInt64Array nor a list.
 *
 * @param mask  where it is 0 the value is not looked at, and 0 in the copy: padding may hold anything
 */
export function integersOf(
  operation: string,
  name: string,
  value: unknown,
  mask?: Uint8Array,
): HostArray<'i32'> | undefined {
  if (isWide(value)) return ofWide(operation, name, value, mask)
  return Array.isArray(value) ? ofList(operation, name, value, mask) : undefined
}

export const isWide = (value: unknown): value is BigInt64Array => typedArrayName(value) === 'BigInt64Array'

const tooLarge = (operation: string, name: string, value: number | bigint, at: number) =>
  grpoError('value', operation, name, `has ${value} at ${at}, expected a whole number from -2147483648 to 2147483647`)

function ofWide(operation: string, name: string, value: BigInt64Array, mask?: Uint8Array): HostArray<'i32'> {
  const length = lengthOf(value)
  // The low and the high half of each: a bigint for each value would be garbage for the collector.
  const halves = viewOf(Int32Array, operation, name, value, 2 * length)
  const x = allocate(operation, name, 'i32', [length])
  for (let i = 0; i < length; i++) {
    if (mask !== undefined && mask[i] === 0) continue
    const low = halves[2 * i] as number
    if (low >> 31 !== halves[2 * i + 1]) throw tooLarge(operation, name, value[i] as bigint, i)
    x.data[i] = low
  }
  return x
}

function ofList(operation: string, name: string, list: readonly unknown[], mask?: Uint8Array): HostArray<'i32'> {
  const x = allocate(operation, name, 'i32', [list.length])
  for (let i = 0; i < x.data.length; i++) {
    if (mask !== undefined && mask[i] === 0) continue
    const value = list[i]
    if (typeof value !== 'number') throw grpoError('kind', operation, name, `${listed(value, i)}, expected a number`)
    if ((value | 0) !== value) throw tooLarge(operation, name, value, i)
    x.data[i] = value
  }
  return x
}
