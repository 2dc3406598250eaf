// The one way from a public function to a kernel: looks at what only JavaScript knows (kinds of values, names), sizes and
// allocates the outputs, and hands everything to the C interface, which checks the rest before anything is written.

import { type DType, elementBytes } from '../addon/dtypes.js'
import { grpoError } from '../addon/errors.js'
import { type ArraySpec, type OptionSpec, type Signature, signatures } from '../addon/signatures.js'
import { throwIfAborted } from '../addon/turns.js'
import { allocate, describe, hostArray, lengthOf, sizeOf } from '../arrays/array.js'
import { isDeviceArray, lastEntry } from '../arrays/device_memory.js'
import type { ArrayInput } from '../arrays/input.js'
import type { OperationName } from '../ops.js'
import type { Call } from './calls.js'
import { onCpu, onGpu } from './execute.js'
import { checkDense, checkStride, isCopied, type Placed, read, type Slot, sameMemory, sideOf } from './placed.js'
import type {
  CallOptions,
  InputsOf,
  OnDevice,
  OptionsOf,
  OutputsOf,
  ParametersOnDevice,
  ParametersOnHost,
} from './types.js'

export { type Call, chain, map, renamed, toHost, value, withErrors } from './calls.js'

type Axes = Map<string, number>
type Bag = Record<string, unknown>

const commonOptions = ['out', 'stream', 'signal', 'stride']

/** Throws unless `bag` is an object whose own names are all allowed. */
export function checkNames(operation: string, bag: unknown, allowed: readonly string[], what: string): Bag {
  if (typeof bag !== 'object' || bag === null || ArrayBuffer.isView(bag) || Array.isArray(bag)) {
    throw grpoError('kind', operation, '', `takes an object of ${what.replace(/^\w+/, '$&s')}, got ${describe(bag)}`)
  }
  for (const name of Object.keys(bag)) {
    if (!allowed.includes(name)) {
      throw grpoError(
        'unknown',
        operation,
        name,
        `is no ${what} of this operation; it has ${allowed.join(', ') || 'none'}`,
      )
    }
  }
  return bag as Bag
}

function checkCommon(operation: string, { signal, stream }: Bag): void {
  const { aborted, addEventListener } = (signal ?? { aborted: false, addEventListener: checkCommon }) as Bag
  if (typeof aborted !== 'boolean' || typeof addEventListener !== 'function') {
    throw grpoError('kind', operation, 'signal', `is ${describe(signal)}, expected an AbortSignal`)
  }
  if (typeof (stream ?? 0n) !== 'bigint') {
    throw grpoError('kind', operation, 'stream', `is ${describe(stream)}, expected a bigint`)
  }
}

/** The number that stands for an option in the C struct. */
function optionNumber(operation: string, spec: OptionSpec, given: unknown): number {
  const value = given === undefined ? spec.fallback : given
  const refuse = (kind: 'kind' | 'option', expected: string) =>
    grpoError(kind, operation, spec.name, `is ${describe(value)}, expected ${expected}`)
  const orNull = spec.nullable ? ' or null' : ''
  if (value === null && spec.nullable) return Number.NaN
  if (value === undefined) throw grpoError('missing', operation, spec.name, `is missing, expected ${spec.spec}`)
  if (spec.kind === 'enum') {
    const list = `one of ${spec.choices.join(', ')}${orNull}`
    if (typeof value !== 'string') throw refuse('kind', list)
    const index = spec.choices.indexOf(value)
    if (index < 0) throw refuse('option', list)
    return index
  }
  if (spec.kind === 'boolean') {
    if (typeof value !== 'boolean') throw refuse('kind', 'true or false')
    return value ? 1 : 0
  }
  if (typeof value !== 'number') throw refuse('kind', `a number${orNull}`)
  if (spec.kind === 'integer' && !Number.isSafeInteger(value)) throw refuse('option', `a whole number${orNull}`)
  if (!Number.isFinite(value)) throw refuse('option', `a finite number${orNull}`)
  // No integer option is negative: one may size an array, and -1 stands for null in the C struct.
  if (spec.kind === 'integer' && value < 0) throw refuse('option', `at least 0${orNull}`)
  // Of others the C checker says it; an output of this size would be at fault first.
  const [least, most] = spec.range ?? []
  if (spec.axis !== undefined && value > Number(most)) throw refuse('option', `${least} to ${most}`)
  return value
}

