// The one way from a public function to a kernel: looks at what only JavaScript knows (kinds of values, names), sizes and
// allocates the outputs, and hands everything to the C interface, which checks the rest before anything is written.

import { elementBytes } from '../addon/dtypes.js'
import { grpoError } from '../addon/errors.js'
import type { ArraySpec, OptionSpec, Signature } from '../addon/signatures.js'
import { throwIfAborted } from '../addon/turns.js'
import { allocate, describe, hostArray, lengthOf, sizeOf } from '../arrays/array.js'
import { isDeviceArray, lastEntry } from '../arrays/device_memory.js'
import type { ArrayInput } from '../arrays/input.js'
import type { OperationName } from '../ops.js'
import type { Call, KernelPath } from './calls.js'
import { onCpu, onGpu } from './execute.js'
import { isCopied, type Placed, read, type Slots, sameMemory, sideOf, strideOf } from './placed.js'
import { type OutputPlan, optionNumber, planOf } from './plan.js'
import type {
  CallOptions,
  InputsOf,
  OnDevice,
  OptionsOf,
  OutputsOf,
  ParametersOnDevice,
  ParametersOnHost,
} from './types.js'

export { type Call, chain, type KernelPath, map, renamed, toHost, value, withErrors } from './calls.js'

type Axes = Map<string, number>
type Bag = Record<string, unknown>

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

/** Of a function that works on this thread alone, whose only option is a signal. */
export function checkSignal(operation: string, options: unknown): void {
  checkCommon(operation, checkNames(operation, options, ['signal'], 'option'))
}

/** Whether an object has none of an operation's own options, so that not each has to be looked up in it. */
function hasNone(commonNames: readonly string[], options: Bag): boolean {
  const prototype = Object.getPrototypeOf(options)
  if (prototype !== Object.prototype && prototype !== null) return false
  for (const name of Object.getOwnPropertyNames(options)) if (!commonNames.includes(name)) return false
  return true
}

/** Gives the axes of an array that have no size yet the array's sizes. Contradictions are the C checker's to report. */
function bind(axes: Axes, spec: ArraySpec, shape: readonly number[]): void {
  spec.axes.forEach(({ letter, plus }, i) => {
    const size = i < shape.length ? (shape[i] as number) - plus : 1
    if (letter !== '' && !axes.has(letter)) axes.set(letter, Math.max(0, size))
  })
}

/** The sizes of the axes that inputs and options have, or else the last of their offsets. */
function axesOf(
  operation: string,
  { inputs, options }: Signature,
  slots: Slots,
  numbers: readonly number[],
  sizes: Record<string, number>,
): Axes {
  const axes: Axes = new Map(Object.entries(sizes))
  inputs.forEach((spec, i) => {
    const slot = slots[i]
    if (slot !== undefined) bind(axes, spec, slot.shape)
  })
  options.forEach(({ axis }, i) => {
    if (axis !== undefined) axes.set(axis, numbers[i] as number)
  })
  inputs.forEach((spec, i) => {
    if (spec.offsets === undefined || axes.has(spec.offsets)) return
    const x = slots[i]?.x
    // Other dtypes and shapes are the C checker's to refuse: their memory is not what it would be read as.
    const offsets = x?.dtype === 'i32' && x.shape.length === 1 ? x : undefined
    axes.set(spec.offsets, Math.max(0, offsets === undefined ? 0 : lastOf(operation, spec.name, offsets)))
  })
  return axes
}

