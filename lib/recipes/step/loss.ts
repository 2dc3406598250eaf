// The loss of the current policy on a prepared batch: a policy objective in one fused operation, or the method's own loss.

import { grpoError } from '../../addon/errors.js'
import type { HostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import { linearPolicyLoss } from '../../linear_policy_loss.js'
import { logRatio } from '../../log_ratio.js'
import { policyLoss } from '../../policy_loss.js'
import { policyLossFromLogits } from '../../policy_loss_from_logits.js'
import { klToReference } from './gaussian.js'
import type { GradientsOf, IsOnDevice, OfTokens, PolicyGradients } from './gradients.js'
import { HostCopies } from './host_copies.js'
import type { StepMetrics } from './metrics.js'
import { Uploads } from './placing.js'
import { logitsOptions, type Policy } from './policy.js'
import type { AnyRecipe, Weights } from './recipe.js'
import { isSeparate, separateLoss } from './separate_loss.js'
import { callOf, ran, type Steps } from './steps.js'
import {
  besidePolicy,
  type Decided,
  decide,
  fetchForUpdate,
  fetchReads,
  hasExactKl,
  type LossPolicy,
  lossColumns,
  type OwnDecided,
  openPolicy,
  operationInputs,
  type PreparedBatch,
  type StepOptions,
  type Update,
} from './update.js'

/** Arrays of a policy on the host, which lie there. */
type OnHost<Bag> = { readonly [Name in keyof Bag]: Exclude<Bag[Name], DeviceArray> }

interface LossResult {
  readonly loss: number
  readonly logp: Float32Array | undefined // [T]
  readonly entropy: Float32Array | undefined // [T]
  /** For lossStats; undefined for a loss that is no policy objective. */
  readonly stats: HostArray<'f64'> | undefined
  readonly weights: OnHost<Weights>
}

/** The same of a policy on a device: everything lies there, and is the caller's to dispose of. */
interface LossResultOnDevice {
  readonly loss: DeviceArray<'f32'> // [1]
  readonly logp: DeviceArray<'f32'> | undefined // [T]
  readonly entropy: DeviceArray<'f32'> | undefined // [T]
  readonly stats: DeviceArray<'f64'> | undefined
  readonly weights: Weights
}

/** A loss, and its gradient with respect to what the policy was given as, on the side where the policy lies. */
export type StepLoss<P = Policy> = ([P] extends [never]
  ? LossResult
  : IsOnDevice<P> extends true
    ? LossResultOnDevice
    : LossResult) &
  GradientsOf<P> & {
    /**
     * Numbers to log, of the batch and the loss. They are computed from its arrays when they are first looked at: on a
     * device that waits, and they are to be looked at before loss and stats are disposed of.
     */
    readonly metrics: StepMetrics
  }
/** The same before anybody has asked for its metrics; of a policy on a device, all of it device arrays. */
export type FoundLoss = LossResult & PolicyGradients

/** A result, where the policy lies. */
const placed = (uploads: Uploads | undefined, name: string, x: HostArray) =>
  uploads === undefined ? x : uploads.result(name, x)

const lossOn = (uploads: Uploads | undefined, loss: number) =>
  uploads === undefined ? loss : uploads.result('loss', Float32Array.of(loss))

const streamOf = (uploads: Uploads | undefined) =>
  uploads?.stream === undefined ? {} : ({ stream: uploads.stream } as const)

/** [T] of a result: on the host plain numbers. */
const tokensOf = (x: OfTokens | undefined) => (x === undefined || isDeviceArray(x) ? x : x.data)

/**
 * A loss that is no policy objective. The options of an objective do not apply to it, but for the normalizer where the
 * loss is a mean over `count` things.
 */
function* ownLoss(
  { c: { method }, kind, current, uploads, options }: Update,
  { own, weights }: OwnDecided,
): Steps<FoundLoss> {
  const { objective = {}, out } = options
  const { normalizer = null, ...others } = objective
  const [other] = Object.keys(others)
  const refuse = (name: string, why: string) => grpoError('option', method, name, `is given, but ${why}`)
  if (other !== undefined) throw refuse(other, 'the method has a loss of its own, which is no policy objective')
  if (normalizer !== null && own.count === undefined) throw refuse('normalizer', 'the loss of the method is no mean over one thing') // biome-ignore format: one text
  const scale = normalizer === null ? 1 : normalizer === 0 ? 0 : (own.count as number) / normalizer
  const scaled = (x: Float32Array) => (scale === 1 ? x : x.map((value) => value * scale))
  const forward = yield* current.forward()
  const loss = lossOn(uploads, scale * own.loss)
  const gradients = yield* ran(forward.backward(scaled(own.gradLogp), own.gradEntropy && scaled(own.gradEntropy), out))
  const logp = tokensOf(forward.logp)
  const entropy = kind === 'logits' || kind === 'hidden' ? tokensOf(forward.entropy) : undefined
  return { loss, ...gradients, logp, entropy, stats: undefined, weights } as FoundLoss
}

type Result = { loss: OfTokens; stats: HostArray<'f64'> | DeviceArray; logp?: OfTokens; entropy?: OfTokens }
/** What a result shows of them: what the step has made on a device is freed. */
const shown = (weights: Weights): Weights =>
  isDeviceArray(weights.weight) ? { ...weights, weight: undefined } : weights

function finished(result: Result, weights: Weights): FoundLoss {
  const { loss, stats, logp, entropy, ...gradients } = result
  return {
    loss: isDeviceArray(loss) ? loss : (loss.data[0] as number),
    ...(gradients as PolicyGradients),
    logp: tokensOf(logp),
    entropy: tokensOf(entropy),
    stats,
    weights: shown(weights),
  } as FoundLoss
}

/** The weights with that on a device read from there. */
function* readWeight({ weight, ...others }: Weights): Steps<Weights> {
  if (!isDeviceArray(weight)) return { ...others, weight }
  const copies = new HostCopies()
  yield* copies.fetch([weight])
  return { ...others, weight: copies.of(weight) as Float32Array }
}

/** The loss in terms of their own, by way of log-probabilities on the host: for weights that the operations do not take. */
function* lossOfTerms(update: Update, decided: Decided): Steps<FoundLoss> {
  const { c, kind, current, uploads, options } = update
  const { objective, weights } = decided
  const needsEntropy = (objective.entropyCoef ?? 0) !== 0 || c.has('entropy') || current.hasEntropy
  yield* fetchReads(c, current, [...lossColumns, 'logp', ...(needsEntropy ? ['entropy'] : [])])
  const onHost = { ...decided, weights: yield* readWeight(weights) }
  const inputs = { logp: c.logp, entropy: needsEntropy ? c.entropy : undefined, ...besidePolicy(c, onHost, undefined) }
  const terms = separateLoss(inputs as never, objective, weights)
  const forward = yield* current.forward()
  const results = { loss: lossOn(uploads, terms.loss), stats: placed(uploads, 'stats', terms.stats) }
  const gradients = yield* ran(forward.backward(terms.gradLogp, terms.gradEntropy, options.out))
  const entropy = kind === 'logits' || kind === 'hidden' ? tokensOf(forward.entropy) : undefined
  return { ...results, ...gradients, logp: tokensOf(forward.logp), entropy, weights: shown(weights) } as FoundLoss
}

/** The loss of a Gaussian policy; a KL to a reference mean is the exact one, and is added. */
function* gaussianLoss(update: Update, decided: Decided): Steps<FoundLoss> {
  const {
    c,
    policy,
    current,
    uploads,
    options: { out = {} },
  } = update
  const { objective, weights } = decided
  const exactKl = hasExactKl(policy, decided)
  const options = { ...(exactKl ? { ...objective, klCoef: 0 } : objective), ...streamOf(uploads) }
  const forward = yield* current.forward()
  const inputs = { ...besidePolicy(c, decided, uploads), logp: forward.logp }
  const kl = exactKl ? yield* klToReference(c.method, policy, inputs, objective, uploads) : undefined
  const { gradLogp, ...result } = yield* ran(callOf<Result & { gradLogp: OfTokens }>(policyLoss, inputs, options))
  uploads?.results(result)
  uploads?.own(gradLogp)
  const gradients = yield* ran(forward.backward(gradLogp, undefined, out))
  const done = { ...finished(result, weights), ...gradients, logp: tokensOf(forward.logp) } as FoundLoss
  if (kl === undefined) return done
  const { gradMean } = gradients
  if (gradMean !== undefined && (out.gradMean ?? undefined) === undefined) uploads?.results({ gradMean })
  if (gradMean !== undefined) yield* ran(kl.addGradient(gradMean))
  if (!isDeviceArray(kl.loss)) return { ...done, loss: done.loss - (kl.loss.data[0] as number) }
  const both = { x: result.loss, y: kl.loss }
  const { logRatio: loss } = yield* ran(callOf<{ logRatio: OfTokens }>(logRatio, both, streamOf(uploads)))
  uploads?.own(result.loss)
  return { ...done, loss } as unknown as FoundLoss
}

/** The loss of the current policy on what the method has prepared, with its gradient. */
export function* lossOf(
  recipe: AnyRecipe,
  batch: PreparedBatch,
  policy: LossPolicy,
  options: StepOptions,
): Steps<FoundLoss> {
  const { stream } = options
  const uploadsOn = (device: number) => new Uploads(recipe.name, device, stream, batch.uploadsOn(device, stream))
  const update = openPolicy(recipe, batch.c, policy, options, uploadsOn)
  let done: FoundLoss | undefined
  try {
    done = yield* lossOfUpdate(recipe, update)
    return done
  } finally {
    update.current.dispose(done?.logp, done?.entropy)
    update.uploads?.dispose(done !== undefined)
  }
}

function* lossOfUpdate(recipe: AnyRecipe, update: Update): Steps<FoundLoss> {
  const { c, kind, policy, current, uploads, options } = update
  const { chunkRows = null, out = {} } = options
  yield* fetchForUpdate(update, recipe)
  const decided = decide(recipe, c, policy, options, uploads)
  if ('own' in decided) return yield* ownLoss(update, decided)
  const { weights, objective } = decided
  if (kind !== 'mean' && isSeparate(objective, weights)) return yield* lossOfTerms(update, decided)
  if (kind === 'mean') return yield* gaussianLoss(update, decided)
  const logp = kind === 'logp' ? (yield* current.forward()).logp : undefined
  const inputs = operationInputs(update, decided, logp)
  const common = { out, ...streamOf(uploads), ...objective }
  const ofLogits = logitsOptions(options)
  if (kind === 'logp') {
    return { ...finished(yield* ran(callOf<Result>(policyLoss, inputs, common)), weights), logp: tokensOf(logp) } as FoundLoss // biome-ignore format: one result
  }
  const call =
    kind === 'logits'
      ? callOf<Result>(policyLossFromLogits, inputs, { ...ofLogits, ...common })
      : callOf<Result>(linearPolicyLoss, inputs, { ...ofLogits, chunkRows, ...common })
  return finished(yield* ran(call), weights)
}
