// Reads the specs of the table (their language is explained in ops.ts), once per row.

import { type OperationName, ops, type Row } from '../ops.js'
import type { DType } from './dtypes.js'
import { dtypes } from './dtypes.js'

export interface ArraySpec {
  readonly name: string
  readonly spec: string
  /** Dtypes it may have; empty: those of `like`, or any. */
  readonly dtypes: readonly DType[]
  readonly like: string | undefined
  readonly axes: readonly { letter: string; plus: number; maybe: boolean }[]
  readonly optional: boolean
  readonly strided: boolean
  readonly offsets: string | undefined
  /** It holds ids or places, which are not looked at where a mask of the operation is 0. */
  readonly ids: boolean
  readonly over: string | undefined
  /** With the option `accumulate` it is added to what the caller's array holds. */
  readonly accumulates: boolean
  /** It exists where the caller's `out` has it. */
  readonly asked: boolean
  /** The input whose presence makes this output exist. */
  readonly condition: string | undefined
}

export interface OptionSpec {
  readonly name: string
  readonly spec: string
  readonly kind: 'number' | 'integer' | 'boolean' | 'enum'
  readonly nullable: boolean
  /** undefined: the option has to be given. */
  readonly fallback: number | boolean | string | null | undefined
  readonly choices: readonly string[]
  /** The axis that it sizes. */
  readonly axis: string | undefined
  /** The ends of a range that has both, as text. */
  readonly range: readonly [least: string, most: string] | undefined
}

export interface Signature {
  readonly name: OperationName
  readonly inputs: readonly ArraySpec[]
  readonly outputs: readonly ArraySpec[]
  readonly options: readonly OptionSpec[]
}

function parseArray(name: string, spec: string): ArraySpec {
  const [, types = '', axes = '', rules = ''] = /^(.*?)\[(.*?)\](.*)$/.exec(spec) ?? []
  const rule = (word: string) => new RegExp(`\\b${word} (\\w+)`).exec(rules)?.[1]
  return {
    name,
    spec,
    dtypes: dtypes.filter((dtype) => types.split('|').includes(dtype)),
    like: /^[=~](\w+)/.exec(types)?.[1],
    axes: axes.split(',').map((axis) => {
      const [, letter = '', plus = '0', maybe] = /^([A-Z]?)\+?(\d*)(\?)?$/.exec(axis) ?? []
      return { letter, plus: Number(plus), maybe: maybe !== undefined }
    }),
    optional: rules.startsWith(' ?'),
    strided: rules.includes('strided'),
    offsets: rule('offsets'),
    ids: rule('below') !== undefined || rule('vocabulary') !== undefined,
    over: rule('over'),
    accumulates: rules.includes('accumulates'),
    asked: rules.includes('asked'),
    condition: rule('if'),
  }
}

export function parseOption(name: string, spec: string): OptionSpec {
  const [, kind, question, rest = ''] = /^(\w+)(\??) ?(.*)$/.exec(spec) ?? []
  const choices = kind === 'enum' ? rest.split('|') : []
  const [, least = '', most] = /(\S+)\.\.(\S+)/.exec(rest) ?? []
  const written = /^= (\S+)/.exec(rest)?.[1]
  const fallback = written === undefined ? undefined : (JSON.parse(written) as number | boolean | null)
  return {
    name,
    spec,
    kind: kind as OptionSpec['kind'],
    nullable: question === '?',
    fallback: kind === 'enum' ? (question === '?' ? null : choices[0]) : fallback,
    choices,
    axis: /\baxis (\w)/.exec(rest)?.[1],
    range: most === undefined ? undefined : [least, most],
  }
}

function parseRow(name: OperationName, row: Row): Signature {
  const list = <T>(specs: Record<string, string>, parse: (name: string, spec: string) => T) =>
    Object.entries(specs).map(([key, spec]) => parse(key, spec))
  return {
    name,
    inputs: list(row.inputs, parseArray),
    outputs: list(row.outputs, parseArray),
    options: list(row.options, parseOption),
  }
}

export const operationNames = Object.keys(ops) as OperationName[]

export const signatures = Object.fromEntries(
  operationNames.map((name) => [name, parseRow(name, ops[name])]),
) as unknown as Record<OperationName, Signature>
