// The loss of the current policy on a prepared batch: a policy objective in one fused operation, or the method's own loss.

import { grpoError } from '../../addon/errors.js'
import { describe, type HostArray } from '../../arrays/array.js'
import type { ArrayInput } from '../../arrays/input.js'
import { checkNames } from '../../call/run.js'
import { linearPolicyLoss } from '../../linear_policy_loss.js'
import type { Objective } from '../../objective.js'
import { policyLoss } from '../../policy_loss.js'
import { policyLossFromLogits } from '../../policy_loss_from_logits.js'
import { float32Of, type List, missingColumn } from './columns.js'
import { type Context, checkLength, extended, masked } from './context.js'
import { gaussianKl } from './gaussian.js'
import type { Forward, GradientsOf, PolicyGradients } from './gradients.js'
import type { StepMetrics } from './metrics.js'
import { checkPolicyNames } from './names.js'
import {
  besideLogits,
  forwardOf,
  type LogitsOptions,
  logitsOptions,
  type Policy,
  type PolicyKind,
  policyKind,
} from './policy.js'
import type { AnyRecipe, OwnLoss, Weights } from './recipe.js'
import { isSeparate, separateLoss, wanted } from './separate_loss.js'

/** Options of a step that belong to the trainer, not to the method. */
export interface StepOptions extends LogitsOptions {
  /** Fields of the objective in place of the method's: a `normalizer` for micro-batches and ranks, say. */
  readonly objective?: Objective
  readonly chunkRows?: number | null
  /** Writes gradients into memory that the caller owns; `gradLogits` may be the logits. */
  readonly out?: Partial<Record<keyof PolicyGradients, ArrayInput | null>>
}

interface LossResult {
  readonly loss: number
  readonly logp: Float32Array | undefined // [T]
  readonly entropy: Float32Array | undefined // [T]
  /** For lossStats; undefined for a loss that is no policy objective. */
  readonly stats: HostArray<'f64'> | undefined
  readonly weights: Weights
}

/** A loss, and its gradient with respect to what the policy was given as. */
export type StepLoss<P = Policy> = LossResult &
  GradientsOf<P> & {
    /** Numbers to log, of the batch and the loss. They are computed from its arrays when they are first looked at. */
    readonly metrics: StepMetrics
  }
/** The same before anybody has asked for its metrics. */
export type FoundLoss = LossResult & PolicyGradients

/** The current policy of an update; with log-probabilities alone, the entropy of a method that asks for it: f32[T]. */
export type LossPolicy = Policy & { readonly entropy?: List | undefined }

/** The context with what depends on the current policy. */
export function withPolicy(c: Context, { entropy }: LossPolicy, forward: () => Forward): Context {
  const given = entropy === undefined ? undefined : float32Of(c.method, 'entropy', entropy, 'the entropy at each token')
  checkLength(c.method, 'entropy', given, c.T)
  return extended(c, {
    get logp() {
      return forward().logp
    },
    get entropy() {
      return given ?? (c.has('entropy') ? c.entropy : forward().entropy)
    },
  } as Partial<Context>)
}

/**
 * A loss that is no policy objective. The options of an objective do not apply to it, but for the normalizer where the
 * loss is a mean over `count` things.
 */
function ownLoss(method: string, { own, weights }: OwnDecided, forward: Forward, options: StepOptions): FoundLoss {
  const { objective = {}, out } = options
  const { normalizer = null, ...others } = objective
  const [other] = Object.keys(others)
  const refuse = (name: string, why: string) => grpoError('option', method, name, `is given, but ${why}`)
  if (other !== undefined) throw refuse(other, 'the method has a loss of its own, which is no policy objective')
  if (normalizer !== null && own.count === undefined) throw refuse('normalizer', 'the loss of the method is no mean over one thing') // biome-ignore format: one text
  const scale = normalizer === null ? 1 : normalizer === 0 ? 0 : (own.count as number) / normalizer
  const scaled = (x: Float32Array) => (scale === 1 ? x : x.map((value) => value * scale))
  const gradients = forward.backward(scaled(own.gradLogp), own.gradEntropy && scaled(own.gradEntropy), out)
  return { loss: scale * own.loss, ...gradients, logp: forward.logp, entropy: undefined, stats: undefined, weights }
}

