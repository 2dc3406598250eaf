import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface LogRatioInputs {
  x: ArrayInput<'f32'>
  y: ArrayInput<'f32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface LogRatioOptions extends CallOptions<'logRatio'> {}

export const matches: Matches<'logRatio', LogRatioInputs, LogRatioOptions> = true

/**
 * The log-ratio of two policies at each token: the difference of log-probabilities.
 *
 *   logRatio[t] = x[t] - y[t] at the unmasked tokens, 0 at the masked
 *
 * What stands under the mask goes no further. Elsewhere NaN stays NaN, and so does the difference of equal infinities.
 *
 * Accuracy: rounded once.
 *
 * @param inputs.x     f32[T]  log-probabilities of one policy, and
 * @param inputs.y     f32[T]  of the other
 * @param inputs.mask  u8[T]   0 = gets 0
 * @returns logRatio f32[T]
 * @throws RangeError if lengths differ
 * @example
 * import { logRatio } from 'grpo-kernels'
 *
 * const [logp, refLogp] = [new Float32Array([-1, -2, -0.5]), new Float32Array([-1.5, -1, NaN])]
 * console.log(logRatio({ x: logp, y: refLogp, mask: new Uint8Array([1, 1, 0]) }).logRatio.data)
 */
export const logRatio = operation((inputs: LogRatioInputs, options: LogRatioOptions = {}) =>
  call('logRatio', inputs, options),
)