/** `rank`: of the array that it is like, if there is one. */
function shapeOf(axes: Axes, spec: ArraySpec, rank = spec.axes.length): number[] {
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
  const plan = planOf(name)
  const { inputs: inputSpecs, options: optionSpecs } = plan.signature
  const { inputNames, optionNames, outputNames, mask, fallbacks } = plan
  const givenInputs = checkNames(name, inputs, inputNames, 'input')
  const givenOptions = checkNames(name, options ?? {}, optionNames, 'option')
  checkCommon(name, givenOptions)
  const out = checkNames(name, givenOptions.out ?? {}, outputNames, 'output')

  // By place. Of their final lengths, which pushes would reach by copies.
  const slots: Slots = new Array(plan.arrays.length)
  const numbers: number[] = new Array(optionSpecs.length)
  const given: unknown[] = new Array(plan.outputs.length)
  // Each is read once and in this order, for a getter may change others: but for the mask, as soon as it says which of
  // the ids are to be copied.
  let early: { x: Placed | undefined } | undefined
  for (let i = 0; i < inputSpecs.length; i++) {
    const spec = inputSpecs[i] as ArraySpec
    const isEarly = early !== undefined && spec === mask
    const value = isEarly ? undefined : givenInputs[spec.name]
    if (mask !== undefined && spec.ids && isCopied(spec, value))
      early ??= { x: read(name, mask, givenInputs.mask, false, true) }
    const x = isEarly ? early?.x : read(name, spec, value, spec.strided, true, early?.x)
    const stride = x === undefined || !spec.strided ? 0 : strideOf(name, spec.name, x, givenOptions.stride)
    slots[i] = x && { name: spec.name, dtype: x.dtype, shape: x.shape, stride, x }
  }
  const none = hasNone(plan.commonNames, givenOptions)
  for (let i = 0; i < optionSpecs.length; i++) {
    const spec = optionSpecs[i] as OptionSpec
    const value = none ? undefined : givenOptions[spec.name]
    numbers[i] = (value === undefined ? fallbacks[i] : undefined) ?? optionNumber(name, spec, value)
  }
  // Of an output -1 stands for no such input: an engine would look it up in an array as a name, which takes long.
  const inputAt = (place: number) => (place < 0 ? undefined : slots[place])
  const exists = ({ spec, condition, option }: OutputPlan) =>
    spec.condition === undefined || (option >= 0 ? numbers[option] === 1 : inputAt(condition) !== undefined)
  // The outputs that the caller has, all of them before one is made.
  for (let i = 0; i < given.length; i++) {
    const output = plan.outputs[i] as OutputPlan
    const { spec, over, option } = output
    const value = out[spec.name]
    given[i] = value
    slots[inputSpecs.length + i] = undefined
    if (value === undefined || value === null) continue
    if (!exists(output)) {
      const problem = `is ${option >= 0 ? 'false' : 'missing'}, but out has ${spec.name}`
      throw grpoError(option >= 0 ? 'option' : 'missing', name, spec.condition as string, problem)
    }
    const x = read(name, spec, value, spec.strided, false) as Placed
    let stride = 0
    if (spec.strided) {
      // The option is that of the logits, and of a gradient only where it is written over them.
      const model = inputAt(over)?.x
      const inPlace = model !== undefined && sameMemory(x, model)
      stride = strideOf(name, spec.name, x, inPlace ? givenOptions.stride : undefined)
    }
    slots[inputSpecs.length + i] = { name: spec.name, dtype: x.dtype, shape: x.shape, stride, x }
  }
  const side = sideOf(plan, slots, givenOptions.stream, device)

  const outputs: Bag = {}
  let axes: Axes | undefined // of no use where all outputs are given
  for (let i = 0; i < given.length; i++) {
    const output = plan.outputs[i] as OutputPlan
    const { spec, like } = output
    if (given[i] === null || (given[i] === undefined && spec.asked) || !exists(output)) continue
    const place = inputSpecs.length + i
    const own = slots[place]?.x
    if (spec.accumulates && givenOptions.accumulate === true && own === undefined) {
      const problem = `is missing in out, expected the array to whose contents accumulate adds the gradient`
      throw grpoError('missing', name, spec.name, problem)
    }
    if (own !== undefined) {
      outputs[spec.name] = 'data' in (given[i] as object) ? given[i] : own
      continue
    }
    const model = inputAt(like)
    const dtype = (spec.like !== undefined ? model?.dtype : spec.dtypes[0]) ?? 'f32'
    axes ??= axesOf(name, plan.signature, slots, numbers, sizes)
    const shape = shapeOf(axes, spec, model?.shape.length)
    const onDevice = side !== undefined && inputSpecs.length > 0
    const x = onDevice ? undefined : allocate(name, spec.name, dtype, shape)
    slots[place] = { name: spec.name, dtype, shape, stride: 0, x }
    outputs[spec.name] = x
  }
  return (
    side === undefined ? onCpu(plan, slots, numbers, outputs) : onGpu(name, side, slots, numbers, outputs)
  ) as Call<OutputsOf<Name>>
}

const lastOf = (operation: string, name: string, x: Placed): number =>
  isDeviceArray(x) ? lastEntry(operation, name, x) : (x.data[lengthOf(x.data) - 1] ?? 0)

/** Throws unless an `out` on a device, which the kernel cannot refuse, has the length that is known by now. */
export function checkLength(operation: string, name: string, x: unknown, length: number, why: string): void {
  if (!isDeviceArray(x) || x.shape.length !== 1 || x.shape[0] === length) return
  throw grpoError('shape', operation, name, `has length ${x.shape[0]}, expected ${length}, ${why}`)
}

/** A public function: called, it computes; its `later` returns a promise and computes on another thread. */
export interface Operation<Arguments extends unknown[], Result> {
  (...parameters: ParametersOnHost<Arguments>): Result
  /** Device arrays in, device arrays out. */
  (...parameters: ParametersOnDevice<Arguments>): OnDevice<Result>
  (...parameters: Arguments): Result
  /**
   * Which kernels exactly this call would run, and why not faster ones: by dtypes, sizes, addresses and the processor or
   * GPU. It checks arrays and options as the call does, and computes nothing.
   */
  readonly path: (...parameters: Arguments) => KernelPath
  /** @internal grpo-kernels/promises */
  readonly later: {
    (...parameters: ParametersOnHost<Arguments>): Promise<Result>
    (...parameters: ParametersOnDevice<Arguments>): Promise<OnDevice<Result>>
    (...parameters: Arguments): Promise<Result>
    readonly path: (...parameters: Arguments) => KernelPath
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
  const path = (...parameters: Arguments) => prepare(...parameters).path()
  const asPromise = Object.assign(later, { path })
  return Object.assign((...parameters: Arguments) => prepare(...parameters).now(), { later: asPromise, path }) as never
}

/** Bytes that a call reads and writes when every array crosses memory once, for the benchmark. */
export const bytesOf = (arrays: object): number =>
  Object.values(arrays as Record<string, ArrayInput | undefined>).reduce((sum, x) => {
    if (x === undefined) return sum
    if (isDeviceArray(x)) return sum + sizeOf(x.shape) * elementBytes(x.dtype)
    return sum + hostArray('bytesOf', 'array', x, true).data.byteLength
  }, 0)
