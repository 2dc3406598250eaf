import { grpoError } from '../../addon/errors.js'
import type { Context } from '../step/context.js'

/** A column that an option asks for, above 0 at every place that counts; what lies under the mask is not looked at. */
export function positiveColumn(
  c: Context,
  name: string,
  x: Float64Array | undefined,
  counts: Uint8Array,
  purpose: string,
): Float64Array {
  if (x === undefined) {
    throw grpoError('missing', c.method, name, `is missing from the batch, expected number[T] for ${purpose}`)
  }
  const wrong = x.findIndex((value, t) => counts[t] === 1 && !(value > 0))
  if (wrong >= 0)
    throw grpoError('value', c.method, name, `has ${x[wrong]} at ${wrong}, expected above 0 for ${purpose}`)
  return x
}
