// Reads the two small languages in a method's description.
//
// A column of the batch:  kind[axes]? what it means
//   number[N]     float64; any list of numbers is taken            f32[T]   the same in float32; a Float32Array is not copied
//   flag[N]       0 or 1, or booleans                              integer[N]
//   id[G]         strings or numbers that name something           any      whatever the method says
//   flags, integers and ids come as a BigInt64Array too
//   axes          N rollouts, G groups, T loss tokens; another letter is a size that the first column with it sets
//   no axes       one value             ?  may be absent
// An option:  [spec, what it means], the spec in the language of lib/ops.ts

import type { DType } from '../../addon/dtypes.js'
import { type ErrorKind, type GrpoError, grpoError } from '../../addon/errors.js'
import { parseOption } from '../../addon/signatures.js'
import { describe, type HostArray, sizeOf, typedArrayName } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray, live } from '../../arrays/device_memory.js'
import { integersOf, isWide } from '../../arrays/integers.js'
import type { OptionsFrom } from '../../call/types.js'

// ---- options --------------------------------------------------------------------------------------------------------

export type OptionTable = Readonly<Record<string, readonly [spec: string, meaning: string]>>
type Specs<Table> = { [Name in keyof Table]: Table[Name] extends readonly [infer Spec, string] ? Spec : never }

/** What a caller may pass. */
export type Options<Table> = Table extends OptionTable ? OptionsFrom<Specs<Table>> : Record<never, never>
/** The same with every default filled in. */
export type Chosen<Table> = { readonly [Name in keyof Options<Table>]-?: Exclude<Options<Table>[Name], undefined> }

/** Whether a number lies in the range of a spec: "> 0", ">= 0", ">= 0 < 1", "0..1"; none holds every number. */
export function rangeOf(range: string): (value: number) => boolean {
  const [, low, high] = /^(\S+)\.\.(\S+)$/.exec(range) ?? []
  if (low !== undefined) return (value) => value >= Number(low) && value <= Number(high)
  const bounds = [...range.matchAll(/(>=|>|<=|<) (\S+)/g)].map(([, sign, text]) => ({ sign, bound: Number(text) }))
  return (value) =>
    bounds.every(({ sign, bound }) => {
      if (sign === '>=') return value >= bound
      if (sign === '>') return value > bound
      return sign === '<=' ? value <= bound : value < bound
    })
}

const isFloat32 = (x: number): boolean => Math.abs(x) >= 2 ** -126 && Math.abs(Math.fround(x)) < Infinity

/** The options of a method: `given` over the defaults. */
export function chooseOptions(method: string, table: OptionTable = {}, given: unknown = {}): Record<string, unknown> {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw grpoError('kind', method, '', `takes an object of options, got ${describe(given)}`)
  }
  for (const name of Object.keys(given)) {
    if (name in table) continue
    const known = Object.keys(table).join(', ')
    throw grpoError('unknown', method, name, `is no option, expected ${known === '' ? 'none' : `one of ${known}`}`)
  }
  const entries = Object.entries(table).map(([name, [text]]) => {
    const spec = parseOption(name, text)
    const value = (given as Record<string, unknown>)[name] ?? null
    const absent = !(name in given) || (given as Record<string, unknown>)[name] === undefined
    if (absent && spec.fallback === undefined) throw grpoError('missing', method, name, `is missing, expected ${text}`)
    if (absent) return [name, spec.fallback]
    if (value === null && spec.nullable) return [name, null]
    if (spec.kind === 'enum') {
      if (spec.choices.includes(value as string)) return [name, value]
      throw grpoError('option', method, name, `is ${describe(value)}, expected one of ${spec.choices.join(', ')}`)
    }
    const type = spec.kind === 'boolean' ? 'boolean' : 'number'
    const nullable = spec.nullable ? ' or null' : ''
    if (typeof value !== type) {
      throw grpoError('kind', method, name, `is ${describe(value)}, expected a ${type}${nullable}`)
    }
    const range = text.replace(/^\w+\?? ?(= \S+)? ?/, '')
    const whole = spec.kind !== 'integer' || Number.isInteger(value)
    if (type === 'number' && !(Number.isFinite(value) && whole && rangeOf(range)(value as number))) {
      const what = `a ${spec.kind === 'integer' ? 'whole' : 'finite'} number`
      throw grpoError('option', method, name, `is ${value}, expected ${what}${range && ` ${range}`}${nullable}`)
    }
    // It becomes part of float32 numbers: as an infinity, or as 0, it would end as a loss that is NaN.
    if (spec.kind === 'number' && value !== 0 && !isFloat32(value as number)) {
      const problem = `is ${value}, expected 0 or a size from 1.2e-38 to 3.4e38, which a float32 holds`
      throw grpoError('option', method, name, problem)
    }
    return [name, value]
  })
  return Object.fromEntries(entries)
}

