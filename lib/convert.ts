import { type GrpoError, grpoError } from './addon/errors.js'
import { allocate, array, describe, type HostArray, lengthOf, typedArrayName } from './arrays/array.js'
import { call, checkNames, renamed, withErrors } from './call/run.js'

/** Where a conversion writes. */
export interface ConvertOptions<Data extends Float32Array | Uint16Array> {
  /** As long as x, and not its memory; default: a new array. */
  out?: Data | undefined
}

const containers = { f32: 'Float32Array', bf16: 'Uint16Array', f16: 'Uint16Array' } as const
type Convertible = keyof typeof containers

function checked<D extends Convertible>(name: string, argument: string, x: unknown, dtype: D): HostArray<D> {
  if (typedArrayName(x) === containers[dtype]) return array(x as Uint16Array, undefined, dtype as 'f16') as HostArray<D>
  throw grpoError('kind', name, argument, `is ${describe(x)}, expected a ${containers[dtype]}`)
}

/** Of the row both arrays are x; its output is called out here. */
function ofOut(error: GrpoError): GrpoError {
  if (!error.message.includes(': x overlaps x')) return error
  return Object.assign(error, { argument: 'out', message: error.message.replace(': x overlaps', ': out overlaps') })
}

function convert<From extends Convertible, To extends Convertible>(
  name: string,
  values: HostArray<From>['data'],
  from: From,
  to: To,
  options: { out?: HostArray<To>['data'] | undefined } = {},
): HostArray<To>['data'] {
  const x = checked(name, 'x', values, from)
  const { out } = checkNames(name, options, ['out'], 'option')
  const y = out === undefined ? allocate(name, 'x', to, [...x.shape]) : checked(name, 'out', out, to)
  if (lengthOf(y.data) !== lengthOf(x.data)) {
    throw grpoError('shape', name, 'out', `has length ${lengthOf(y.data)}, expected ${lengthOf(x.data)}, that of x`)
  }
  const computed = renamed('convert', name, () => call('convert', { x }, { out: { x: y } }))
  withErrors(computed, ofOut).now()
  return y.data
}

/**
 * float32 to bfloat16 bits, rounded to nearest even; NaN stays NaN, infinities stay.
 *
 * Accuracy: exact, the nearest bfloat16.
 *
 * @param x            any length
 * @param options.out  a Uint16Array of that length to write to; default: a new one
 * @returns the bits, as array(bits, shape, 'bf16') takes them
 * @throws TypeError if x is not a Float32Array, or out no Uint16Array; RangeError for one of another length, or in x
 * @example
 * import { fromBf16, toBf16 } from 'grpo-kernels'
 *
 * const bits = toBf16(new Float32Array([1, 0.1, -3.14159]))
 * console.log(bits, fromBf16(bits))
 */
export const toBf16 = (x: Float32Array, options?: ConvertOptions<Uint16Array>): Uint16Array =>
  convert('toBf16', x, 'f32', 'bf16', options)

/**
 * bfloat16 bits to float32, exactly.
 *
 * @param x            any length
 * @param options.out  a Float32Array of that length to write to; default: a new one
 * @throws TypeError if x is not a Uint16Array, or out no Float32Array; RangeError for one of another length, or in x
 */
export const fromBf16 = (x: Uint16Array, options?: ConvertOptions<Float32Array>): Float32Array =>
  convert('fromBf16', x, 'bf16', 'f32', options)

/**
 * float32 to IEEE half bits, rounded to nearest even; beyond 65,504 (after rounding) it is infinity, below 2^-14 subnormal.
 *
 * Accuracy: exact, the nearest half.
 *
 * @param x            any length
 * @param options.out  a Uint16Array of that length to write to; default: a new one
 * @throws TypeError if x is not a Float32Array, or out no Uint16Array; RangeError for one of another length, or in x
 * @example
 * import { fromF16, toF16 } from 'grpo-kernels'
 *
 * const bits = toF16(new Float32Array([1, 0.1, 70000, 1e-8]))
 * console.log(bits, fromF16(bits))
 */
export const toF16 = (x: Float32Array, options?: ConvertOptions<Uint16Array>): Uint16Array =>
  convert('toF16', x, 'f32', 'f16', options)

/**
 * IEEE half bits to float32, exactly.
 *
 * @param x            any length
 * @param options.out  a Float32Array of that length to write to; default: a new one
 * @throws TypeError if x is not a Uint16Array, or out no Float32Array; RangeError for one of another length, or in x
 */
export const fromF16 = (x: Uint16Array, options?: ConvertOptions<Float32Array>): Float32Array =>
  convert('fromF16', x, 'f16', 'f32', options)