function maskOf(operation: string, { inputs }: Signature, given: Bag) {
  const spec = inputs.find(({ name }) => name === 'mask')
  return spec && { spec, x: read(operation, spec, given.mask, false, true) }
}

/** Gives the axes of an array that have no size yet the array's sizes. Contradictions are the C checker's to report. */
function bind(axes: Axes, spec: ArraySpec, shape: readonly number[]): void {
  spec.axes.forEach(({ letter, plus }, i) => {
    const size = i < shape.length ? (shape[i] as number) - plus : 1
    if (letter !== '' && !axes.has(letter)) axes.set(letter, Math.max(0, size))
  })
}

function shapeOf(axes: Axes, spec: ArraySpec, rankOf: (name: string) => number | undefined): number[] {
  const rank = (spec.like !== undefined ? rankOf(spec.like) : undefined) ?? spec.axes.length
  return spec.axes
    .filter(({ maybe }, i) => !maybe || i < rank)
    .map(({ letter, plus }) => (letter === '' ? plus : (axes.get(letter) ?? 0) + plus))
}

/**
 * Prepares a call of an operation. Where an axis is known only from offsets that lie on a device (the tokens of
 * sequenceExpand without a mask), their last entry is read, which waits for the work before it.
 *
 * @param sizes   axes that only outputs have, where no option or offset gives them
 * @param device  the device of an operation without inputs; its outputs lie on the host
 */
export function call<Name extends OperationName>(
  name: Name,
  inputs: InputsOf<Name>,
  options: OptionsOf<Name> & CallOptions,
  sizes: Record<string, number> = {},
  device?: number,
): Call<OutputsOf<Name>> {
  const signature = signatures[name]
  const inputNames = signature.inputs.map((spec) => spec.name)
  const optionNames = signature.options.map((spec) => spec.name)
  const givenInputs = checkNames(name, inputs, inputNames, 'input')
  const strided = signature.inputs.some((spec) => spec.strided)
  const common = strided ? commonOptions : commonOptions.slice(0, 3)
  const givenOptions = checkNames(name, options ?? {}, [...optionNames, ...common], 'option')
  checkCommon(name, givenOptions)
  const out = checkNames(
    name,
    givenOptions.out ?? {},
    signature.outputs.map((spec) => spec.name),
    'output',
  )

  const axes: Axes = new Map(Object.entries(sizes))
  const arrays = new Map<string, Placed>()
  const strides = new Map<Placed, number>()
  // Each is read once and in this order, for a getter may change others: but for the mask, as soon as it says which of
  // the ids are to be copied.
  let mask: { spec: ArraySpec; x: Placed | undefined } | undefined
  for (const spec of signature.inputs) {
    const value = spec === mask?.spec ? undefined : givenInputs[spec.name]
    if (spec.ids && isCopied(spec, value)) mask ??= maskOf(name, signature, givenInputs)
    const x = spec === mask?.spec ? mask.x : read(name, spec, value, spec.strided, true, mask?.x)
    if (x === undefined) continue
    if (spec.strided) strides.set(x, checkStride(name, spec.name, x, givenOptions.stride))
    arrays.set(spec.name, x)
    bind(axes, spec, x.shape)
  }
  const numbers = signature.options.map((spec) => {
    const value = optionNumber(name, spec, givenOptions[spec.name])
    if (spec.axis !== undefined) axes.set(spec.axis, value)
    return value
  })
  const exists = ({ condition }: ArraySpec) =>
    condition === undefined || arrays.has(condition) || givenOptions[condition] === true
  const own = new Map<string, Placed>()
  for (const spec of signature.outputs) {
    const given = out[spec.name]
    if (given === undefined || given === null) continue
    if (!exists(spec)) {
      const option = optionNames.includes(spec.condition as never)
      const problem = `is ${option ? 'false' : 'missing'}, but out has ${spec.name}`
      throw grpoError(option ? 'option' : 'missing', name, spec.condition as string, problem)
    }
    const x = read(name, spec, given, spec.over !== undefined, false) as Placed
    own.set(spec.name, x)
    if (spec.over === undefined) continue
    // Rows lie apart, and the array is longer than its shape, only where the gradient is written over the logits.
    const model = arrays.get(spec.over)
    if (model !== undefined && sameMemory(x, model)) {
      strides.set(x, checkStride(name, spec.name, x, givenOptions.stride))
    } else checkDense(name, spec.name, x)
  }
  const side = sideOf(name, signature, arrays, own, givenOptions.stream, device)
  for (const spec of signature.inputs) {
    if (spec.offsets === undefined || axes.has(spec.offsets)) continue
    const x = arrays.get(spec.name)
    // Other dtypes and shapes are the C checker's to refuse: their memory is not what it would be read as.
    const offsets = x?.dtype === 'i32' && x.shape.length === 1 ? x : undefined
    axes.set(spec.offsets, Math.max(0, offsets === undefined ? 0 : lastOf(name, spec.name, offsets)))
  }

  const slotOf = (spec: ArraySpec, x: Placed | undefined): Slot | undefined =>
    x && { name: spec.name, dtype: x.dtype, shape: x.shape, stride: strides.get(x) ?? 0, x }
  const slots = signature.inputs.map((spec) => slotOf(spec, arrays.get(spec.name)))
  const outputs: Bag = {}
  for (const spec of signature.outputs) {
    const given = out[spec.name]
    if (given === null || !exists(spec)) {
      slots.push(undefined)
      continue
    }
    const mine = own.get(spec.name)
    if (spec.accumulates && givenOptions.accumulate === true && mine === undefined) {
      const problem = `is missing in out, expected the array to whose contents accumulate adds the gradient`
      throw grpoError('missing', name, spec.name, problem)
    }
    const shape = () => shapeOf(axes, spec, (like) => arrays.get(like)?.shape.length)
    const dtype = dtypeOf(spec, arrays)
    const onDevice = side !== undefined && signature.inputs.length > 0
    const x = mine ?? (onDevice ? undefined : allocate(name, spec.name, dtype, shape()))
    slots.push(slotOf(spec, x) ?? { name: spec.name, dtype, shape: shape(), stride: 0, x: undefined })
    outputs[spec.name] = mine !== undefined && !isDeviceArray(mine) && 'data' in (given as object) ? given : x
  }
  return (
    side === undefined ? onCpu(name, slots, numbers, outputs) : onGpu(name, side, slots, numbers, outputs)
  ) as Call<OutputsOf<Name>>
}

