// What a method decides about the loss of a policy: the inputs and the objective of an operation, or a loss of its own.

import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { checkNames } from '../../call/run.js'
import type { Objective } from '../../objective.js'
import { float32Of, type List, missingColumn } from './columns.js'
import { type Context, checkLength, extended, masked, type TokenColumn } from './context.js'
import type { OfTokens, PolicyGradients } from './gradients.js'
import { checkPolicyNames } from './names.js'
import { columnAt, fetchColumns, type Uploads } from './placing.js'
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
import type { Steps } from './steps.js'
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
export interface Update {
  readonly c: Context
  readonly kind: PolicyKind
  readonly policy: LossPolicy
  readonly current: CurrentPolicy
  /** Of a policy on a device. */
  readonly uploads: Uploads | undefined
  readonly options: StepOptions
}

/** The columns that a loss operation reads, which go to the host for a policy that lies there. */
export const lossColumns = ['mask', 'oldLogp', 'refLogp', 'tokenAdvantage']

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

/** The entropies beside log-probabilities, where these lie; undefined: nobody asks for them. */
function entropyBeside({ c, policy, uploads }: Update, objective: Objective): ArrayInput | undefined {
  const isGiven = (policy.entropy ?? undefined) !== undefined
  if (!isGiven && !c.has('entropy') && (objective.entropyCoef ?? 0) === 0) return undefined
  if (uploads === undefined) return c.entropy
  if (isGiven) return uploads.place('entropy', isDeviceArray(policy.entropy) ? policy.entropy : c.entropy)
  return uploads.keep('entropy', columnAt(c, 'entropy') ?? c.entropy)
}

/** A loss of the method's own. */
export interface OwnDecided {
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
