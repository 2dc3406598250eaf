import { array } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { call, checkNames, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'
import { checkMoments, type Moments } from './moments.js'

export interface StandardizeInputs {
  x: ArrayInput<'f32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface StandardizeOptions extends CallOptions<'x'> {
  moments: Moments
  ddof?: number
  eps?: number
  epsUnderRoot?: boolean
  center?: boolean
}

export const matches: Matches<
  'standardize',
  StandardizeInputs & { moments: ArrayInput<'f64'> },
  Omit<StandardizeOptions, 'moments'>
> = true

/**
 * Whitening of a batch: centres and scales it by statistics that may span all ranks.
 *
 *   out[i] = (x[i] - mean) / (sqrt(m2 / (count - ddof)) + eps)
 *
 * With epsUnderRoot the divisor is sqrt(m2 / (count - ddof) + eps); with center false the mean is not subtracted. float64,
 * rounded once. A standard deviation of exactly 0 divides nothing; that of too few values for ddof is 0. Masked values are
 * 0, whatever they hold; NaN and infinity elsewhere propagate.
 *
 * verl's masked_whiten and REINFORCE++: { epsUnderRoot: true } over the tokens. OpenRLHF's reinforce_baseline: { ddof: 0,
 * eps: 0 } (its variance is at least 1e-8). To scale only: { center: false }.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64, also where the values share an offset of 1e6.
 *
 * @param inputs.x         f32[N]  any unit
 * @param inputs.mask      u8[N]   0 = does not count, and gets 0
 * @param options.moments  needed: of `moments` or `mergeMoments`, usually over these values, but any will do
 * @param options.ddof     the divisor of the variance is count - ddof
 * @param options.eps      added to the standard deviation; with epsUnderRoot to the variance instead
 * @param options.epsUnderRoot  true: eps is added to the variance
 * @param options.center        false: the mean is not subtracted
 * @returns x f32[N], in standard deviations
 * @throws TypeError if options.moments is not { count, mean, m2 }; RangeError if its count or m2 is negative, or an option
 *         is out of range
 * @see REINFORCE++, arXiv:2501.03262
 * @example
 * import { moments, standardize } from 'grpo-kernels'
 *
 * const x = new Float32Array([1, 2, 3, 6])
 * console.log(standardize({ x }, { moments: moments({ x }) }).x.data)
 */
export const standardize = operation((inputs: StandardizeInputs, options: StandardizeOptions) => {
  const { moments, ...rest } = options ?? {}
  checkNames('standardize', inputs, ['x', 'mask'], 'input')
  checkMoments('standardize', 'moments', moments)
  const { count, mean, m2 } = moments
  return call('standardize', { ...inputs, moments: array(Float64Array.of(count, mean, m2)) }, rest)
})
