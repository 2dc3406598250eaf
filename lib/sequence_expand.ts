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
 * @param inputs.x              f32[S]    a value per sequence
 * @param inputs.sequenceStart  i32[S+1]  first token of each sequence; its end is T. Without a mask it is read if it
 *                              lies on a device, which waits for the work before it, on this thread
 * @param inputs.mask           u8[T]     0 = gets 0
 * @returns x f32[T]
 * @throws RangeError if sequenceStart does not rise from 0 to T
 */
export const sequenceExpand = operation((inputs: SequenceExpandInputs, options: SequenceExpandOptions = {}) =>
  call('sequenceExpand', inputs, options),
)
