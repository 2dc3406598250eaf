// What a saved state must look like, and whether it does: a text may come from anywhere, and a number that is none would be
// found steps later, as a loss that is NaN.

import { type ErrorKind, grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { inRange } from './columns.js'

/**
 * The shape of saved data, as it is nested:
 *   'number >= 0'          number, integer or string, with a range for numbers as of an option; `number?` may be null
 *   { step: 'integer' }    an object with these names and no other
 *   { '*': shape }         an object with any names
 *   { '?': shape }         null, or the shape
 *   [shape]                a list of any length
 */
export type Shape = string | readonly [Shape] | { readonly [name: string]: Shape }

const isObject = (x: unknown): x is Readonly<Record<string, unknown>> =>
  Object.prototype.toString.call(x) === '[object Object]'

/** Throws unless the data has the shape; names the field. */
export function checkShape(method: string, shape: Shape, data: unknown, at: string): void {
  const refuse = (expected: string, kind: ErrorKind = 'kind') =>
    grpoError(kind, method, 'state', `has ${describe(data)} at ${at}, expected ${expected}`)
  if (typeof shape === 'string') {
    const [, kind, question, range = ''] = /^(number|integer|string)(\?)?(?: (.+))?$/.exec(shape) ?? []
    if (kind === undefined) throw new Error(`${method}: ${shape} is no shape of a state`)
    if (data === null && question !== undefined) return
    const expected = `${kind === 'integer' ? 'a whole number' : `a ${kind}`}${range && ` ${range}`}${question ? ' or null' : ''}` // biome-ignore format: one text
    if (typeof data !== (kind === 'string' ? 'string' : 'number')) throw refuse(expected)
    if (kind === 'string') return
    const whole = kind === 'integer' ? Number.isSafeInteger(data) : Number.isFinite(data)
    if (!whole || !inRange(range, data as number)) throw refuse(expected, 'value')
  } else if (Array.isArray(shape)) {
    if (!Array.isArray(data)) throw refuse('a list')
    for (let i = 0; i < data.length; i++) checkShape(method, shape[0], data[i], `${at}[${i}]`)
  } else {
    const fields = shape as Readonly<Record<string, Shape>>
    const { '?': orNull, '*': any } = fields
    if (orNull !== undefined) {
      if (data !== null) checkShape(method, orNull, data, at)
      return
    }
    if (!isObject(data)) throw refuse('an object')
    if (any !== undefined) {
      for (const [name, value] of Object.entries(data)) checkShape(method, any, value, `${at}.${name}`)
      return
    }
    for (const [name, field] of Object.entries(fields)) {
      if (!Object.hasOwn(data, name)) {
        throw grpoError('kind', method, 'state', `has no ${at}.${name}, expected ${Object.keys(fields).join(', ')}`)
      }
      checkShape(method, field, data[name], `${at}.${name}`)
    }
    const other = Object.keys(data).find((name) => !Object.hasOwn(fields, name))
    if (other === undefined) return
    throw grpoError('kind', method, 'state', `has ${at}.${other}, expected ${Object.keys(fields).join(', ')} alone`)
  }
}
