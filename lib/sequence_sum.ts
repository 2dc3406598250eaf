import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface SequenceSumInputs {
  x: ArrayInput<'f32'>
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface SequenceSumOptions extends CallOptions<'x'> {
  mean?: boolean
}

export const matches: Matches<'sequenceSum', SequenceSumInputs, SequenceSumOptions> = true

/**
 * Sum of the tokens of each sequence.
 *
 *   y[s] = sum_t x[t],   t over the unmasked tokens of sequence s;   with `mean` divided by their number
 *
 * Sums are float64, in an order that depends on the sequence alone. A sequence without unmasked tokens gets 0, also with
 * `mean`. Masked values are not read: NaN under the mask changes nothing.
 *
 * @param inputs.x              f32[T]    a value per token
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; ends with T
 * @param inputs.mask           u8[T]     0 = does not count
 * @returns x f32[S]
 * @throws RangeError if sequenceStart does not rise from 0 to T
 */
export const sequenceSum = operation((inputs: SequenceSumInputs, options: SequenceSumOptions = {}) =>
  call('sequenceSum', inputs, options),
)
