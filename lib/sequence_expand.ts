import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface SequenceExpandInputs {
  x: ArrayInput<'f32'>
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface SequenceExpandOptions extends CallOptions<'x'> {
  mean?: boolean
}

export const matches: Matches<'sequenceExpand', SequenceExpandInputs, SequenceExpandOptions> = true

/**
 * The value of each sequence at its tokens: the transpose of sequenceSum, and so its gradient.
 *
 *   y[t] = x[s] for the unmasked tokens t of sequence s, 0 for the masked;   with `mean` divided by the unmasked tokens of s
 *
 * Accuracy: values are copied; with `mean` one division in float64, rounded once.
 *
 * @param inputs.x              f32[S]    a value per sequence
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; its end is T. Without a mask it is read if it
 *                              lies on a device, which waits for the work before it, on this thread
 * @param inputs.mask           u8[T]     0 = gets 0
 * @param options.mean          true: divided by the unmasked tokens of the sequence
 * @returns x f32[T]
 * @throws RangeError if sequenceStart does not rise from 0 to T
 * @example
 * import { sequenceExpand } from 'grpo-kernels'
 *
 * const inputs = { x: new Float32Array([6, 7, 9]), sequenceStart: new Int32Array([0, 3, 3, 4]) }
 * console.log(sequenceExpand(inputs).x.data, sequenceExpand(inputs, { mean: true }).x.data)
 */
export const sequenceExpand = operation((inputs: SequenceExpandInputs, options: SequenceExpandOptions = {}) =>
  call('sequenceExpand', inputs, options),
)
