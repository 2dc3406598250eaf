// What a call of the fuzzer is: a few small numbers and words, from which arguments.ts makes the arrays. fast-check draws
// them from the rows of the table, and makes those of a failing call smaller: fewer and shorter axes, fewer options.
import fc from 'fast-check'
import { dtypes } from '../../lib/addon/dtypes.js'
import { type OptionSpec, operationNames, type Signature, signatures } from '../../lib/addon/signatures.js'
import { type OperationName, ops } from '../../lib/ops.js'
import { rangeOf } from '../../lib/recipes/step/columns.js'

export const contents = ['plain', 'ties', 'special'] as const
export const masks = ['some', 'all', 'none'] as const

export interface OperationCase {
  kind: 'operation'
  name: OperationName
  /** Of what the arrays hold. */
  seed: number
  sizes: Record<string, number>
  /** For arrays that may have several. */
  dtype: (typeof dtypes)[number]
  /** `special`: with NaN, infinities and numbers at the ends of the range, which no reference is asked about. */
  contents: (typeof contents)[number]
  mask: (typeof masks)[number]
  options: Record<string, unknown>
  /** Optional inputs that are absent. */
  without: string[]
  /** Outputs that are not wanted. */
  unwanted: string[]
  threads: number
  /** As a promise; aborted after so many turns of the event loop, -1: never. */
  later?: { abort: number }
  mutation?: Mutation
}

export interface Mutation {
  /** Of which of the call's inputs, options or outputs: a number that is taken modulo theirs. */
  of: 'input' | 'option' | 'output'
  at: number
  how: number
}

export interface RecipeCase {
  kind: 'recipe'
  name: string
  seed: number
  /** Tokens of each rollout of each group. */
  groups: number[][]
  mask: (typeof masks)[number]
  options: Record<string, unknown>
  /** A step after another one, from its state: as it is, as JSON, or as JSON in which something is changed. */
  state: 'none' | 'kept' | 'json' | 'changed'
  change: number
}

export type Case = OperationCase | RecipeCase

/** Usual and rare largest sizes. A case has one rare axis at most, so that a reference stays within milliseconds. */
const limits: Record<string, readonly [usual: number, rare: number]> = {
  N: [12, 3000], G: [4, 40], T: [14, 900], S: [4, 60], R: [8, 90], V: [30, 1400], P: [12, 140], H: [3, 5], K: [2, 3],
  D: [8, 140], E: [6, 70], B: [5, 12], M: [8, 400],
} // biome-ignore format: a table

const lettersOf = ({ inputs, outputs }: Signature) => [
  ...new Set([...inputs, ...outputs].flatMap(({ axes }) => axes.map(({ letter }) => letter).filter(Boolean))),
]

function sizesOf(letters: string[]): fc.Arbitrary<Record<string, number>> {
  const usual = fc.record(Object.fromEntries(letters.map((x) => [x, fc.nat(limits[x]?.[0] ?? 4)])))
  const rare = fc.nat(Math.max(0, letters.length - 1)).chain((i) => {
    const letter = letters[i] as string
    return fc.record(Object.fromEntries(letters.map((x) => [x, fc.nat(limits[x]?.[x === letter ? 1 : 0] ?? 4)])))
  })
  return letters.length === 0
    ? fc.constant({})
    : fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: rare })
}

const numbers = [0, 0.0001, 0.01, 0.1, 0.2, 0.5, 0.9, 1, 1.05, 2, 3, 10]

/** Values of an option that its spec allows. */
export function valuesOf(spec: OptionSpec): fc.Arbitrary<unknown> {
  const none = spec.nullable ? [null] : []
  if (spec.kind === 'enum') return fc.constantFrom<unknown>(...spec.choices, ...none)
  if (spec.kind === 'boolean') return fc.boolean()
  const range = rangeOf(spec.spec.replace(/^\w+\?? ?(= \S+)? ?/, '').replace(/ axis \w$/, ''))
  const pool = spec.kind === 'integer' ? [0, 1, 2, 3, 5, 9, 64] : numbers
  return fc.constantFrom<unknown>(...none, ...pool.filter(range))
}

const some = <T extends string>(names: readonly T[]): fc.Arbitrary<T[]> =>
  fc.oneof({ weight: 2, arbitrary: fc.constant<T[]>([]) }, { weight: 1, arbitrary: fc.subarray([...names]) })

function optionsOf(specs: readonly OptionSpec[]): fc.Arbitrary<Record<string, unknown>> {
  const values = Object.fromEntries(specs.map((spec) => [spec.name, valuesOf(spec)]))
  const required = specs.filter(({ fallback }) => fallback === undefined).map(({ name }) => name)
  // Each other option with a probability of a quarter: an objective has 27 of them.
  return fc
    .tuple(
      fc.record(values),
      fc.subarray(
        specs.map(({ name }) => name),
        { maxLength: Math.min(specs.length, Math.max(2, specs.length >> 2)) },
      ),
    )
    .map(([all, given]) =>
      Object.fromEntries(Object.entries(all).filter(([name]) => required.includes(name) || given.includes(name))),
    )
}

/** The operations of which the fuzzer makes calls: a new row of the table is among them. */
export const fuzzed = operationNames

export function operationCases(name: OperationName, how: 'valid' | 'mutated' | 'later'): fc.Arbitrary<OperationCase> {
  const signature = signatures[name]
  const optional = signature.inputs.filter((spec) => spec.optional).map((spec) => spec.name)
  const any = signature.inputs.some((spec) => spec.spec.startsWith('any'))
  const several = signature.inputs.find((spec) => spec.dtypes.length > 1)?.dtypes
  return fc.record({
    kind: fc.constant('operation' as const),
    name: fc.constant(name),
    seed: fc.nat(0xffff),
    sizes: sizesOf(lettersOf(signature)),
    dtype: fc.constantFrom(...(any ? dtypes : (several ?? (['f32'] as const)))),
    contents: fc.oneof(
      { weight: 5, arbitrary: fc.constant('plain' as const) },
      { weight: 2, arbitrary: fc.constant('ties' as const) },
      { weight: 2, arbitrary: fc.constant('special' as const) },
    ),
    mask: fc.constantFrom(...masks),
    options: optionsOf(signature.options),
    without: some(optional),
    unwanted: how === 'later' ? fc.constant([]) : some(signature.outputs.map((spec) => spec.name)),
    threads: fc.constantFrom(1, 2, 3),
    ...(how === 'later' && {
      later: fc.record({ abort: fc.constantFrom(-1, 0, 1, 2) }),
    }),
    ...(how === 'mutated' && {
      mutation: fc.record({
        of: fc.constantFrom(...(['input', 'input', 'option', 'output'] as const)),
        at: fc.nat(40),
        how: fc.nat(40),
      }),
    }),
  }) as fc.Arbitrary<OperationCase>
}

export function recipeCases(name: string, specs: readonly OptionSpec[], stateful: boolean): fc.Arbitrary<RecipeCase> {
  return fc.record({
    kind: fc.constant('recipe' as const),
    name: fc.constant(name),
    seed: fc.nat(0xffff),
    groups: fc.array(fc.array(fc.nat(5), { minLength: 0, maxLength: 5 }), { minLength: 0, maxLength: 4 }),
    mask: fc.constantFrom(...masks),
    options: optionsOf(specs),
    state: stateful
      ? fc.constantFrom(...(['none', 'kept', 'json', 'changed', 'changed'] as const))
      : fc.constant('none' as const),
    change: fc.nat(0xffff),
  })
}

/** The spec of an input or option, as the table has it. */
export const specOf = (name: OperationName) => ops[name]
