// Columns that decide which tokens count, and how much. A NaN in what a loss computes reaches the loss; one that is
// only compared with a bound would leave its token out, or let it in, and nobody would see that a value was missing.
import { grpoError } from '../../addon/errors.js'
import type { Context } from '../step/context.js'

const remedies = {
  rolloutLogp: 'mask it, or put its oldLogp there, with which its weight is 1',
  oldLogp: 'mask it',
  entropy: 'mask it',
} as const

/** [T] a column of the batch. @throws RangeError for a token that counts and has a NaN there */
export function known(c: Context, name: keyof typeof remedies): Float32Array {
  const { [name]: x, mask } = c
  for (let t = 0; t < x.length; t++) {
    if (!Number.isNaN(x[t]) || mask?.[t] === 0) continue
    throw grpoError(
      'value',
      c.method,
      name,
      `has NaN at ${t}, expected a number of a token that counts: ${remedies[name]}`,
    )
  }
  return x
}

/** [T] of the policy that sampled: without oldLogp the current one, whose NaN shows in the loss. */
export const sampledLogp = (c: Context): Float32Array => (c.has('oldLogp') ? known(c, 'oldLogp') : c.logp)
