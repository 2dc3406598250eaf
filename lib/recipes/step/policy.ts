// The current policy, from log-probabilities, logits, hidden states, or the mean of a Gaussian: its log-probabilities, and
// the way back from a gradient with respect to them.

import { grpoError } from '../../addon/errors.js'
import { hostArray, lengthOf } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray, live, overwrite } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { type Call, map, value } from '../../call/calls.js'
import { linearTokenLogprob, linearTokenLogprobBackward } from '../../linear_token_logprob.js'
import { tokenLogprob, tokenLogprobBackward } from '../../token_logprob.js'
import { float32Of, type List } from './columns.js'
import type { Context } from './context.js'
import { type GaussianKind, type GaussianPolicy, gaussianForward } from './gaussian.js'
import type { Forward, OfTokens, PolicyGradients } from './gradients.js'
import { HostCopies } from './host_copies.js'
import { policyFields, policyKinds } from './names.js'
import { columnAt, type Uploads } from './placing.js'
import { callOf, ran, type Steps } from './steps.js'

type Values = ArrayInput<'f32' | 'bf16' | 'f16'>

/**
 * The current policy of an update: exactly one of logp, logits, hidden, mean. Shapes as in policyLoss and the others. All
 * of it lies on the host, or on one device; small arrays beside one on a device may stay on the host.
 */