const lastOf = (operation: string, name: string, x: Placed): number =>
  isDeviceArray(x) ? lastEntry(operation, name, x) : (x.data[lengthOf(x.data) - 1] ?? 0)

/** Throws unless an `out` on a device, which the kernel cannot refuse, has the length that is known by now. */
export function checkLength(operation: string, name: string, x: unknown, length: number, why: string): void {
  if (!isDeviceArray(x) || x.shape.length !== 1 || x.shape[0] === length) return
  throw grpoError('shape', operation, name, `has length ${x.shape[0]}, expected ${length}, ${why}`)
}

function dtypeOf(spec: ArraySpec, arrays: ReadonlyMap<string, Placed>): DType {
  return (spec.like !== undefined ? arrays.get(spec.like)?.dtype : spec.dtypes[0]) ?? 'f32'
}

/** A public function: called, it computes; its `later` returns a promise and computes on another thread. */
export interface Operation<Arguments extends unknown[], Result> {
  (...parameters: ParametersOnHost<Arguments>): Result
  /** Device arrays in, device arrays out. */
  (...parameters: ParametersOnDevice<Arguments>): OnDevice<Result>
  (...parameters: Arguments): Result
  /** @internal grpo-kernels/promises */
  readonly later: {
    (...parameters: ParametersOnHost<Arguments>): Promise<Result>
    (...parameters: ParametersOnDevice<Arguments>): Promise<OnDevice<Result>>
    (...parameters: Arguments): Promise<Result>
  }
}

export function operation<Arguments extends unknown[], Result>(
  prepare: (...parameters: Arguments) => Call<Result>,
): Operation<Arguments, Result> {
  const later = async (...parameters: Arguments): Promise<Result> => {
    const { signal } = (parameters[1] ?? {}) as CallOptions
    const call = prepare(...parameters)
    throwIfAborted(signal)
    return call.later(signal)
  }
  return Object.assign((...parameters: Arguments) => prepare(...parameters).now(), { later }) as never
}

/** Bytes that a call reads and writes when every array crosses memory once, for the benchmark. */
export const bytesOf = (arrays: object): number =>
  Object.values(arrays as Record<string, ArrayInput | undefined>).reduce((sum, x) => {
    if (x === undefined) return sum
    if (isDeviceArray(x)) return sum + sizeOf(x.shape) * elementBytes(x.dtype)
    return sum + hostArray('bytesOf', 'array', x, true).data.byteLength
  }, 0)
