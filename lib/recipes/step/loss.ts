// The loss of the current policy on a prepared batch: a policy objective in one fused operation, or the method's own loss.

import { grpoError } from '../../addon/errors.js'
import { describe, type HostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { checkNames } from '../../call/run.js'
import { linearPolicyLoss } from '../../linear_policy_loss.js'
import { logRatio } from '../../log_ratio.js'
import type { Objective } from '../../objective.js'
import { policyLoss } from '../../policy_loss.js'
import { policyLossFromLogits } from '../../policy_loss_from_logits.js'
import { float32Of, type List, missingColumn } from './columns.js'
import { type Context, checkLength, extended, masked, type TokenColumn } from './context.js'
import { klToReference } from './gaussian.js'
import type { GradientsOf, IsOnDevice, OfTokens, PolicyGradients } from './gradients.js'
import { HostCopies } from './host_copies.js'
import type { StepMetrics } from './metrics.js'
import { checkPolicyNames } from './names.js'
import { columnAt, fetchColumns, Uploads } from './placing.js'
import {
  besideLogits,
  CurrentPolicy,
  deviceOfPolicy,
  type LogitsOptions,
  logitsOptions,
  type Policy,
  type PolicyKind,
  policyKind,
  tokenAt,
} from './policy.js'
import type { AnyRecipe, OwnLoss, Weights } from './recipe.js'
import { isSeparate, separateLoss } from './separate_loss.js'
import { callOf, ran, type Steps } from './steps.js'

/** Options of a step that belong to the trainer, not to the method. */
export interface StepOptions extends LogitsOptions {
  /** Fields of the objective in place of the method's: a `normalizer` for micro-batches and ranks, say. */
  readonly objective?: Objective
  readonly chunkRows?: number | null
  /** Writes gradients into memory that the caller owns; `gradLogits` may be the logits. */
  readonly out?: Partial<Record<keyof PolicyGradients, ArrayInput | null>>
  /** The cudaStream_t of a policy on a device, as in every operation. */
  readonly stream?: bigint
}

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

/** The current policy of an update; with log-probabilities alone, the entropy of a method that asks for it: f32[T]. */
export type LossPolicy = Policy & { readonly entropy?: List | DeviceArray | undefined }

/** What a step has decided about a batch, and the copies of it on devices. */
export interface PreparedBatch {
  readonly c: Context
  uploadsOn(device: number, stream: bigint | undefined): Uploads
}

/** The context with what depends on the current policy. */
export function withPolicy(c: Context, { entropy }: LossPolicy, current: CurrentPolicy): Context {
  const isGiven = (entropy ?? undefined) !== undefined
  const given = isGiven && !isDeviceArray(entropy) ? float32Of(c.method, 'entropy', entropy, 'the entropy at each token') : undefined // biome-ignore format: one rule
  checkLength(c.method, 'entropy', given, c.T)
  return extended(c, {
    at: ((name: TokenColumn | 'mask') => current.placed(name, columnAt(c, name) ?? c[name])) as Context['at'],
    get logp() {
      return current.onHost('logp')
    },
    get entropy() {
      if (given !== undefined) return given
      return isGiven || !c.has('entropy') ? current.onHost('entropy') : c.entropy
    },
  } as Partial<Context>)
}

/** Makes ahead what is named of the current policy, and the columns. */
export function* fetchReads(c: Context, current: CurrentPolicy | undefined, reads: readonly string[]): Steps<void> {
  yield* fetchColumns(c, reads)
  if (current === undefined) return
  const isOfPolicy = (name: string): name is 'logp' | 'entropy' =>
    name === 'logp' || (name === 'entropy' && (current.hasEntropy || !c.has('entropy')))
  yield* current.fetch(reads.filter(isOfPolicy))
}

/** An update: what its steps have in common. */
interface Update {
  readonly c: Context
  readonly kind: PolicyKind
  readonly policy: LossPolicy
  readonly current: CurrentPolicy
  /** Of a policy on a device. */
  readonly uploads: Uploads | undefined
  readonly options: StepOptions
}

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

/** What the three loss operations take beside the policy, where it lies. */
function lossInputs(c: Context, weights: Weights, mask: ArrayInput | undefined, uploads: Uploads | undefined) {
  const { advantage } = c
  const column = (name: 'oldLogp' | 'refLogp' | 'tokenAdvantage') => {
    if (uploads === undefined) return c.has(name) || name === 'tokenAdvantage' ? c[name] : undefined
    return uploads.keep(name, columnAt(c, name))
  }
  const own = (name: keyof Weights) => (uploads === undefined ? weights[name] : uploads.place(name, weights[name]))
  const rounded = () =>
    advantage instanceof Float32Array || advantage === undefined ? advantage : Float32Array.from(advantage)
  return {
    oldLogp: own('oldLogp') ?? column('oldLogp'),
    refLogp: own('refLogp') ?? column('refLogp'),
    advantage: uploads === undefined || advantage === undefined ? rounded() : uploads.keepOf('advantage', advantage, rounded), // biome-ignore format: one rule
    tokenAdvantage: column('tokenAdvantage'),
    sequenceStart: c.sequenceStart,
    mask,
    weight: own('weight'),
    ratioLow: own('ratioLow'),
    ratioHigh: own('ratioHigh'),
  }
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

/** The columns that a loss operation reads, which go to the host for a policy that lies there. */
const lossColumns = ['mask', 'oldLogp', 'refLogp', 'tokenAdvantage']

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

const stepOptions = ['temperature', 'softcap', 'validVocab', 'objective', 'chunkRows', 'out', 'stream']

/** What is not undefined. */
export const defined = <Bag extends object>(bag: Bag): Bag =>
  Object.fromEntries(Object.entries(bag).filter(([, value]) => value !== undefined)) as Bag

/** The options of an update: what it leaves out, or undefined, is as it was for the step. */
export function mergeOptions(step: StepOptions, { objective, ...own }: StepOptions): StepOptions {
  return { ...step, ...defined(own), objective: { ...step.objective, ...defined(objective ?? {}) } }
}

export function checkStepOptions(method: string, options: unknown): void {
  checkNames(method, options, stepOptions, 'option of a step')
}

/** The entropies beside log-probabilities, where these lie; undefined: nobody asks for them. */
function entropyBeside({ c, policy, uploads }: Update, objective: Objective): ArrayInput | undefined {
  const isGiven = (policy.entropy ?? undefined) !== undefined
  if (!isGiven && !c.has('entropy') && (objective.entropyCoef ?? 0) === 0) return undefined
  if (uploads === undefined) return c.entropy
  if (isGiven) return uploads.place('entropy', isDeviceArray(policy.entropy) ? policy.entropy : c.entropy)
  return uploads.keep('entropy', columnAt(c, 'entropy') ?? c.entropy)
}

/** A loss of the method's own. */
interface OwnDecided {
  readonly own: OwnLoss
  readonly weights: Weights
}

/** What a method decides about the loss of a policy, where that is an objective of the operations. */
export interface Decided {
  readonly weights: Weights
  /** The mask that weights have narrowed. */
  readonly narrowed: Uint8Array | undefined
  readonly objective: Objective
  /** Whether a log-ratio stands where a log-probability stands elsewhere. */
  readonly isRatio: boolean
}

/** Refuses a method without a loss. */
export function checkLoss({ name, objective }: AnyRecipe): void {
  if (objective !== null) return
  throw grpoError('kind', name, 'loss', 'does not exist: the method changes no parameters, expected prepareStep alone')
}

/** What a method decides about the loss of a policy, c knowing the policy: an objective, or a loss of its own. */
export function decide(
  recipe: AnyRecipe,
  c: Context,
  policy: Policy,
  options: StepOptions,
  uploads: Uploads | undefined,
): Decided | OwnDecided {
  const { name: method, gaussian } = recipe
  const weights = recipe.weights?.(c) ?? {}
  if (isDeviceArray(weights.weight)) uploads?.own(weights.weight)
  for (const [name, x] of Object.entries(weights)) {
    if (!isDeviceArray(x)) checkLength(method, name, x as Float32Array | undefined, c.T)
  }
  const narrowed = weights.mask === undefined ? undefined : masked(c, undefined, weights.mask)
  const seen = narrowed === undefined ? c : extended(c, { mask: narrowed })
  const chosen = typeof recipe.objective === 'function' ? recipe.objective(seen) : recipe.objective
  if (chosen && 'gradLogp' in chosen) return { own: chosen, weights }

  const objective = { ...chosen, ...options.objective }
  const isRatio = policyKind(method, policy) === 'mean' && gaussian === 'log_ratio'
  const { klCoef = 0 } = objective
  const hasReference = weights.refLogp !== undefined || c.has('refLogp') || (policy.refMean ?? undefined) !== undefined
  if (klCoef !== 0 && !hasReference && !isRatio) {
    const meaning = `log-probabilities under the reference policy, as klCoef is ${klCoef}; with klCoef 0 there need be none`
    throw missingColumn(method, 'refLogp', 'f32[T]', meaning)
  }
  return { weights, narrowed, objective, isRatio }
}

/** What the three operations take beside the policy, where it lies. */
export function besidePolicy(c: Context, { weights, narrowed, isRatio }: Decided, uploads: Uploads | undefined) {
  const ofBatch = uploads === undefined ? c.mask : uploads.keep('mask', columnAt(c, 'mask'))
  const mask = narrowed === undefined || uploads === undefined ? (narrowed ?? ofBatch) : uploads.place('mask', narrowed)
  const inputs = lossInputs(c, weights, mask, uploads)
  if (!isRatio) return inputs
  const zeros = new Float32Array(c.T)
  return { ...inputs, oldLogp: uploads === undefined ? zeros : uploads.place('oldLogp', zeros) }
}

/** Whether a KL to a reference mean is the exact one of two Gaussians, which no operation on log-probabilities has. */
export const hasExactKl = ({ refMean }: Policy, { objective: { klCoef = 0 }, isRatio }: Decided): boolean =>
  klCoef !== 0 && (isRatio || (refMean ?? undefined) !== undefined)

/** The inputs of the operation that a policy of each kind asks for; `current` has made its pass where log-probabilities go in. */
export function operationInputs(update: Update, decided: Decided, logp: OfTokens | undefined) {
  const { c, kind, policy, uploads } = update
  const inputs = besidePolicy(c, decided, uploads)
  if (kind === 'logp') return { logp, entropy: entropyBeside(update, decided.objective), ...inputs }
  if (kind === 'mean') return { logp, ...inputs }
  const token = { token: tokenAt(c, uploads), ...besideLogits(policy, uploads) }
  const { logits, hidden, head, headBias } = policy
  return kind === 'logits' ? { logits, ...token, ...inputs } : { hidden, head, headBias, ...token, ...inputs }
}

/** The current policy of an update. */
export function openPolicy(
  recipe: AnyRecipe,
  prepared: Context,
  policy: LossPolicy,
  options: StepOptions,
  uploadsOn: (device: number) => Uploads,
): Update {
  const { name: method, gaussian } = recipe
  if (typeof policy !== 'object' || policy === null) {
    throw grpoError('kind', method, 'policy', `is ${describe(policy)}, expected one of logp, logits, hidden, mean`)
  }
  checkPolicyNames(method, policy)
  checkLoss(recipe)
  const kind = policyKind(method, policy)
  if (kind === undefined) throw grpoError('missing', method, 'policy', 'is missing, expected one of logp, logits, hidden, mean') // biome-ignore format: one text
  const lacksHead = kind === 'hidden' && (policy.head ?? undefined) === undefined
  if (lacksHead) throw grpoError('missing', method, 'head', 'is missing, but hidden is given')
  const device = deviceOfPolicy(method, policy)
  const uploads = device === undefined ? undefined : uploadsOn(device)
  const { chunkRows = null } = options
  const given = { ofLogits: logitsOptions(options), chunkRows, gaussian, uploads }
  const current = new CurrentPolicy(prepared, kind, policy, given)
  return { c: withPolicy(prepared, policy, current), kind, policy, current, uploads, options }
}

/** Fetches what points and kernels read on the host. */
export function* fetchForUpdate({ c, kind, current, uploads }: Update, recipe: AnyRecipe): Steps<void> {
  // A kernel of the host reads columns that lie on a device there.
  if (uploads === undefined) yield* fetchColumns(c, [...lossColumns, ...(kind === 'logp' ? ['entropy'] : ['token'])])
  yield* fetchReads(c, current, recipe.reads?.update ?? [])
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
