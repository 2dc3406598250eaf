import {
  constructors,
  containers,
  type DataOf,
  type DType,
  dtypes,
  type Float16Values,
  type TypedArray,
} from '../addon/dtypes.js'
import { grpoError } from '../addon/errors.js'
import { native } from '../addon/native.js'

/**
 * An array in the host's memory: row-major, and dense but for a stride between its rows. bf16 and f16 hold their bits in
 * a Uint16Array.
 */
export interface HostArray<D extends DType = DType> {
  readonly dtype: D
  readonly shape: readonly number[]
  readonly data: DataOf[D]
  /** Elements from one row, an entry of the first axis, to the next; absent: nothing lies between them. */
  readonly stride?: number | undefined
}

/** What an array may have beside memory and shape. */
export interface ArrayOptions {
  /** Elements from one row, an entry of the first axis, to the next; default: nothing lies between them. */
  stride?: number | undefined
}

// What a typed array says of itself can be overridden, by a subclass or another prototype, and `instanceof` does not know
// the arrays of other realms (node:vm, test runners). These getters read the object's own slots; memory depends on them.
const typedArrayPrototype = Object.getPrototypeOf(Uint8Array.prototype) as object
const slot = (key: PropertyKey) =>
  Object.getOwnPropertyDescriptor(typedArrayPrototype, key)?.get as (this: unknown) => unknown
const nameSlot = slot(Symbol.toStringTag)
const lengthSlot = slot('length')
const bufferSlot = slot('buffer')
const byteOffsetSlot = slot('byteOffset')

/** 'Float32Array', ... of whatever realm; undefined for anything else. */
export const typedArrayName = (x: unknown): string | undefined => nameSlot.call(x) as string | undefined

/** The length of a typed array; 0 once its memory is detached. */
export const lengthOf = (data: ArrayBufferView): number => lengthSlot.call(data) as number

export const detached = 'is detached: its memory has been transferred elsewhere'

/** The same memory as another typed array: `length` values from where it begins. */
export function viewOf<View>(
  Type: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => View,
  operation: string,
  name: string,
  data: unknown,
  length: number,
): View {
  try {
    return new Type(bufferSlot.call(data) as ArrayBufferLike, byteOffsetSlot.call(data) as number, length)
  } catch (cause) {
    throw grpoError('value', operation, name, detached, cause)
  }
}

/** The bits of a Float16Array, where an engine has it, as the addon takes them; anything else as it is. */
const bitsOfHalves = <Data>(operation: string, name: string, data: Data): Data | Uint16Array =>
  typedArrayName(data) === 'Float16Array'
    ? viewOf(Uint16Array, operation, name, data, lengthOf(data as unknown as ArrayBufferView))
    : data

/** The dtypes that plain typed arrays stand for; a Uint16Array could be bf16 or f16 and stands for none. */
const plainDtypes: ReadonlyMap<string | undefined, DType> = new Map([
  ['Float32Array', 'f32'],
  ['Int32Array', 'i32'],
  ['Uint8Array', 'u8'],
  ['Float64Array', 'f64'],
  ['Float16Array', 'f16'],
])

export function sizeOf(shape: readonly number[]): number {
  let product = 1
  for (const size of shape) product *= size
  return product
}

/** Elements of a row, an entry of the first axis. */
export const rowSize = (shape: readonly number[]): number => sizeOf(shape.slice(1))

/** Elements from the first to the last, where rows lie `stride` apart; undefined or 0: where they are dense. */
export function extentOf(shape: readonly number[], stride: number | undefined): number {
  if (stride === undefined || stride === 0) return sizeOf(shape)
  const [rows = 0] = shape
  return rows === 0 ? 0 : (rows - 1) * stride + rowSize(shape)
}

/**
 * Wraps a typed array as a host array, without a copy.
 *
 * @param data   Float32Array, Int32Array, Uint8Array, Float64Array, Float16Array where the engine has one (its bits, as a
 *               Uint16Array of the same memory), or Uint16Array (then dtype is needed), of any realm
 * @param shape  sizes of the axes; default: one axis. The array may hold more than their product; an operation says if
 *               it may not.
 * @param dtype  'bf16' or 'f16' for a Uint16Array
 * @param options.stride  elements from one row, an entry of the first axis, to the next, for a part of each row of
 *               something wider: taken where an operation's page says so. What lies between is neither read nor written.
 * @throws TypeError if the dtype does not fit the typed array; RangeError if the array is shorter than the shape, or the
 *         stride than a row
 * @example
 * import { array, toBf16 } from 'grpo-kernels'
 *
 * console.log(array(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]))
 * console.log(array(toBf16(new Float32Array([1, 2])), [2], 'bf16'))
 * // The first two columns of three.
 * console.log(array(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 2], 'f32', { stride: 3 }))
 */
