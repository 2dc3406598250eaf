import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface GaussianLogprobInputs {
  x: ArrayInput<'f32'>
  mean: ArrayInput<'f32'>
  std: ArrayInput<'f32'>
  oldMean?: ArrayInput<'f32'> | undefined
  mask?: ArrayInput<'u8'> | undefined
}

export interface GaussianLogprobOptions extends CallOptions<'logp' | 'logRatio'> {}

export const matches: Matches<'gaussianLogprob', GaussianLogprobInputs, GaussianLogprobOptions> = true

/**
 * Log-probability of vectors under isotropic Gaussians, averaged over their dimensions: the policy of a flow or diffusion
 * model, a row per denoising step.
 *
 *   logp[t] = mean_d(-(x[t,d] - mean[t,d])^2 / (2 std[t]^2)) - log std[t] - log(2 pi) / 2
 *   logRatio[t] = mean_d((x[t,d] - oldMean[t,d]) (mean[t,d] - oldMean[t,d])) / std[t]
 *
 * logRatio is GRPO-Guard's regulated log-ratio, std (logp - oldLogp + mean_d((mean - oldMean)^2) / (2 std^2)), in a form that
 * does not cancel: without the bias that is never positive, and on one scale for all steps. It takes the place of
 * logp - oldLogp in a policy loss.
 *
 * Sums are float64, in an order that depends on the row alone. A masked row is not read and gets 0, and so does a row
 * without dimensions. A std that is not positive, and NaN in a row, make the results of that row NaN.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64.
 *
 * @param inputs.x        f32[T,D]  what was sampled
 * @param inputs.mean     f32[T,D]  of the policy
 * @param inputs.std      f32[T]    above 0, the same in all dimensions of a row
 * @param inputs.oldMean  f32[T,D]  of the policy that sampled, with the same std
 * @param inputs.mask     u8[T]     0 = skipped
 * @returns logp f32[T], in nats per dimension; logRatio f32[T] where oldMean is given
 * @throws RangeError if shapes differ
 * @see GRPO-Guard, arXiv:2510.22319, (8)
 * @example
 * import { array, gaussianLogprob } from 'grpo-kernels'
 *
 * const [x, mean, oldMean] = [[1, 0, 0.5, 2], [0.9, 0.1, 0, 1], [0.8, 0.1, 0, 1.5]].map((values) =>
 *   array(Float32Array.from(values), [2, 2]),
 * )
 * const { logp, logRatio } = gaussianLogprob({ x, mean, oldMean, std: new Float32Array([0.5, 1]) })
 * console.log(logp.data, logRatio.data)
 */
export const gaussianLogprob = operation((inputs: GaussianLogprobInputs, options: GaussianLogprobOptions = {}) =>
  call('gaussianLogprob', inputs, options),
)

export interface GaussianLogprobBackwardInputs extends GaussianLogprobInputs {
  gradLogp?: ArrayInput<'f32'> | undefined
  gradLogRatio?: ArrayInput<'f32'> | undefined
}

export interface GaussianLogprobBackwardOptions extends CallOptions<'gradMean'> {
  gradScale?: number
}

export const matchesBackward: Matches<
  'gaussianLogprobBackward',
  GaussianLogprobBackwardInputs,
  GaussianLogprobBackwardOptions
> = true

/**
 * The gradient of gaussianLogprob with respect to the mean.
 *
 *   gradMean[t,d] = gradLogp[t] (x[t,d] - mean[t,d]) / (std[t]^2 D) + gradLogRatio[t] (x[t,d] - oldMean[t,d]) / (std[t] D)
 *
 * Formed in float64 and rounded once. A row that is masked, or whose gradients are 0, gets exactly 0 and is not read. A
 * std that is not positive gives NaN.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64; and agrees with central differences of it.
 *
 * @param inputs               x, mean, std, oldMean, mask as in gaussianLogprob
 * @param inputs.gradLogp      f32[T]  derivative of the loss with respect to logp, and
 * @param inputs.gradLogRatio  f32[T]  with respect to logRatio: at least one of the two
 * @param options.gradScale    multiplies the gradient; 1 by default
 * @returns gradMean f32[T,D]
 * @throws TypeError if neither gradient is given, or gradLogRatio without oldMean; RangeError if shapes differ
 * @see GRPO-Guard, arXiv:2510.22319, (8)
 * @example
 * import { array, gaussianLogprobBackward } from 'grpo-kernels'
 *
 * const x = array(new Float32Array([1, 0, 0.5, 2]), [2, 2])
 * const mean = array(new Float32Array([0.9, 0.1, 0, 1]), [2, 2])
 * const inputs = { x, mean, std: new Float32Array([0.5, 1]), gradLogp: new Float32Array([-1, -1]) }
 * console.log(gaussianLogprobBackward(inputs).gradMean.data)
 */
export const gaussianLogprobBackward = operation(
  (inputs: GaussianLogprobBackwardInputs, options: GaussianLogprobBackwardOptions = {}) =>
    call('gaussianLogprobBackward', inputs, options),
)
