import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface GaussianKlInputs {
  mean: ArrayInput<'f32'>
  refMean: ArrayInput<'f32'>
  std: ArrayInput<'f32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface GaussianKlOptions extends CallOptions<'kl'> {}

export const matches: Matches<'gaussianKl', GaussianKlInputs, GaussianKlOptions> = true

/**
 * KL of isotropic Gaussians to those of a reference policy with the same standard deviation, averaged over their
 * dimensions: of a flow or diffusion model, a row per denoising step. It is exact, not estimated from a sample.
 *
 *   kl[t] = mean_d((mean[t,d] - refMean[t,d])^2) / (2 std[t]^2)
 *
 * Sums are float64, in an order that depends on the row alone. A masked row is not read and gets 0, and so does a row
 * without dimensions. A std that is not positive, and NaN in a row, make the KL of that row NaN.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64.
 *
 * @param inputs.mean     f32[T,D]  of the policy
 * @param inputs.refMean  f32[T,D]  of the reference policy, with the same std
 * @param inputs.std      f32[T]    above 0, the same in all dimensions of a row
 * @param inputs.mask     u8[T]     0 = skipped
 * @returns kl f32[T], in nats per dimension
 * @throws RangeError if shapes differ
 * @see Flow-GRPO, arXiv:2505.05470
 * @example
 * import { array, gaussianKl } from 'grpo-kernels'
 *
 * const [mean, refMean] = [[0.9, 0.1, 0, 1], [0.8, 0.1, 0, 1.5]].map((values) => array(Float32Array.from(values), [2, 2]))
 * console.log(gaussianKl({ mean, refMean, std: new Float32Array([0.5, 1]) }).kl.data)
 */
export const gaussianKl = operation((inputs: GaussianKlInputs, options: GaussianKlOptions = {}) =>
  call('gaussianKl', inputs, options),
)

export interface GaussianKlBackwardInputs extends GaussianKlInputs {
  gradKl: ArrayInput<'f32'>
}

export interface GaussianKlBackwardOptions extends CallOptions<'gradMean'> {
  gradScale?: number
  accumulate?: boolean
}

export const matchesBackward: Matches<'gaussianKlBackward', GaussianKlBackwardInputs, GaussianKlBackwardOptions> = true

/**
 * The gradient of gaussianKl with respect to the mean.
 *
 *   gradMean[t,d] = gradKl[t] (mean[t,d] - refMean[t,d]) / (std[t]^2 D)
 *
 * Formed in float64 and rounded once, with `accumulate` after what `out` holds is added. A row that is masked, or whose
 * gradKl is 0, is not read and gets exactly 0, with `accumulate` what it holds. A std that is not positive gives NaN.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64; and agrees with central differences of it.
 *
 * @param inputs             mean, refMean, std, mask as in gaussianKl
 * @param inputs.gradKl      f32[T]  derivative of the loss with respect to kl
 * @param options.gradScale  multiplies the gradient; 1 by default
 * @param options.accumulate true: the gradient is added to what `out.gradMean` holds: that of another term of the loss
 * @returns gradMean f32[T,D]
 * @throws RangeError if shapes differ; TypeError if there is nothing to accumulate to
 * @see Flow-GRPO, arXiv:2505.05470
 * @example
 * import { array, gaussianKlBackward } from 'grpo-kernels'
 *
 * const [mean, refMean] = [[0.9, 0.1, 0, 1], [0.8, 0.1, 0, 1.5]].map((values) => array(Float32Array.from(values), [2, 2]))
 * const inputs = { mean, refMean, std: new Float32Array([0.5, 1]), gradKl: new Float32Array([1, 1]) }
 * console.log(gaussianKlBackward(inputs).gradMean.data)
 */
export const gaussianKlBackward = operation(
  (inputs: GaussianKlBackwardInputs, options: GaussianKlBackwardOptions = {}) =>
    call('gaussianKlBackward', inputs, options),
)
