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
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64.
 *
 * @param inputs.x              f32[T]    a value per token
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; ends with T
 * @param inputs.mask           u8[T]     0 = does not count
 * @param options.mean          true: the mean of the unmasked tokens
 * @returns x f32[S]
 * @throws RangeError if sequenceStart does not rise from 0 to T
 * @example
 * import { sequenceSum } from 'grpo-kernels'
 *
 * const inputs = { x: new Float32Array([1, 2, 3, 4]), sequenceStart: new Int32Array([0, 3, 3, 4]) }
 * console.log(sequenceSum(inputs).x.data, sequenceSum(inputs, { mean: true }).x.data)
 */
export const sequenceSum = operation((inputs: SequenceSumInputs, options: SequenceSumOptions = {}) =>
  call('sequenceSum', inputs, options),
)
