// One optimization step: the points of a method in their order, and the loss.
import { grpoError } from '../../addon/errors.js'
import type { ColumnInputs } from './columns.js'
import { type Batch, type Context, checkLength, createContext, extended, groupAdvantages, masked } from './context.js'
import { type BareLossCall, type LossCall, lossCall } from './inputs.js'
import {
  checkStepOptions,
  type LossPolicy,
  lossOf,
  mergeOptions,
  type StepLoss,
  type StepOptions,
  withPolicy,
} from './loss.js'
import { type BatchMetrics, metricsOfBatch, metricsOfLoss, withMetrics } from './metrics.js'
import { policyIn } from './names.js'
import { forwardOf, logitsOptions, type Policy } from './policy.js'
import { type Advantages, type AnyRecipe, checkRecipe, type StateOf } from './recipe.js'
import { openState, type SavedState, saved } from './state.js'

/** What a method decides about a batch before the loss. */
export interface Prepared<State = SavedState | undefined, Sample = unknown> {
  /** [N] shaped by the method; undefined if the batch has none. */
  readonly rewards: Float64Array | undefined
  /** [N], or tokenAdvantage [T]; both undefined for a method without advantages. */
  readonly advantage: ArrayLike<number> | undefined
  readonly tokenAdvantage: Float32Array | undefined
  /** [N] 1 = selected */
  readonly rollouts: Uint8Array
  /** [T] 1 = enters the loss; undefined if the batch has no tokens */
  readonly mask: Uint8Array | undefined
  /** For the next step; undefined for a method without state. */
  readonly state: State
  /** What to sample next, for a method that decides it. */
  readonly sample: Sample
  /** Numbers to log. They are computed from the batch's columns when they are first looked at. */
  readonly metrics: BatchMetrics
  /**
   * The loss of the current policy on this batch; again for every update. What `options` leave out is as in prepareStep.
   * The batch's columns stay as they are until the last update: what oldLogp and rolloutLogp decide is computed once.
   */
  loss<P extends LossPolicy>(policy: P, options?: StepOptions): StepLoss<P>
  /**
   * What `loss` calls a loss operation with, for callers that run it elsewhere (Python, C, another process, a GPU):
   * policyLoss(inputs, objective) has the bits of loss({ logp }), policyLossFromLogits those of loss({ logits }) and
   * linearPolicyLoss those of loss({ hidden, head }). Without a policy the inputs are those of policyLoss but `logp`. The
   * arrays are those of the batch and of the method, not copies.
   *
   * @throws TypeError if no single operation has this loss: the method has none or one of its own, or a term of its own
   *         (a weighted entropy bonus, the KL of Gaussians); and without a policy if the method looks at it
   */
  inputs(policy?: undefined, options?: StepOptions): BareLossCall
  inputs<P extends LossPolicy>(policy: P, options?: StepOptions): LossCall<P>
}

type NextOf<R> = R extends { sample: { next(...parameters: never[]): infer Next } } ? Next : undefined
/** The batch that a method takes: the columns of every method, its own, and the policy. */
export type BatchOf<R extends AnyRecipe> = Batch & Policy & ColumnInputs<R['description']['columns']>
/** What a step of a method returns as its state: undefined if it has none. */
export type SavedStateOf<R extends AnyRecipe> =
  StateOf<R['description']> extends undefined
    ? undefined
    : unknown extends StateOf<R['description']>
      ? SavedState | undefined
      : SavedState<StateOf<R['description']>>

function advantagesOf(recipe: AnyRecipe, c: Context): Advantages | undefined {
  const { advantages = {} } = recipe
  if (advantages === null) return undefined
  const result: Advantages | null = typeof advantages === 'function' ? advantages(c) : groupAdvantages(c, advantages)
  if (result === null) return undefined
  checkLength(c.method, 'advantage', result.advantage, c.N)
  checkLength(c.method, 'tokenAdvantage', result.tokenAdvantage, c.T)
  return result
}

/**
 * What a method decides about a batch: shaped rewards, advantages, what enters the loss, the state after the step, and
 * what to sample next. `prepared.loss(policy)` is then the loss of the current policy with its gradients, as often as the
 * trainer updates on this batch.
 *
 * @param recipe  as recipes.NAME(options) made it
 * @param batch   the columns of Batch that the method asks for, and its own. The policy may be among them, for methods
 *                whose selection looks at its log-probabilities or entropies.
 * @param state   as the step before returned it; none at the beginning
 * @param options for this step and all its updates; an update replaces what it gives itself
 * @throws TypeError for a column that is missing, with its shape and meaning, and for a name that no method knows, with the
 *         nearest one; RangeError for a column of another size, or a batch that the method cannot take; for a state of
 *         another method, version or other options
 */