export interface Policy extends GaussianPolicy {
  /** f32[T], with the entropy f32[T] if the method asks for it */
  readonly logp?: List | DeviceArray | undefined
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
export function besideLogits({ row, rowTemperature, keptStart, kept }: Policy, uploads?: Uploads) {
  const there = uploads === undefined ? rowTemperature : uploads.place('rowTemperature', rowTemperature)
  return { row, rowTemperature: there, keptStart, kept }
}

export function logitsOptions({ temperature = 1, softcap = null, validVocab = null }: LogitsOptions) {
  return { temperature, softcap, validVocab }
}

export type PolicyKind = (typeof policyKinds)[number]

/** How the policy is given; undefined if it is not. */
export function policyKind(method: string, policy: Policy): PolicyKind | undefined {
  const given = policyKinds.filter((kind) => (policy[kind] ?? undefined) !== undefined)
  if (given.length <= 1) return given[0]
  throw grpoError('option', method, given[1] as string, `is given beside ${given[0]}: the policy is one of ${policyKinds.join(', ')}`) // biome-ignore format: one text
}

/**
 * The device of a policy; undefined: the host.
 *
 * @throws TypeError for an array that has been disposed of, or lies elsewhere than the policy does
 */
export function deviceOfPolicy(method: string, policy: Policy): number | undefined {
  const kind = policyKind(method, policy)
  const first = kind && policy[kind]
  for (const name of policyFields) {
    const x: unknown = policy[name]
    if (!isDeviceArray(x)) continue
    live(method, name, x)
    if (isDeviceArray(first) && x.device === first.device) continue
    const other = isDeviceArray(first) ? `on device ${first.device}` : 'on the host'
    throw grpoError('device', method, name, `lies on device ${x.device}, but ${kind ?? 'the policy'} lies ${other}`)
  }
  return isDeviceArray(first) ? first.device : undefined
}

export interface ForwardOptions {
  readonly ofLogits: LogitsOptions
  readonly chunkRows: number | null
  readonly gaussian: GaussianKind | undefined
  /** Of a policy on a device. */
  readonly uploads: Uploads | undefined
}

const noEntropy = (method: string) =>
  grpoError('missing', method, 'entropy', 'is missing from the batch, expected f32[T]: the entropy of the policy at each token, in nats') // biome-ignore format: one text

/** A gradient that JavaScript has computed, in the caller's memory where `out` names some; null leaves it out. */
function handedOver(
  method: string,
  name: string,
  gradient: ArrayInput,
  out: ArrayInput | null | undefined,
  uploads: Uploads | undefined,
): OfTokens | undefined {
  if (out === null) return undefined
  if (uploads !== undefined) {
    if (out === undefined) return uploads.result(name, gradient)
    const target = uploads.place(name, out) as DeviceArray
    if (out !== target) throw grpoError('device', method, name, `lies on the host, but the policy lies on device ${uploads.device}`) // biome-ignore format: one text
    const source = hostArray(method, name, gradient, false)
    checkGradient(method, name, target, lengthOf(source.data))
    overwrite(method, name, target, source, uploads.stream ?? 0n)
    return target
  }
  const source = hostArray(method, name, gradient, false) as { data: Float32Array } & OfTokens
  if (out === undefined) return source
  if (isDeviceArray(out)) throw grpoError('device', method, name, `lies on device ${out.device}, but the policy lies on the host`) // biome-ignore format: one text
  const target = hostArray(method, name, out, false)
  checkGradient(method, name, target, source.data.length)
  ;(target.data as Float32Array).set(source.data)
  return target as OfTokens
}

function checkGradient(
  method: string,
  name: string,
  { dtype, shape }: { dtype: string; shape: readonly number[] },
  T: number,
): void {
  if (dtype !== 'f32') throw grpoError('dtype', method, name, `has dtype ${dtype}, expected f32`)
  if (shape.length === 1 && shape[0] === T) return
  throw grpoError('shape', method, name, `has shape [${shape.join(', ')}], expected [${T}] (T from sequenceStart)`)
}

/** Log-probabilities as the policy themselves. */
function ofLogp({ method, T }: Context, policy: Policy, uploads: Uploads | undefined): Forward {
  const given = policy.logp
  const onDevice = isDeviceArray(given)
  const logp = onDevice ? given : float32Of(method, 'logp', given, 'log-probabilities under the current policy')
  const length = isDeviceArray(logp) ? (logp.shape.length === 1 ? (logp.shape[0] as number) : -1) : logp.length
  if (isDeviceArray(logp) && logp.dtype !== 'f32') throw grpoError('dtype', method, 'logp', `has dtype ${logp.dtype}, expected f32`) // biome-ignore format: one text
  if (length !== T) {
    const problem = isDeviceArray(logp) ? `has shape [${logp.shape.join(', ')}]` : `has length ${length}`
    throw grpoError('shape', method, 'logp', `${problem}, expected ${T} (T from sequenceStart)`)
  }
  return {
    logp: isDeviceArray(logp) ? logp : { dtype: 'f32', shape: [length], data: logp },
    get entropy(): OfTokens {
      throw noEntropy(method)
    },
    backward: (gradLogp, gradEntropy, out: { gradLogp?: ArrayInput | null; gradEntropy?: ArrayInput | null } = {}) =>
      value(() => {
        const ofLogp = handedOver(method, 'gradLogp', gradLogp, out.gradLogp, uploads)
        const ofEntropy = gradEntropy && handedOver(method, 'gradEntropy', gradEntropy, out.gradEntropy, uploads)
        return { ...(ofLogp && { gradLogp: ofLogp }), ...(ofEntropy && { gradEntropy: ofEntropy }) } as PolicyGradients
      }),
    dispose: () => undefined,
  }
}

/** The ids, which may stay on the host. @throws TypeError if the batch has none */
export const tokenAt = (c: Context, uploads: Uploads | undefined): ArrayInput<'i32'> =>
  uploads === undefined ? c.token : ((columnAt(c, 'token') ?? c.token) as ArrayInput<'i32'>)

type Outputs = Record<'logp' | 'entropy' | 'logsumexp', OfTokens>

/** Log-probabilities from logits, or from hidden states and a head. */
function throughLogits(
  c: Context,
  kind: 'logits' | 'hidden',
  policy: Policy,
  { ofLogits, chunkRows, uploads }: ForwardOptions,
): Call<Forward> {
  const { method } = c
  const place = (name: string, x: ArrayInput | undefined) => (uploads === undefined ? x : uploads.place(name, x))
  const common = {
    token: tokenAt(c, uploads),
    ...besideLogits(policy, uploads),
    mask: uploads === undefined ? c.mask : uploads.keep('mask', columnAt(c, 'mask')),
  }
  const stream = uploads?.stream === undefined ? {} : { stream: uploads.stream }
  const linear = kind === 'hidden'
  if (linear && policy.head === undefined) throw grpoError('missing', method, 'head', 'is missing, but hidden is given')
  const given = linear
    ? { hidden: policy.hidden, head: policy.head, headBias: policy.headBias }
    : { logits: policy.logits }
  const inputs = { ...given, ...common }
  const options = { ...ofLogits, ...(linear && { chunkRows }), ...stream }
  const forward = callOf<Outputs>(linear ? linearTokenLogprob : tokenLogprob, inputs, options)
  return map(forward, (outputs) => {
    const { logp, entropy, logsumexp } = outputs
    return {
      logp,
      entropy,
      backward: (gradLogp, gradEntropy, out = {}) => {
        const gradients = {
          gradLogp: place('gradLogp', gradLogp),
          gradEntropy: place('gradEntropy', gradEntropy),
        }
        const operation = linear ? linearTokenLogprobBackward : tokenLogprobBackward
        return callOf(operation, { ...inputs, logsumexp, entropy, ...gradients }, { ...options, out })
      },
      dispose: (kept) => {
        for (const x of Object.values(outputs)) if (!kept.includes(x) && isDeviceArray(x)) x.dispose()
      },
    } satisfies Forward
  })
}

/** The policy of an update: the pass over it is made once, when somebody asks for its log-probabilities. */
export class CurrentPolicy {
  readonly #start: () => Call<Forward>
  readonly #copies = new HostCopies()
  readonly #kind: PolicyKind
  readonly #uploads: Uploads | undefined
  /** Entropies that were given beside the policy. */
  readonly #entropy: unknown
  #forward: Forward | undefined

