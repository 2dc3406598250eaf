import type { DType } from './addon/dtypes.js'
import { grpoError } from './addon/errors.js'
import { allocate, array, describe, type HostArray, typedArrayName } from './arrays/array.js'
import { call } from './call/run.js'

function convert<To extends DType>(name: string, x: HostArray, to: To): HostArray<To>['data'] {
  const y = allocate(name, 'x', to, [...x.shape])
  call('convert', { x: x as HostArray<'f32' | 'bf16' | 'f16'> }, { out: { x: y } }).now()
  return y.data
}

function checked<T>(name: string, x: T, kind: 'Float32Array' | 'Uint16Array'): T {
  if (typedArrayName(x) === kind) return x
  throw grpoError('kind', name, 'x', `is ${describe(x)}, expected a ${kind}`)
}

/**
 * float32 to bfloat16 bits, rounded to nearest even; NaN stays NaN, infinities stay.
 *
 * Accuracy: exact, the nearest bfloat16.
 *
 * @param x  any length
 * @returns the bits, as array(bits, shape, 'bf16') takes them
 * @throws TypeError if x is not a Float32Array
 * @example
 * import { fromBf16, toBf16 } from 'grpo-kernels'
 *
 * const bits = toBf16(new Float32Array([1, 0.1, -3.14159]))
 * console.log(bits, fromBf16(bits))
 */
export const toBf16 = (x: Float32Array): Uint16Array =>
  convert('toBf16', array(checked('toBf16', x, 'Float32Array')), 'bf16')

/**
 * bfloat16 bits to float32, exactly.
 *
 * @param x  any length
 * @throws TypeError if x is not a Uint16Array
 */
export const fromBf16 = (x: Uint16Array): Float32Array =>
  convert('fromBf16', array(checked('fromBf16', x, 'Uint16Array'), undefined, 'bf16'), 'f32')

/**
 * float32 to IEEE half bits, rounded to nearest even; beyond 65,504 (after rounding) it is infinity, below 2^-14 subnormal.
 *
 * Accuracy: exact, the nearest half.
 *
 * @param x  any length
 * @throws TypeError if x is not a Float32Array
 * @example
 * import { fromF16, toF16 } from 'grpo-kernels'
 *
 * const bits = toF16(new Float32Array([1, 0.1, 70000, 1e-8]))
 * console.log(bits, fromF16(bits))
 */
export const toF16 = (x: Float32Array): Uint16Array =>
  convert('toF16', array(checked('toF16', x, 'Float32Array')), 'f16')

/**
 * IEEE half bits to float32, exactly.
 *
 * @param x  any length
 * @throws TypeError if x is not a Uint16Array
 */
export const fromF16 = (x: Uint16Array): Float32Array =>
  convert('fromF16', array(checked('fromF16', x, 'Uint16Array'), undefined, 'f16'), 'f32')
