// A Gaussian policy, of flow and diffusion models: a step of denoising stands where a token stands elsewhere.

import { grpoError } from '../../addon/errors.js'
import { array, describe } from '../../arrays/array.js'
import { isDeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { type Call, map } from '../../call/calls.js'
import { gaussianKl, gaussianKlBackward } from '../../gaussian_kl.js'
import { gaussianLogprob, gaussianLogprobBackward } from '../../gaussian_logprob.js'
import type { Objective } from '../../objective.js'
import { policyLoss } from '../../policy_loss.js'
import type { Context } from './context.js'
import type { Forward, OfTokens } from './gradients.js'
import { columnAt, type Uploads } from './placing.js'
import { callOf, ran, type Steps } from './steps.js'

export interface GaussianPolicy {
  /** [T,D] what was sampled at each step */
  readonly x?: ArrayInput<'f32'>
  /** [T,D] of the current policy */
  readonly mean?: ArrayInput<'f32'>
  /** [T]   standard deviation of each step, the same in all dimensions */
  readonly std?: ArrayInput<'f32'>
  /** [T,D] of the policy that sampled */
  readonly oldMean?: ArrayInput<'f32'>
  /** [T,D] of the reference policy: a KL to it is then the exact one of two Gaussians */
  readonly refMean?: ArrayInput<'f32'>
}

/**
 * What stands as the log-probability of a step.
 * - 'logp':      the log-density, averaged over dimensions
 * - 'log_ratio': std (log ratio + mean_d((mean - oldMean)^2) / (2 std^2)), GRPO-Guard's normalised log-ratio; oldLogp is
 *                then 0
 */
export type GaussianKind = 'logp' | 'log_ratio'

const meanings = {
  x: 'f32[T,D]: what was sampled at each step',
  std: 'f32[T]: the standard deviation of each step',
  oldMean: 'f32[T,D]: the mean of the policy that sampled',
  refMean: 'f32[T,D]: the mean of the reference policy, for klCoef',
} as const

function need(method: string, policy: GaussianPolicy, name: keyof typeof meanings): ArrayInput<'f32'> {
  const value = policy[name]
  if ((value ?? undefined) !== undefined) return value as ArrayInput<'f32'>
  throw grpoError('missing', method, name, `is missing, expected ${meanings[name]}`)
}

/** The pass over a Gaussian policy. Arrays beside a mean on a device may lie on the host. */
export function gaussianForward(
  c: Context,
  policy: GaussianPolicy,
  kind: GaussianKind,
  uploads: Uploads | undefined,
): Call<Forward> {
  const { method } = c
  const isRatio = kind === 'log_ratio'
  const place = (name: string, x: ArrayInput | undefined) => (uploads === undefined ? x : uploads.place(name, x))
  const inputs = {
    x: place('x', need(method, policy, 'x')),
    mean: policy.mean as ArrayInput<'f32'>,
    std: place('std', need(method, policy, 'std')),
    oldMean: isRatio ? place('oldMean', need(method, policy, 'oldMean')) : undefined,
    mask: uploads === undefined ? c.mask : uploads.keep('mask', columnAt(c, 'mask')),
  }
  const stream = uploads?.stream === undefined ? {} : { stream: uploads.stream }
  const forward = callOf<{ logp: OfTokens; logRatio?: OfTokens }>(gaussianLogprob, inputs, stream)
  return map(forward, (outputs) => ({
    logp: isRatio ? (outputs.logRatio as OfTokens) : outputs.logp,
    get entropy(): OfTokens {
      throw grpoError('missing', method, 'entropy', 'is missing from the batch, expected f32[T]: that of a Gaussian policy does not depend on its mean') // biome-ignore format: one text
    },
    backward: (gradLogp, _, out = {}) => {
      const gradient = { [isRatio ? 'gradLogRatio' : 'gradLogp']: place('gradLogp', gradLogp) }
      return callOf(gaussianLogprobBackward, { ...inputs, ...gradient }, { out, ...stream })
    },
    dispose: (kept) => {
      for (const x of Object.values(outputs)) if (!kept.includes(x) && isDeviceArray(x)) x.dispose()
    },
  }))
}

/**
 * klCoef times the exact KL to the reference, aggregated as the objective says, with a minus, where the policy lies; and
 * `addGradient`, which adds its gradient to that of the mean.
 */
export function* klToReference(
  method: string,
  policy: GaussianPolicy,
  { sequenceStart, mask }: { sequenceStart: Int32Array; mask: ArrayInput | undefined },
  { klCoef = 0, aggregate, maxLength, countEmpty, normalizer }: Objective,
  uploads: Uploads | undefined,
): Steps<{ loss: OfTokens; addGradient(gradMean: OfTokens): Call<unknown> }> {
  // Of the objective, which the policy loss checks, but without its KL.
  if (typeof klCoef !== 'number' || !Number.isFinite(Math.fround(klCoef))) {
    throw grpoError('option', method, 'klCoef', `is ${describe(klCoef)}, expected a finite number that float32 can hold`) // biome-ignore format: one text
  }
  const place = (name: string, x: ArrayInput) => (uploads === undefined ? x : uploads.place(name, x))
  const [std, refMean] = [need(method, policy, 'std'), need(method, policy, 'refMean')]
  const inputs = { mean: policy.mean, refMean: place('refMean', refMean), std: place('std', std), mask }
  const stream = uploads?.stream === undefined ? {} : { stream: uploads.stream }
  const { kl } = yield* ran(callOf<{ kl: OfTokens }>(gaussianKl, inputs, stream))
  uploads?.own(kl)
  // Of reinforce with an advantage of klCoef the loss is -klCoef times what stands as logp.
  const tokenAdvantage = place('tokenAdvantage', new Float32Array(kl.shape[0] as number).fill(klCoef))
  const options = { surrogate: 'reinforce', aggregate, maxLength, countEmpty, normalizer, ...stream } as const
  const given = { logp: kl, tokenAdvantage, sequenceStart, mask }
  const done = yield* ran(callOf<Record<'loss' | 'gradLogp' | 'stats', OfTokens>>(policyLoss, given, options))
  for (const x of Object.values(done)) uploads?.own(x)
  return {
    loss: done.loss,
    addGradient: (gradMean) =>
      callOf(
        gaussianKlBackward,
        { ...inputs, gradKl: done.gradLogp },
        { gradScale: -1, accumulate: true, out: { gradMean }, ...stream },
      ),
  }
}

const values = (...x: number[]) => array(Float32Array.from(x), [x.length / 2, 2])

/** Of a description: the twelve tokens of the example batch as steps of two dimensions. */
export const gaussianExample = {
  logp: undefined,
  oldLogp: [0.28, 0.37, 0.24, -0.28, -0.1, 0.21, 0.26, 0.23, 0.4, 0.21, 0.17, 0.45],
  x: values(0.01, 0.43, -0.13, 0.13, -0.16, -0.18, 0.47, -0.39, -0.29, 0.44, 0.3, 0.15, 0.25, -0.35, -0.02, -0.02, -0.19, -0.5, -0.61, -0.19, -0.25, -0.11, -0.14, -0.29), // biome-ignore format: one list
  mean: values(-0.03, 0.35, -0.31, 0.24, -0.02, -0.15, 0.56, 0.03, 0.04, 0.16, 0.37, -0.03, 0.18, -0.31, -0.09, -0.16, -0.4, -0.44, -0.44, -0.14, 0, -0.07, 0.01, -0.39), // biome-ignore format: one list
  oldMean: values(0.03, 0.38, -0.28, 0.3, -0.08, -0.08, 0.57, 0.05, -0.01, 0.22, 0.34, -0.01, 0.18, -0.29, -0.11, -0.13, -0.4, -0.45, -0.49, -0.07, -0.05, -0.1, 0.02, -0.4), // biome-ignore format: one list
  refMean: values(0.02, 0.43, -0.27, 0.29, -0.09, -0.09, 0.57, 0.02, 0.05, 0.16, 0.23, -0.01, 0.18, -0.28, -0.12, -0.13, -0.39, -0.42, -0.5, -0.08, 0.01, -0.08, -0.01, -0.33), // biome-ignore format: one list
  std: Float32Array.of(0.3, 0.2, 0.3, 0.3, 0.2, 0.3, 0.3, 0.3, 0.2, 0.3, 0.3, 0.2),
}