  constructor(c: Context, kind: PolicyKind, policy: Policy & { readonly entropy?: unknown }, options: ForwardOptions) {
    const { uploads, gaussian = 'logp' } = options
    this.#kind = kind
    this.#uploads = uploads
    this.#entropy = policy.entropy ?? undefined
    this.#start = () => {
      if (kind === 'logp') return value(() => ofLogp(c, policy, uploads))
      return kind === 'mean' ? gaussianForward(c, policy, gaussian, uploads) : throughLogits(c, kind, policy, options)
    }
  }

  /** The pass over the policy, as a call of a step. */
  *forward(): Steps<Forward> {
    this.#forward ??= yield* ran(this.#start())
    return this.#forward as Forward
  }

  /** A column where the policy lies. */
  placed(name: string, x: ArrayInput | undefined): ArrayInput | undefined {
    return this.#uploads === undefined ? x : this.#uploads.keep(name, x)
  }

  /** Whether entropies were given beside the policy. */
  get hasEntropy(): boolean {
    return this.#entropy !== undefined
  }

  /** Its values on the host, made ahead of the points that look at them. */
  *fetch(names: readonly ('logp' | 'entropy')[]): Steps<void> {
    const hasBoth = this.#kind === 'logits' || this.#kind === 'hidden'
    const made = names.filter((name) => name === 'logp' || (hasBoth && !this.hasEntropy))
    const forward = made.length === 0 ? undefined : yield* this.forward()
    yield* this.#copies.fetch([...made.map((name) => forward?.[name]), ...(names.includes('entropy') ? [this.#entropy] : [])]) // biome-ignore format: one list
  }

  /** The same where nobody has made them: on this thread, at once. */
  onHost(name: 'logp' | 'entropy'): Float32Array {
    if (name === 'entropy' && isDeviceArray(this.#entropy)) return this.#copies.of(this.#entropy) as Float32Array
    this.#forward ??= this.#start().now()
    const x = this.#forward[name]
    return (isDeviceArray(x) ? this.#copies.of(x) : x.data) as Float32Array
  }

  /** Frees what the pass over the policy has made, but for arrays that go to the caller. */
  dispose(...kept: unknown[]): void {
    this.#forward?.dispose(kept)
    this.#forward = undefined
  }
}