/** What the three loss operations take beside the policy. */
function lossInputs(c: Context, weights: Weights, mask: Uint8Array | undefined, isRatio: boolean) {
  const { advantage, tokenAdvantage, sequenceStart } = c
  const { weight, ratioLow, ratioHigh } = weights
  const oldLogp = weights.oldLogp ?? (c.has('oldLogp') ? c.oldLogp : undefined)
  return {
    oldLogp: isRatio ? new Float32Array(c.T) : oldLogp,
    refLogp: weights.refLogp ?? (c.has('refLogp') ? c.refLogp : undefined),
    advantage: advantage instanceof Float32Array || advantage === undefined ? advantage : Float32Array.from(advantage),
    tokenAdvantage,
    sequenceStart,
    mask,
    weight,
    ratioLow,
    ratioHigh,
  }
}
type LossInputs = ReturnType<typeof lossInputs>

type Result = { loss: HostArray; stats: HostArray; logp?: HostArray; entropy?: HostArray }
function finished<Of extends Result>(result: Of, weights: Weights): FoundLoss {
  const { loss, stats, logp, entropy, ...gradients } = result as Result
  return {
    loss: loss.data[0] as number,
    ...(gradients as PolicyGradients),
    logp: logp?.data as Float32Array | undefined,
    entropy: entropy?.data as Float32Array | undefined,
    stats: stats as HostArray<'f64'>,
    weights,
  }
}

interface SeparateLossArguments {
  readonly c: Context
  readonly decided: Decided
  /** undefined for log-probabilities, which are the policy themselves. */
  readonly forward: Forward | undefined
  readonly out: NonNullable<StepOptions['out']>
}

/** The loss in terms of their own, by way of log-probabilities: for weights that the operations do not take. */
function lossOfTerms({ c, decided: { inputs, objective, weights }, forward, out }: SeparateLossArguments): FoundLoss {
  const bonus = (objective.entropyCoef ?? 0) !== 0
  const given = { logp: c.logp, entropy: bonus || c.has('entropy') ? c.entropy : undefined, ...inputs }
  if (forward === undefined) {
    const terms = separateLoss(given, objective, weights, out)
    const { loss, stats } = terms
    return { loss, ...wanted(terms, out), logp: c.logp, entropy: undefined, stats, weights }
  }
  const { loss, stats, gradLogp, gradEntropy } = separateLoss(given, objective, weights)
  const gradients = forward.backward(gradLogp.data, gradEntropy?.data, out)
  return { loss, ...gradients, logp: c.logp, entropy: c.entropy, stats, weights }
}

interface GaussianLossArguments {
  readonly c: Context
  readonly policy: Policy
  readonly decided: Decided
  readonly forward: Forward
  readonly out: StepOptions['out']
}

/** Whether a KL to a reference mean is the exact one of two Gaussians, which no operation on log-probabilities has. */
export const hasExactKl = ({ refMean }: Policy, { objective: { klCoef = 0 }, isRatio }: Decided): boolean =>
  klCoef !== 0 && (isRatio || refMean !== undefined)

/** The loss of a Gaussian policy; a KL to a reference mean is the exact one, and is added. */
function gaussianLoss({ c, policy, decided, forward, out }: GaussianLossArguments): FoundLoss {
  const { inputs, objective, weights } = decided
  const exactKl = hasExactKl(policy, decided)
  const options = exactKl ? { ...objective, klCoef: 0 } : objective
  const { gradLogp, ...loss } = finished(policyLoss(inputsOf.mean(c, policy, decided), options), weights)
  const gradients = forward.backward((gradLogp as HostArray<'f32'>).data, undefined, out)
  if (!exactKl) return { ...loss, ...gradients, logp: c.logp }
  const kl = gaussianKl(c.method, policy, inputs, objective)
  const gradMean = gradients.gradMean?.data
  kl.gradMean.forEach((gradient, i) => {
    if (gradMean !== undefined) gradMean[i] = (gradMean[i] as number) + gradient
  })
  return { ...loss, ...gradients, loss: loss.loss + kl.loss, logp: c.logp }
}

const stepOptions = ['temperature', 'softcap', 'validVocab', 'objective', 'chunkRows', 'out']

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

/** A loss of the method's own. */
interface OwnDecided {
  readonly own: OwnLoss
  readonly weights: Weights
}

/** What a method decides about the loss of a policy, where that is an objective of the operations. */
export interface Decided {
  readonly weights: Weights
  /** What the three operations take beside the policy. */
  readonly inputs: LossInputs
  readonly objective: Objective
  /** Whether a log-ratio stands where a log-probability stands elsewhere. */
  readonly isRatio: boolean
}

/** Refuses a method without a loss. */
export function checkLoss({ name, objective }: AnyRecipe): void {
  if (objective !== null) return
  throw grpoError('kind', name, 'loss', 'does not exist: the method changes no parameters, expected prepareStep alone')
}

/**
 * What a method decides about the loss of a policy: the inputs and the objective of an operation, or a loss of its own.
 *
 * @param c  with the current policy
 */
