// What every call of an operation needs and no call changes, made once.

import { grpoError } from '../addon/errors.js'
import { operationNumbers } from '../addon/native.js'
import { type ArraySpec, type OptionSpec, type Signature, signatures } from '../addon/signatures.js'
import { describe } from '../arrays/array.js'
import type { OperationName } from '../ops.js'

/** The places of the inputs that the spec of an output names, or of the option without which it is not there; -1: none. */
export interface OutputPlan {
  readonly spec: ArraySpec
  readonly like: number
  readonly over: number
  readonly condition: number
  readonly option: number
}

/** Of those that the addon reads: see native/node/addon.cc. */
export const numbersPerArray = 8

export const roomFor = (arrays: number, options: number): Float64Array =>
  new Float64Array(numbersPerArray * arrays + options)

export interface Plan {
  readonly name: OperationName
  /** In the addon. */
  readonly number: number
  /** For the numbers of a call that has read them when it returns. */
  readonly room: Float64Array
  readonly signature: Signature
  readonly inputNames: readonly string[]
  readonly optionNames: readonly string[]
  /** Of these the options that every operation has. */
  readonly commonNames: readonly string[]
  readonly outputNames: readonly string[]
  readonly mask: ArraySpec | undefined
  /** Of each option the number that stands for it where it is not given; undefined: it has to be. */
  readonly fallbacks: readonly (number | undefined)[]
  readonly outputs: readonly OutputPlan[]
  /** The inputs, then the outputs. */
  readonly arrays: readonly ArraySpec[]
}

const plans = new Map<OperationName, Plan>()

export function planOf(name: OperationName): Plan {
  let plan = plans.get(name)
  if (plan === undefined) plans.set(name, (plan = makePlan(name)))
  return plan
}

function makePlan(name: OperationName): Plan {
  const signature = signatures[name]
  const { inputs, outputs, options } = signature
  const nameOf = ({ name }: { name: string }) => name
  const place = (input: string | undefined) => inputs.findIndex((spec) => spec.name === input)
  const common = [
    'out',
    'stream',
    'signal',
    ...(inputs.some((spec) => spec.name === 'logits' && spec.strided) ? ['stride'] : []),
  ]
  return {
    name,
    number: operationNumbers.get(name) as number,
    room: roomFor(inputs.length + outputs.length, options.length),
    signature,
    inputNames: inputs.map(nameOf),
    optionNames: [...options.map(nameOf), ...common],
    commonNames: common,
    outputNames: outputs.map(nameOf),
    mask: inputs.find((spec) => spec.name === 'mask'),
    fallbacks: options.map((spec) =>
      spec.fallback === undefined ? undefined : optionNumber(name, spec, spec.fallback),
    ),
    outputs: outputs.map((spec) => ({
      spec,
      like: place(spec.like),
      over: place(spec.over),
      condition: place(spec.condition),
      option: options.findIndex((option) => option.name === spec.condition),
    })),
    arrays: [...inputs, ...outputs],
  }
}

/** The number that stands for an option in the C struct. */
export function optionNumber(operation: string, spec: OptionSpec, value: unknown): number {
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