// ---- columns --------------------------------------------------------------------------------------------------------

interface Kinds {
  number: Float64Array
  flag: Uint8Array
  integer: Int32Array
  f32: Float32Array
  id: readonly (string | number)[]
  // biome-ignore lint/suspicious/noExplicitAny: a method says in words what such a column holds
  any: any
}
interface Scalars {
  number: number
  flag: boolean
  integer: number
  id: string | number
  // biome-ignore lint/suspicious/noExplicitAny: as above
  any: any
}
/** A plain list, a typed array, or a host array of f32, f64, i32 or u8. */
export type List<T = number> = ArrayLike<T> | HostArray<'f32' | 'f64' | 'i32' | 'u8'>
/** The same of whole numbers, which come in 64 bits too. */
export type WholeList<T = number> = List<T> | BigInt64Array
interface Inputs {
  number: List
  flag: WholeList<number | boolean>
  integer: WholeList
  f32: List
  id: ArrayLike<string | number> | BigInt64Array
  // biome-ignore lint/suspicious/noExplicitAny: as above
  any: any
}

type Read<Spec, Lists, Singles> = Spec extends `${infer Kind}[${string}`
  ? Lists[Kind & keyof Lists]
  : Spec extends `${infer Kind} ${string}`
    ? Kind extends `${infer Bare}?`
      ? Singles[Bare & keyof Singles]
      : Singles[Kind & keyof Singles]
    : never
type IsMaybe<Spec> = Spec extends `${string}]? ${string}` ? true : Spec extends `${infer Kind} ${string}` ? (Kind extends `${string}?` ? true : false) : false // biome-ignore format: one rule
type Table<Columns, Lists, Singles> = {
  readonly [Name in keyof Columns as IsMaybe<Columns[Name]> extends true ? never : Name]: Read<
    Columns[Name],
    Lists,
    Singles
  >
} & {
  readonly [Name in keyof Columns as IsMaybe<Columns[Name]> extends true ? Name : never]?:
    | Read<Columns[Name], Lists, Singles>
    | undefined
}

/** The columns of a description as its points see them. */
export type ColumnsOf<Columns> = Columns extends object ? Table<Columns, Kinds, Scalars> : Record<never, never>
/** The columns of a description as a caller passes them. */
export type ColumnInputs<Columns> = Columns extends object
  ? string extends keyof Columns
    ? Readonly<Record<string, unknown>> // of any method
    : Table<Columns, Inputs, Scalars>
  : Record<never, never>

export interface ColumnSpec {
  readonly name: string
  readonly kind: keyof Kinds
  readonly axes: readonly string[] // empty: one value
  readonly optional: boolean
  readonly meaning: string
}

export function parseColumn(name: string, text: string): ColumnSpec {
  const [, kind, axes, question, meaning = ''] = /^(\w+)(?:\[([A-Z,]+)\])?(\?)? (.*)$/s.exec(text) ?? []
  if (kind === undefined) throw new Error(`column ${name}: ${text}`)
  return { name, kind: kind as keyof Kinds, axes: axes?.split(',') ?? [], optional: question !== undefined, meaning }
}

const typeOf = ({ kind, axes }: ColumnSpec) => `${kind}${axes.length > 0 ? `[${axes.join(',')}]` : ''}`