export function decide(recipe: AnyRecipe, c: Context, policy: Policy, options: StepOptions): Decided | OwnDecided {
  const { name: method, gaussian } = recipe
  const weights = recipe.weights?.(c) ?? {}
  for (const [name, x] of Object.entries(weights)) checkLength(method, name, x as Float32Array | undefined, c.T)
  const mask = weights.mask === undefined ? c.mask : masked(c, undefined, weights.mask)
  const chosen = typeof recipe.objective === 'function' ? recipe.objective(extended(c, { mask })) : recipe.objective
  if (chosen && 'gradLogp' in chosen) return { own: chosen, weights }

  const objective = { ...chosen, ...options.objective }
  const isRatio = policyKind(method, policy) === 'mean' && gaussian === 'log_ratio'
  const inputs = lossInputs(c, weights, mask, isRatio)
  const { klCoef = 0 } = objective
  if (klCoef !== 0 && inputs.refLogp === undefined && policy.refMean === undefined && !isRatio) {
    const meaning = `log-probabilities under the reference policy, as klCoef is ${klCoef}; with klCoef 0 there need be none`
    throw missingColumn(method, 'refLogp', 'f32[T]', meaning)
  }
  return { weights, inputs, objective, isRatio }
}

/** The inputs of the operation that a policy of each kind asks for. */
export const inputsOf = {
  logp(c: Context, { entropy }: LossPolicy, { inputs, objective }: Decided) {
    const given = entropy !== undefined || c.has('entropy') || (objective.entropyCoef ?? 0) !== 0
    return { logp: c.logp, entropy: given ? c.entropy : undefined, ...inputs }
  },
  logits(c: Context, policy: LossPolicy, { inputs }: Decided) {
    return { logits: policy.logits!, token: c.token, ...besideLogits(policy), ...inputs }
  },
  hidden(c: Context, policy: LossPolicy, { inputs }: Decided) {
    const { hidden, head, headBias } = policy
    if (head === undefined) throw grpoError('missing', c.method, 'head', 'is missing, but hidden is given')
    return { hidden: hidden!, head, headBias, token: c.token, ...besideLogits(policy), ...inputs }
  },
  mean: (c: Context, _: LossPolicy, { inputs }: Decided) => ({ logp: c.logp, ...inputs }),
}

/** The current policy of an update: the context with it, how it is given, and its forward pass. */
export function openPolicy(recipe: AnyRecipe, prepared: Context, policy: LossPolicy, options: StepOptions) {
  const { name: method, gaussian } = recipe
  if (typeof policy !== 'object' || policy === null) {
    throw grpoError('kind', method, 'policy', `is ${describe(policy)}, expected one of logp, logits, hidden, mean`)
  }
  checkPolicyNames(method, policy)
  checkLoss(recipe)
  const ofLogits = logitsOptions(options)
  const { chunkRows = null } = options
  const forward = forwardOf(prepared, policy, { ofLogits, chunkRows, gaussian })
  if (forward === undefined) throw grpoError('missing', method, 'policy', 'is missing, expected one of logp, logits, hidden, mean') // biome-ignore format: one text
  const kind = policyKind(method, policy) as PolicyKind
  return { c: withPolicy(prepared, policy, forward), kind, forward, ofLogits, chunkRows }
}

/** The loss of the current policy on what the method has prepared, with its gradient. */
export function lossOf(recipe: AnyRecipe, prepared: Context, policy: LossPolicy, options: StepOptions): FoundLoss {
  const { c, kind, forward, ofLogits, chunkRows } = openPolicy(recipe, prepared, policy, options)
  const { out = {} } = options
  const decided = decide(recipe, c, policy, options)
  if ('own' in decided) {
    const done = ownLoss(c.method, decided, forward(), options)
    return kind === 'logits' || kind === 'hidden' ? { ...done, entropy: forward().entropy } : done
  }
  const { weights, objective } = decided
  if (kind !== 'mean' && isSeparate(objective, weights)) {
    const through = kind === 'logp' ? undefined : forward()
    return lossOfTerms({ c, decided, forward: through, out })
  }
  if (kind === 'logits') {
    const given = inputsOf.logits(c, policy, decided)
    return finished(policyLossFromLogits(given, { ...ofLogits, out, ...objective }), weights)
  }
  if (kind === 'hidden') {
    const given = inputsOf.hidden(c, policy, decided)
    return finished(linearPolicyLoss(given, { ...ofLogits, chunkRows, out, ...objective }), weights)
  }
  if (kind === 'mean') return gaussianLoss({ c, policy, decided, forward: forward(), out })
  const given = inputsOf.logp(c, policy, decided)
  return { ...finished(policyLoss(given, { out, ...objective }), weights), logp: c.logp }
}
