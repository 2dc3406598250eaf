// A loss has one aggregate for its policy term and its KL. Where a trainer has two, weights turn it into the mean over
// rollouts of the mean over tokens for the policy term, and the KL keeps the aggregate.
import { tokenCounts } from '../parts/pairs.js'
import { perToken } from '../parts/rejection.js'
import { sum } from '../parts/statistics.js'
import type { Context } from '../step/context.js'

export interface SequenceTerm {
  /** Of the loss. */
  readonly aggregate: 'token_mean' | 'sequence_sum' | 'constant' | 'token_sum'
  /** Whether rollouts without tokens are counted. */
  readonly countEmpty: boolean
  /** Of 'constant'. */
  readonly maxLength?: number
}

/** [T] what a policy term is multiplied by, so that under `aggregate` it is the sequence mean. */
export function sequenceTerm(c: Context, { aggregate, countEmpty, maxLength = 1 }: SequenceTerm): Float32Array {
  const tokens = tokenCounts(c)
  const rollouts = countEmpty ? c.N : tokens.reduce((count, n) => count + Number(n > 0), 0)
  const factors = { token_mean: sum(tokens) / rollouts, sequence_sum: 1, constant: maxLength, token_sum: 1 / rollouts }
  const share = factors[aggregate]
  return perToken(
    c,
    Float32Array.from(tokens, (n) => (n === 0 ? 0 : share / n)),
  )
}