/** A column that is not there: names the method, the column, its shape, and what it means. */
export const missingColumn = (method: string, name: string, type: string, meaning: string): GrpoError =>
  grpoError('missing', method, name, `is missing from the batch, expected ${type}: ${meaning}`)

/** Holds a list against its axes; a size that no column has set yet is set by it. */
export function checkAxes(
  method: string,
  { name, axes }: Pick<ColumnSpec, 'name' | 'axes'>,
  length: number,
  sizes: Map<string, { size: number; from: string }>,
): void {
  const free = axes.filter((axis) => !sizes.has(axis))
  const known = axes.reduce((product, axis) => product * (sizes.get(axis)?.size ?? 1), 1)
  const names = () => axes.map((axis) => (sizes.has(axis) ? `${axis} = ${sizes.get(axis)?.size} from ${sizes.get(axis)?.from}` : axis)).join(', ') // biome-ignore format: one text
  const wrong = (expected: string) => grpoError('shape', method, name, `has ${length} values, expected ${expected} (${names()})`) // biome-ignore format: one text
  if (free.length === 0 && length !== known) throw wrong(String(known))
  if (free.length === 0) return
  if (known > 0 && length % known !== 0) throw wrong(`a multiple of ${known}`)
  const [axis] = free
  // Of an empty list nothing follows about the other axis.
  if (known > 0) sizes.set(axis as string, { size: length / known, from: name })
}

type Cells = Pick<ColumnSpec, 'name' | 'kind' | 'meaning'>

function convert(method: string, spec: Cells, list: ArrayLike<unknown>): unknown {
  const { name, kind } = spec
  const refuse = (i: number, expected: string, error: ErrorKind = 'kind') =>
    grpoError(error, method, name, `has ${describe(list[i])} at ${i}, expected ${expected}: ${spec.meaning}`)
  if (kind === 'id') {
    return Array.from(list, (given, i) => {
      const x = typeof given === 'bigint' ? Number(given) : given
      // Two names that no float64 tells apart would be one.
      if (typeof given === 'bigint' && !Number.isSafeInteger(x)) throw refuse(i, 'a size below 2^53', 'value')
      if (typeof x === 'string' || Number.isFinite(x)) return x
      throw refuse(i, 'a string or a number that names something')
    })
  }
  if (kind === 'f32' && list instanceof Float32Array) return list
  const target = { number: Float64Array, f32: Float32Array, flag: Uint8Array, integer: Int32Array }[kind as 'number']
  const result = new target(list.length)
  for (let i = 0; i < list.length; i++) {
    const x = list[i]
    if (kind === 'flag') {
      if (x !== 0 && x !== 1 && typeof x !== 'boolean') throw refuse(i, '0 or 1', 'value')
    } else if (typeof x !== 'number') throw refuse(i, 'a number')
    else if (kind === 'integer' && (x | 0) !== x) throw refuse(i, 'a whole number below 2147483648', 'value')
    result[i] = Number(x)
  }
  return result
}

const typedArrays = /^(Float32|Float64|Int8|Int16|Int32|Uint8|Uint8Clamped|Uint32)Array$/

/**
 * The values of a list or of a host array. Bits of bf16 and f16 are no numbers: they are refused.
 *
 * @param wide  what becomes of a BigInt64Array: nothing, its values as numbers of 32 bits, or as they are
 */
export function listOf(
  method: string,
  name: string,
  value: unknown,
  expected: string,
  wide?: 'i32' | 'as it is',
): ArrayLike<unknown> {
  if (wide !== undefined && isWide(value)) {
    return wide === 'as it is' ? value : (integersOf(method, name, value) as HostArray<'i32'>).data
  }
  if (isDeviceArray(value)) {
    const problem = `lies on device ${value.device}, but a step computes on the host: await read(x) brings it`
    throw grpoError('device', method, name, problem)
  }
  const inner = typeof value === 'object' && value !== null && 'data' in value && 'dtype' in value ? value.data : value
  if (Array.isArray(inner)) return inner
  const type = typedArrayName(inner)
  if (type !== undefined && typedArrays.test(type)) return inner as ArrayLike<number>
  if (type === 'Uint16Array' || type === 'Float16Array') {
    throw grpoError('dtype', method, name, `holds 16-bit numbers, expected ${expected}: fromBf16 and fromF16 turn them into float32`) // biome-ignore format: one text
  }
  throw grpoError('kind', method, name, `is ${describe(value)}, expected ${expected}`)
}

