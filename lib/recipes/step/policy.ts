// The current policy, from log-probabilities, logits, hidden states, or the mean of a Gaussian: its log-probabilities, and
// the way back from a gradient with respect to them.

import { grpoError } from '../../addon/errors.js'
import { isDeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { linearTokenLogprob, linearTokenLogprobBackward } from '../../linear_token_logprob.js'
import { tokenLogprob, tokenLogprobBackward } from '../../token_logprob.js'
import { float32Of, type List } from './columns.js'
import type { Context } from './context.js'
import { type GaussianKind, type GaussianPolicy, gaussianForward } from './gaussian.js'
import type { Forward, PolicyGradients } from './gradients.js'
import { policyFields, policyKinds } from './names.js'

type Values = ArrayInput<'f32' | 'bf16' | 'f16'>

/** The current policy of an update: exactly one of logp, logits, hidden, mean. Shapes as in policyLoss and the others. */
export interface Policy extends GaussianPolicy {
  /** f32[T], with the entropy f32[T] if the method asks for it */
  readonly logp?: List | undefined
  /** [R,V], with `token` in the batch */
  readonly logits?: Values
  /** [R,D], with head [V,D] and headBias [V] */
  readonly hidden?: Values
  readonly head?: Values
  readonly headBias?: Values
  /** i32[T]  the row that predicts each token */
  readonly row?: ArrayInput<'i32'>
  /** f32[R]  multiplies the temperature, row by row */
  readonly rowTemperature?: ArrayInput<'f32'>
  /** i32[R+1], i32[M]  the ids that each row was sampled from, as in tokenLogprob */
  readonly keptStart?: ArrayInput<'i32'>
  readonly kept?: ArrayInput<'i32'>
}

/** What all operations on logits take; the options of a step have it. */
export interface LogitsOptions {
  /** Of the logits; 1 by default. */
  readonly temperature?: number
  /** null by default; else a logit z is softcap tanh(z / softcap) before the temperature. */
  readonly softcap?: number | null
  /** null by default; else columns of the vocabulary from there on are padding. */
  readonly validVocab?: number | null
}

/** What all operations on logits take beside them. */
export function besideLogits({ row, rowTemperature, keptStart, kept }: Policy) {
  return { row, rowTemperature, keptStart, kept }
}

export function logitsOptions({ temperature = 1, softcap = null, validVocab = null }: LogitsOptions) {
  return { temperature, softcap, validVocab }
}

export type PolicyKind = (typeof policyKinds)[number]

/** How the policy is given; undefined if it is not. @throws TypeError if it lies on a GPU */
export function policyKind(method: string, policy: Policy): PolicyKind | undefined {
  for (const name of policyFields) {
    const x: unknown = policy[name]
    if (!isDeviceArray(x)) continue
    const ways = 'await read(x) brings it, or pass what prepareStep decided to a loss operation on the GPU'
    throw grpoError('device', method, name, `lies on device ${x.device}, but a step computes on the host: ${ways}`)
  }
  const given = policyKinds.filter((kind) => (policy[kind] ?? undefined) !== undefined)
  if (given.length <= 1) return given[0]
  throw grpoError('option', method, given[1] as string, `is given beside ${given[0]}: the policy is one of ${policyKinds.join(', ')}`) // biome-ignore format: one text
}

export interface ForwardOptions {
  readonly ofLogits: LogitsOptions
  readonly chunkRows: number | null
  readonly gaussian: GaussianKind | undefined
}

/** Log-probabilities of the tokens, with what their backward pass needs. Computed once, when first asked for. */
export function forwardOf(
  c: Context,
  policy: Policy,
  { ofLogits, chunkRows, gaussian = 'logp' }: ForwardOptions,
): (() => Forward) | undefined {
  const { method, mask } = c
  const kind = policyKind(method, policy)
  if (kind === undefined) return undefined
  let done: Forward | undefined
  const start = (): Forward => {
    if (kind === 'logp') {
      const logp = float32Of(method, 'logp', policy.logp, 'log-probabilities under the current policy')
      if (logp.length !== c.T) {
        throw grpoError('shape', method, 'logp', `has length ${logp.length}, expected ${c.T} (T from sequenceStart)`)
      }
      return {
        logp,
        get entropy(): Float32Array {
          throw grpoError('missing', method, 'entropy', 'is missing from the batch, expected f32[T]: the entropy of the policy at each token, in nats') // biome-ignore format: one text
        },
        backward: (gradLogp, gradEntropy) => ({
          gradLogp: { dtype: 'f32', shape: [gradLogp.length], data: gradLogp },
          ...(gradEntropy && { gradEntropy: { dtype: 'f32', shape: [gradEntropy.length], data: gradEntropy } }),
        }),
      }
    }
    if (kind === 'mean') return gaussianForward(method, policy, mask, gaussian)
    const common = { token: c.token, ...besideLogits(policy), mask }
    const gradients = (gradLogp: Float32Array, gradEntropy: Float32Array | undefined) => ({ gradLogp, gradEntropy })
    if (kind === 'logits') {
      const inputs = { logits: policy.logits as Values, ...common }
      const { logp, entropy, logsumexp } = tokenLogprob(inputs, ofLogits)
      return {
        logp: logp.data,
        entropy: entropy.data,
        backward: (gradLogp, gradEntropy, out = {}) =>
          tokenLogprobBackward(
            { ...inputs, logsumexp, entropy, ...gradients(gradLogp, gradEntropy) },
            { ...ofLogits, out },
          ) as PolicyGradients,
      }
    }
    if (policy.head === undefined) throw grpoError('missing', method, 'head', 'is missing, but hidden is given')
    const inputs = { hidden: policy.hidden as Values, head: policy.head, headBias: policy.headBias, ...common }
    const { logp, entropy, logsumexp } = linearTokenLogprob(inputs, { ...ofLogits, chunkRows })
    return {
      logp: logp.data,
      entropy: entropy.data,
      backward: (gradLogp, gradEntropy, out = {}) =>
        linearTokenLogprobBackward(
          { ...inputs, logsumexp, entropy, ...gradients(gradLogp, gradEntropy) },
          { ...ofLogits, chunkRows, out },
        ),
    }
  }
  return () => (done ??= start())
}