export function array(
  data: Float32Array,
  shape?: readonly number[],
  dtype?: 'f32',
  options?: ArrayOptions,
): HostArray<'f32'>
export function array(
  data: Int32Array,
  shape?: readonly number[],
  dtype?: 'i32',
  options?: ArrayOptions,
): HostArray<'i32'>
export function array(
  data: Uint8Array,
  shape?: readonly number[],
  dtype?: 'u8',
  options?: ArrayOptions,
): HostArray<'u8'>
export function array(
  data: Float64Array,
  shape?: readonly number[],
  dtype?: 'f64',
  options?: ArrayOptions,
): HostArray<'f64'>
export function array(
  data: Float16Values,
  shape?: readonly number[],
  dtype?: 'f16',
  options?: ArrayOptions,
): HostArray<'f16'>
export function array<D extends 'bf16' | 'f16'>(
  data: Uint16Array,
  shape: readonly number[] | undefined,
  dtype: D,
  options?: ArrayOptions,
): HostArray<D>
export function array(data: TypedArray, shape?: readonly number[], dtype?: DType, options?: ArrayOptions): HostArray
export function array(
  data: TypedArray | Float16Values,
  shape?: readonly number[],
  dtype?: DType,
  options: ArrayOptions = {},
): HostArray {
  const container = typedArrayName(data)
  if (container === undefined) {
    throw grpoError('kind', 'array', 'data', `is ${describe(data)}, expected a typed array${remedy('data', data)}`)
  }
  const actual = dtype ?? plainDtypes.get(container)
  if (actual === undefined && container === 'Uint16Array') {
    throw grpoError('dtype', 'array', 'dtype', "is missing, expected 'bf16' or 'f16' for a Uint16Array")
  }
  if (actual === undefined) {
    const expected = "expected Float32Array, Int32Array, Uint8Array, Float64Array, or Uint16Array with 'bf16' or 'f16'"
    throw grpoError('dtype', 'array', 'data', `is ${describe(data)}, ${expected}${remedy('data', data)}`)
  }
  const bits = actual === 'f16' ? bitsOfHalves('array', 'data', data) : data
  const dense = { dtype: actual, shape: shape ?? [lengthOf(data as TypedArray)], data: bits } as HostArray
  const wrapped = withStride(dense, strideIn('array', options))
  checkHostArray('array', 'data', wrapped, true)
  return Object.freeze(wrapped)
}

/** The stride in an object of options. @throws for anything else in it */
export function strideIn(operation: string, options: ArrayOptions): number | undefined {
  if (typeof options !== 'object' || options === null) {
    throw grpoError('kind', operation, 'options', `is ${describe(options)}, expected an object`)
  }
  const { stride, ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown === undefined) return stride
  throw grpoError('unknown', operation, unknown, 'is no option of this function; it has stride')
}

/** The property is there only where rows have a stride. */
export const withStride = <X extends { readonly stride?: number | undefined }>(x: X, stride: number | undefined): X =>
  stride === undefined ? x : { ...x, stride }

/** Bytes from which on memory is worth large pages; below, the addon would not ask for them. */
const large = 8 * 2 ** 20

export function allocate<D extends DType>(operation: string, name: string, dtype: D, shape: number[]): HostArray<D> {
  try {
    const data = new constructors[dtype](sizeOf(shape)) as DataOf[D]
    if (data.byteLength >= large) native.preferLargePages(data, data.byteLength)
    return { dtype, shape, data }
  } catch (cause) {
    throw grpoError('memory', operation, name, `cannot be allocated with shape [${shape.join(', ')}]`, cause)
  }
}

/**
 * A host array from what a caller passed: plain typed arrays are wrapped, everything else is looked at closely. What is
 * returned holds what was looked at: each property is read once, so that a getter cannot change it afterwards.
 *
 * @param strided  whether its rows may lie apart, or the memory be longer than the shape
 * @param dtypes   that it may have; none: any
 */
export function hostArray(
  operation: string,
  name: string,
  value: unknown,
  strided: boolean,
  dtypes: readonly DType[] = [],
): HostArray {
  const container = typedArrayName(value)
  const plain = container === undefined ? undefined : plainDtypes.get(container)
  if (plain !== undefined) {
    const data = bitsOfHalves(operation, name, value) as TypedArray
    return { dtype: plain, shape: [lengthOf(data)], data } as HostArray
  }
  if (container === 'Uint16Array') {
    throw grpoError('dtype', operation, name, "is a plain Uint16Array, expected array(data, shape, 'bf16' or 'f16')")
  }
  if (typeof (value as { pointer?: unknown } | null | undefined)?.pointer === 'bigint') {
    const problem = `is ${describe(value)} with a pointer, expected an array: cuda.wrap makes one of a pointer`
    throw grpoError('device', operation, name, problem)
  }
  if (typeof value !== 'object' || value === null || !('data' in value)) {
    const wanted = `${dtypes.length > 0 ? ` of ${dtypes.join(' or ')}` : ''} or array(data, shape)`
    const problem = `is ${describe(value)}, expected a typed array${wanted}${remedy(name, value, dtypes)}`
    throw grpoError('kind', operation, name, problem)
  }
  const { dtype, shape, data: given, stride } = value as HostArray
  const data = dtype === 'f16' ? bitsOfHalves(operation, name, given) : given
  const dense = { dtype, shape: Array.isArray(shape) ? [...shape] : shape, data } as HostArray
  const x = withStride(dense, stride)
  checkHostArray(operation, name, x, strided)
  return x
}