export function prepareStep<R extends AnyRecipe>(
  recipe: R,
  batch: BatchOf<R>,
  state?: SavedState | undefined,
  options: StepOptions = {},
): Prepared<SavedStateOf<R>, NextOf<R>> {
  const method: AnyRecipe = checkRecipe(recipe, 'prepareStep')
  const { name } = method
  const before = openState(method, state)
  checkStepOptions(name, options)
  const { chunkRows = null } = options
  const { gaussian, description } = method
  let c = createContext(name, description.columns, batch as never, before)
  const forward = forwardOf(c, batch, { ofLogits: logitsOptions(options), chunkRows, gaussian })
  if (forward !== undefined) c = withPolicy(c, batch as Policy, forward)
  const given = c.advantage !== undefined || c.tokenAdvantage !== undefined
  if (c.advantage !== undefined && c.tokenAdvantage !== undefined) {
    throw grpoError('value', name, 'tokenAdvantage', 'is given beside advantage, expected one of the two')
  }
  if (method.rewards !== undefined && !given) {
    const rewards = method.rewards(c)
    checkLength(name, 'rewards', rewards, c.N)
    c = extended(c, { rewards })
  }
  const advantages = given ? undefined : advantagesOf(method, c)
  if (advantages !== undefined) c = extended(c, advantages)
  const selection = method.select?.(c) ?? {}
  checkLength(name, 'rollouts', selection.rollouts, c.N)
  checkLength(name, 'tokens', selection.tokens, c.T)
  const mask = c.has('sequenceStart') ? masked(c, selection.rollouts, selection.tokens) : undefined
  c = extended(c, { mask })
  const after = method.update === undefined ? before : method.update(c)
  const sample = method.sample?.next?.(extended(c, { state: after })) as NextOf<R>
  const rewards = c.has('rewards') || (method.rewards !== undefined && !given) ? c.rewards : undefined
  const rollouts = selection.rollouts ?? new Uint8Array(c.N).fill(1)
  const ofBatch = metricsOfBatch(c, { rewards, rollouts })
  const prepared = {
    rewards,
    advantage: c.advantage,
    tokenAdvantage: c.tokenAdvantage,
    rollouts,
    mask,
    state: saved(method, after) as SavedStateOf<R>,
    sample,
    loss<P extends LossPolicy>(policy: P, more: StepOptions = {}) {
      checkStepOptions(name, more)
      const found = lossOf(method, c, policy, mergeOptions(options, more))
      return withMetrics(found, metricsOfLoss(c, ofBatch, found, policy.entropy)) as StepLoss<P>
    },
    inputs(policy?: LossPolicy, more: StepOptions = {}) {
      checkStepOptions(name, more)
      return lossCall(method, c, policy, mergeOptions(options, more)) as never
    },
  }
  return withMetrics(prepared, ofBatch)
}

/**
 * One optimization step of a method: prepareStep, and the loss of the current policy on it.
 *
 * @param batch  the columns that the method asks for and the policy: logp, logits (with token), hidden and head, or the
 *               mean of a Gaussian with x and std
 * @returns everything that prepareStep decides, the loss, its gradient with respect to whatever the policy was given as
 *          (gradLogp, gradLogits, gradHidden and gradHead, or gradMean), and statistics for lossStats
 * @throws as prepareStep, and as policyLoss
 */
export function optimizationStep<R extends AnyRecipe, B extends BatchOf<R>>(
  recipe: R,
  batch: B,
  state?: SavedState | undefined,
  options: StepOptions = {},
): Omit<Prepared<SavedStateOf<R>, NextOf<R>>, 'loss' | 'inputs' | 'metrics'> & StepLoss<B> {
  const prepared = prepareStep(recipe, batch, state, options)
  const done = prepared.loss(policyIn(batch) as LossPolicy) as StepLoss<B>
  // Not a spread, which would compute the metrics.
  const { loss, inputs, ...decided } = Object.getOwnPropertyDescriptors(prepared)
  return Object.defineProperties({} as never, { ...decided, ...Object.getOwnPropertyDescriptors(done) })
}
