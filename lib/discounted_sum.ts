import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface DiscountedSumInputs {
  x: ArrayInput<'f32'>
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface DiscountedSumOptions extends CallOptions<'x'> {
  decay?: number
}

export const matches: Matches<'discountedSum', DiscountedSumInputs, DiscountedSumOptions> = true

/**
 * Discounted sum of each token's value and of those after it in its sequence.
 *
 *   y[t] = x[t] + decay y[t+1],   t over the unmasked tokens of a sequence, from the last one, where y = x
 *
 * Rewards become returns, and the residuals reward[t] + gamma value[t+1] - value[t] become generalized advantages with
 * decay = gamma lambda. Sums are float64, in an order that depends on the sequence alone. A masked token gets 0, its x is
 * not read, and the sum passes over it undiscounted, as if it were not there. NaN and infinity reach the tokens before
 * theirs in the sequence, and no others.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64; sums of whole numbers are exact.
 *
 * @param inputs.x              f32[T]    a value per token
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; ends with T
 * @param inputs.mask           u8[T]     0 = does not count
 * @param options.decay         from 0 to 1 (default): the sum of all that follows
 * @returns x f32[T]
 * @throws RangeError if sequenceStart does not rise from 0 to T, or decay is not in 0..1
 * @see GAE, arXiv:1506.02438, (16)
 * @example
 * import { discountedSum } from 'grpo-kernels'
 *
 * const sequenceStart = new Int32Array([0, 3, 5])
 * const x = new Float32Array([0, 0, 1, 0, 1]) // a reward at the end of each sequence
 * console.log(discountedSum({ x, sequenceStart }, { decay: 0.5 }).x.data)
 */
export const discountedSum = operation((inputs: DiscountedSumInputs, options: DiscountedSumOptions = {}) =>
  call('discountedSum', inputs, options),
)