/** A list of float32 that the policy gives. */
export function float32Of(method: string, name: string, value: unknown, meaning: string): Float32Array {
  const list = listOf(method, name, value, `f32[T]: ${meaning}`)
  return convert(method, { name, kind: 'f32', meaning }, list) as Float32Array
}

const dtypesOnDevice: Partial<Record<keyof Kinds, DType>> = { f32: 'f32', number: 'f32', flag: 'u8', integer: 'i32' }

/** Throws unless a column may lie on a device, and has the dtype and the sizes there. */
function checkOnDevice(
  method: string,
  spec: ColumnSpec,
  x: DeviceArray,
  sizes: Map<string, { size: number; from: string }>,
): void {
  const { name, kind, axes } = spec
  const dtype = dtypesOnDevice[kind]
  if (dtype === undefined || axes[0] !== 'T') {
    const problem = `lies on device ${x.device}, where only columns of tokens may lie: await read(x) brings it`
    throw grpoError('device', method, name, problem)
  }
  live(method, name, x)
  if (x.dtype !== dtype) {
    throw grpoError('dtype', method, name, `has dtype ${x.dtype}, expected ${dtype}: ${spec.meaning}`)
  }
  if (x.shape.length !== 1 && x.shape.length !== axes.length) {
    throw grpoError('shape', method, name, `has shape [${x.shape.join(', ')}], expected [${axes.join(', ')}]`)
  }
  checkAxes(method, spec, sizeOf(x.shape), sizes)
}

/**
 * Reads a method's own columns out of a batch. One that lies on a device is read from there when it is looked at.
 *
 * @param onDevice  gets the columns that do
 * @param copyOf    the values of one of them, on the host
 */
export function readColumns(
  method: string,
  table: Readonly<Record<string, string>> = {},
  batch: Readonly<Record<string, unknown>>,
  sizes: Map<string, { size: number; from: string }>,
  onDevice: Map<string, DeviceArray>,
  copyOf: (x: DeviceArray) => ArrayLike<unknown>,
): Record<string, unknown> {
  const columns: Record<string, unknown> = {}
  const later = (name: string, spec: ColumnSpec, x: DeviceArray) => {
    checkOnDevice(method, spec, x, sizes)
    onDevice.set(name, x)
    let values: unknown
    Object.defineProperty(columns, name, {
      enumerable: true,
      get: () => (values ??= convert(method, spec, copyOf(x))),
    })
  }
  for (const [name, text] of Object.entries(table)) {
    const spec = parseColumn(name, text)
    const value = batch[name]
    if (isDeviceArray(value) && spec.kind !== 'any') later(name, spec, value)
    else columns[name] = readColumn(method, spec, value, sizes)
  }
  return columns
}

function readColumn(
  method: string,
  spec: ColumnSpec,
  value: unknown,
  sizes: Map<string, { size: number; from: string }>,
): unknown {
  const { name, kind, axes, optional, meaning } = spec
  if (value === undefined || value === null) {
    if (optional) return undefined
    throw missingColumn(method, name, typeOf(spec), meaning)
  }
  if (kind === 'any') return value
  if (axes.length === 0) {
    const kinds = kind === 'flag' ? ['boolean'] : kind === 'id' ? ['string', 'number'] : ['number']
    const whole = kind !== 'integer' || Number.isInteger(value)
    if (kinds.includes(typeof value) && whole) return value
    throw grpoError('kind', method, name, `is ${describe(value)}, expected a ${kind}: ${meaning}`)
  }
  const wide = ({ integer: 'i32', flag: 'i32', id: 'as it is' } as const)[kind as 'id']
  const list = listOf(method, name, value, `${typeOf(spec)}: ${meaning}`, wide)
  checkAxes(method, spec, list.length, sizes)
  return convert(method, spec, list)
}
