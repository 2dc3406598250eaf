// What a saved state must look like, and whether it does: a text may come from anywhere, and a number that is none would be
// found steps later, as a loss that is NaN.

import { type ErrorKind, grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { rangeOf } from './columns.js'

/**
 * The shape of saved data, as it is nested:
 *   'number >= 0'          number, f32, integer or string, with a range for numbers as of an option; `number?` may be null
 *                          f32 is a number that does not overflow in float32, which rewards and advantages become
 *   { step: 'integer' }    an object with these names and no other; one that ends with ? may be absent: { 'seen?': ... }
 *   { '*': shape }         an object with any names
 *   { '?': shape }         null, or the shape
 *   [shape]                a list of any length
 */
export type Shape = string | readonly [Shape] | { readonly [name: string]: Shape }

/** What is wrong, and where: `at` is the way from the data to the place. */
interface Problem {
  readonly at: string
  readonly kind: ErrorKind
  readonly text: (at: string) => string
}
type Check = (data: unknown) => Problem | undefined

const isObject = (x: unknown): x is Readonly<Record<string, unknown>> =>
  Object.prototype.toString.call(x) === '[object Object]'

const unlike = (data: unknown, expected: string, kind: ErrorKind = 'kind'): Problem => {
  return { at: '', kind, text: (at) => `has ${describe(data)} at ${at}, expected ${expected}` }
}
const under = (name: string, problem: Problem | undefined): Problem | undefined =>
  problem && { ...problem, at: `${name}${problem.at}` }

const words = { number: 'a number', f32: 'a float32 number', integer: 'a whole number', string: 'a string' }
type Kind = keyof typeof words
const holds: Record<Kind, (x: unknown) => boolean> = {
  number: Number.isFinite,
  f32: (x) => Number.isFinite(Math.fround(x as number)),
  integer: Number.isSafeInteger,
  string: () => true,
}

function leaf(spec: string): Check {
  const [, kind, question, range = ''] = /^(number|f32|integer|string)(\?)?(?: (.+))?$/.exec(spec) ?? []
  if (kind === undefined) throw new Error(`${spec} is no shape of a state`)
  const expected = `${words[kind as Kind]}${range && ` ${range}`}${question ? ' or null' : ''}` // biome-ignore format: one text
  const type = kind === 'string' ? 'string' : 'number'
  const inRange = rangeOf(range)
  const isNumber = holds[kind as Kind]
  return (data) => {
    if (data === null && question !== undefined) return undefined
    if (typeof data !== type) return unlike(data, expected)
    if (type === 'string' || (isNumber(data) && inRange(data as number))) return undefined
    return unlike(data, expected, 'value')
  }
}

function fields(shape: Readonly<Record<string, Shape>>): Check {
  const checks = Object.entries(shape).map(([text, field]) => {
    const name = text.replace(/\?$/, '')
    return { name, optional: name !== text, check: checkOf(field) }
  })
  const known = new Set(checks.map(({ name }) => name))
  const names = [...known].join(', ')
  const wrong = (name: string, text: (at: string) => string) => under(`.${name}`, { at: '', kind: 'kind', text })
  return (data) => {
    if (!isObject(data)) return unlike(data, 'an object')
    for (const { name, optional, check } of checks) {
      if (!Object.hasOwn(data, name)) {
        if (optional) continue
        return wrong(name, (at) => `has no ${at}, expected ${names}`)
      }
      const problem = check(data[name])
      if (problem !== undefined) return under(`.${name}`, problem)
    }
    const other = Object.keys(data).find((name) => !known.has(name))
    return other === undefined ? undefined : wrong(other, (at) => `has ${at}, expected ${names} alone`)
  }
}

/** A state may know many prompts, and is read at every step: where nothing is wrong, nothing is made. */
function checkOf(shape: Shape): Check {
  if (typeof shape === 'string') return leaf(shape)
  if (Array.isArray(shape)) {
    const each = checkOf(shape[0])
    return (data) => {
      if (!Array.isArray(data)) return unlike(data, 'a list')
      for (let i = 0; i < data.length; i++) {
        const problem = each(data[i])
        if (problem !== undefined) return under(`[${i}]`, problem)
      }
      return undefined
    }
  }
  const { '?': orNull, '*': any } = shape as Readonly<Record<string, Shape>>
  if (orNull !== undefined) {
    const check = checkOf(orNull)
    return (data) => (data === null ? undefined : check(data))
  }
  if (any === undefined) return fields(shape as Readonly<Record<string, Shape>>)
  const each = checkOf(any)
  return (data) => {
    if (!isObject(data)) return unlike(data, 'an object')
    for (const name of Object.keys(data)) {
      const problem = each(data[name])
      if (problem !== undefined) return under(`.${name}`, problem)
    }
    return undefined
  }
}

/** Throws unless the data has the shape; names the field. */
export function checkShape(method: string, shape: Shape, data: unknown, name: string): void {
  const problem = checkOf(shape)(data)
  if (problem !== undefined) throw grpoError(problem.kind, method, 'state', problem.text(`${name}${problem.at}`))
}