export function checkDtype(operation: string, name: string, dtype: DType): void {
  if (dtypes.includes(dtype)) return
  throw grpoError('dtype', operation, name, `has dtype ${describe(dtype)}, expected one of ${dtypes.join(', ')}`)
}

export function checkShape(operation: string, name: string, given: readonly number[]): void {
  if (!Array.isArray(given) || given.length === 0 || given.length > 4) {
    throw grpoError('kind', operation, name, `has shape ${describe(given)}, expected a list of one to four sizes`)
  }
  for (const size of given) {
    if (!Number.isInteger(size) || size < 0 || size >= 2 ** 31) {
      const shape = given.map(describe).join(', ')
      throw grpoError('shape', operation, name, `has shape [${shape}]: an axis is a whole number from 0 to 2147483647`)
    }
  }
}

/** @throws unless the stride of an array is one between its rows */
export function checkStride(operation: string, name: string, shape: readonly number[], stride: unknown): void {
  if (stride === undefined) return
  if (typeof stride !== 'number')
    throw grpoError('kind', operation, name, `has stride ${describe(stride)}, expected a number`)
  const row = rowSize(shape)
  if (shape.length >= 2 && Number.isSafeInteger(stride) && stride >= row) return
  const expected = shape.length < 2 ? 'expected none: it has one axis' : `expected at least the ${row} values of a row`
  throw grpoError('shape', operation, name, `has stride ${stride}, ${expected}`)
}

/** @throws where the rows of an array lie apart */
export function checkNoStride(
  operation: string,
  name: string,
  shape: readonly number[],
  stride: number | undefined,
): void {
  if (stride === undefined || stride === rowSize(shape)) return
  const wants = `expected ${rowSize(shape)}: this array has to be dense`
  throw grpoError('shape', operation, name, `has rows that lie ${stride} apart, ${wants}`)
}

function checkHostArray(operation: string, name: string, x: HostArray, strided: boolean): void {
  checkDtype(operation, name, x.dtype)
  const container = containers[x.dtype]
  if (typedArrayName(x.data) !== container) {
    throw grpoError('dtype', operation, name, `holds ${describe(x.data)}, but ${x.dtype} lies in a ${container}`)
  }
  checkShape(operation, name, x.shape)
  checkStride(operation, name, x.shape, x.stride)
  if (!strided) checkNoStride(operation, name, x.shape, x.stride)
  const needed = extentOf(x.shape, x.stride)
  const length = lengthOf(x.data)
  if (length < needed || (length > needed && !strided)) {
    const apart = x.stride === undefined ? '' : ` with rows ${x.stride} apart`
    const wants = `its shape [${x.shape.join(', ')}]${apart} needs ${needed}`
    throw grpoError('shape', operation, name, `holds ${length} values, but ${wants}`)
  }
}

/** How a list, or a typed array of another kind, becomes one that is taken: ": Float32Array.from(x)". */
function remedy(name: string, value: unknown, dtypes: readonly DType[] = []): string {
  const container = typedArrayName(value)
  if (container === undefined && !Array.isArray(value)) return ''
  // Whole numbers stay whole where they may.
  const whole = /^(Big)?U?[Ii]nt(?!8C)/.test(container ?? '') && (dtypes.length === 0 || dtypes.includes('i32'))
  const own = whole ? 'i32' : (dtypes.find((dtype) => dtype !== 'bf16' && dtype !== 'f16') ?? 'f32')
  return `: ${constructors[own].name}.from(${name}${container?.startsWith('Big') ? ', Number' : ''}) makes one`
}

/** "has a string at 3": what a list holds. */
export const listed = (value: unknown, at: number): string => `has ${describe(value)} at ${at}`

/** A few words on a value of whatever kind, for error texts. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return value.length > 40 ? `"${value.slice(0, 40)}..."` : `"${value}"`
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (value === null || typeof value !== 'object') return String(value)
  if (Array.isArray(value)) return `a plain array of ${value.length}`
  const name: unknown = typedArrayName(value) ?? value.constructor?.name
  if (typeof name !== 'string' || name === '' || name === 'Object') return 'a plain object'
  return `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${name}`
}
