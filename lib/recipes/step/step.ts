// One optimization step: the points of a method in their order, and the loss.
import { grpoError } from '../../addon/errors.js'
import type { ColumnInputs } from './columns.js'
import {
  type Batch,
  type Context,
  checkLength,
  createContext,
  extended,
  groupAdvantages,
  masked,
  withoutPolicy,
} from './context.js'
import { type BareLossCall, type LossCall, lossCall } from './inputs.js'
import { lossOf, type StepLoss } from './loss.js'
import { type BatchMetrics, metricsOfBatch, metricsOfLoss, withMetrics } from './metrics.js'
import {
  type MicroBatch,
  type MicroBatchGradients,
  type MicroBatchOptions,
  microBatches,
  Passes,
} from './micro_batches.js'
import { policyIn } from './names.js'
import { Uploads } from './placing.js'
import { CurrentPolicy, deviceOfPolicy, logitsOptions, type Policy, policyKind } from './policy.js'
import { without, withProperties } from './properties.js'
import { type Advantages, type AnyRecipe, checkRecipe, type StateOf } from './recipe.js'
import { openState, type SavedState, saved } from './state.js'
import { now, type Steps } from './steps.js'
import { checkStepOptions, fetchReads, type LossPolicy, mergeOptions, type StepOptions, withPolicy } from './update.js'

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
  /** Numbers to log. They are computed from the batch's columns when they are first looked at; on a device that waits. */
  readonly metrics: BatchMetrics
  /**
   * What the method's points look at on the host, of the columns of tokens and of the policy (logp, entropy): a property
   * of the method and its options. Those that lie on a device are copied from there.
   */
  readonly reads: readonly string[]
  /**
   * The loss of the current policy on this batch; again for every update. What `options` leave out is as in prepareStep.
   * The batch's columns stay as they are until the last update: what oldLogp and rolloutLogp decide is computed once.
   */
  loss<P extends LossPolicy>(policy: P, options?: StepOptions): StepLoss<P>
  /**
   * What `loss` calls a loss operation with, for callers that run it elsewhere (Python, C, another process):
   * policyLoss(inputs, objective) has the bits of loss({ logp }), policyLossFromLogits those of loss({ logits }) and
   * linearPolicyLoss those of loss({ hidden, head }). Without a policy the inputs are those of policyLoss but `logp`. The
   * arrays are those of the batch and of the method, not copies; for a policy on a device they lie there, until `dispose`.
   *
   * @throws TypeError if no single operation has this loss: the method has none or one of its own, or a term of its own
   *         (a weighted entropy bonus, the KL of Gaussians); and without a policy if the method looks at it
   */
  inputs(policy?: undefined, options?: StepOptions): BareLossCall
  inputs<P extends LossPolicy>(policy: P, options?: StepOptions): LossCall<P>
  /**
   * The loss of a batch that goes through the model in parts: `forward(part)` gives the policy of a part, logits or hidden
   * states and head, with `row` counted within the part. It is called twice for each, first for the log-probabilities of
   * all tokens, then for the gradients, which come part by part: gradLogits, or gradHidden with gradHead and gradHeadBias
   * as the sums so far. Between the two the loss of the whole is computed once, so that ratios, denominators, weights and
   * selections are those of the batch, for every method on tokens; it is what the iterator returns at its end, after the
   * last part. Gradients of logits and hidden states have the same bits however the batch is divided.
   *
   * @param parts    the tokens of the batch in their order, each in one part; `rows` is for `forward` alone
   * @param options  as those of loss; `out` may be a function of a part, as `(part, { logits }) => ({ gradLogits: logits })`
   * @throws RangeError for parts that leave tokens out or name them twice; and as loss
   */
  microBatches<P extends Policy>(
    parts: readonly MicroBatch[],
    forward: (part: MicroBatch) => P,
    options?: MicroBatchOptions<P>,
  ): Generator<MicroBatchGradients<P>, StepLoss, void>
  /** Frees what was copied to a device for the updates; there is no loss after it. A second call does nothing. */
  dispose(): void
  [Symbol.dispose](): void
}

export type NextOf<R> = R extends { sample: { next(...parameters: never[]): infer Next } } ? Next : undefined
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

/** What prepareStep returns, before it is known how the losses run. */
export interface Decided extends Omit<Prepared, 'loss' | 'microBatches'> {
  /** The steps of an update. @throws TypeError after dispose */
  lossSteps(policy: LossPolicy, options: StepOptions): Steps<StepLoss>
  /** The passes over micro-batches. */
  passes(parts: readonly MicroBatch[], options: MicroBatchOptions<never>): Passes
}

/** The copies of a batch on devices: on one, where all policies lie on the same. */
class Copies {
  readonly #uploads = new Map<string, Uploads>()
  #disposed = false
  constructor(private readonly method: string) {}

  on(device: number, stream: bigint | undefined): Uploads {
    const key = `${device} ${stream}`
    const uploads = this.#uploads.get(key) ?? new Uploads(this.method, device, stream)
    this.#uploads.set(key, uploads)
    return uploads
  }

  check(): void {
    if (this.#disposed) throw grpoError('device', this.method, 'prepared', 'has been disposed of, expected one that has not: prepareStep makes another') // biome-ignore format: one text
  }

  dispose(): void {
    this.#disposed = true
    for (const uploads of this.#uploads.values()) uploads.dispose()
  }
}

/** The steps of prepareStep. */
export function* prepareSteps(
  method: AnyRecipe,
  batch: Batch & Policy,
  state: SavedState | undefined,
  options: StepOptions,
): Steps<Decided> {
  const { name } = method
  const before = openState(method, state)
  checkStepOptions(name, options)
  const { gaussian, description, reads = {} } = method
  const copies = new Copies(name)
  const uploadsOn = (device: number, stream: bigint | undefined) => copies.on(device, stream)
  let c = createContext(name, description.columns, batch as never, before)
  const current = policyOf(c, batch, options, gaussian, uploadsOn)
  try {
    if (current !== undefined) c = withPolicy(c, batch as LossPolicy, current)
    yield* fetchReads(c, current, reads.step ?? [])
    const given = c.advantage !== undefined || c.has('tokenAdvantage')
    if (c.advantage !== undefined && c.has('tokenAdvantage')) {
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
    const hasTokens = c.has('sequenceStart')
    const selects = selection.rollouts !== undefined || selection.tokens !== undefined
    // Where nothing is left out the mask stays what and where it is.
    if (selects && hasTokens) c = extended(c, { mask: masked(c, selection.rollouts, selection.tokens) })
    const after = method.update === undefined ? before : method.update(c)
    const sample = method.sample?.next?.(extended(c, { state: after }))
    const seen = withoutPolicy(c)
    const rewards = c.has('rewards') || (method.rewards !== undefined && !given) ? c.rewards : undefined
    const rollouts = selection.rollouts ?? new Uint8Array(c.N).fill(1)
    const ofBatch = metricsOfBatch(seen, { rewards, rollouts })
    const lossSteps = function* (policy: LossPolicy, more: StepOptions): Steps<StepLoss> {
      checkStepOptions(name, more)
      copies.check()
      const found = yield* lossOf(method, { c: seen, uploadsOn }, policy, mergeOptions(options, more))
      return withMetrics(found, metricsOfLoss(seen, ofBatch, found, policy.entropy)) as StepLoss
    }
    return {
      rewards,
      advantage: c.advantage,
      get tokenAdvantage() {
        return seen.tokenAdvantage
      },
      rollouts,
      get mask() {
        return hasTokens ? (selects ? seen.mask : masked(seen, undefined, undefined)) : undefined
      },
      state: saved(method, after),
      sample,
      reads: Object.freeze([...new Set([...(reads.step ?? []), ...(reads.update ?? [])])]),
      get metrics() {
        return ofBatch()
      },
      inputs(policy?: LossPolicy, more: StepOptions = {}) {
        checkStepOptions(name, more)
        copies.check()
        return lossCall(method, { c: seen, uploadsOn }, policy, mergeOptions(options, more)) as never
      },
      lossSteps,
      passes: (parts, { out, accumulate = false, ...more }) => {
        checkStepOptions(name, more)
        copies.check()
        const merged = { ...mergeOptions(options, more), ...(out !== undefined && { out }), accumulate }
        return new Passes({ c: seen, uploadsOn }, parts, merged as MicroBatchOptions, lossSteps)
      },
      dispose: () => copies.dispose(),
      [Symbol.dispose]: () => copies.dispose(),
    }
  } finally {
    current?.dispose()
  }
}

/** The policy among the columns of a batch, for methods whose selection looks at it. */
function policyOf(
  c: Context,
  batch: Policy,
  options: StepOptions,
  gaussian: AnyRecipe['gaussian'],
  uploadsOn: (device: number, stream: bigint | undefined) => Uploads,
): CurrentPolicy | undefined {
  const kind = policyKind(c.method, batch)
  const device = deviceOfPolicy(c.method, batch)
  if (kind === undefined) return undefined
  const uploads = device === undefined ? undefined : uploadsOn(device, options.stream)
  const { chunkRows = null } = options
  return new CurrentPolicy(c, kind, batch, { ofLogits: logitsOptions(options), chunkRows, gaussian, uploads })
}

/**
 * What a method decides about a batch: shaped rewards, advantages, what enters the loss, the state after the step, and
 * what to sample next. `prepared.loss(policy)` is then the loss of the current policy with its gradients, as often as the
 * trainer updates on this batch.
 *
 * Columns of tokens and the policy may lie on the host or on one device, each by itself. With a policy on a device the
 * loss, its gradients and statistics lie there too, and nothing waits for it but what the method looks at on the host:
 * `prepared.reads`. `dispose` (or `using`) frees what was copied there for the updates.
 *
 * @param recipe  as recipes.NAME(options) made it
 * @param batch   the columns of Batch that the method asks for, and its own. The policy may be among them, for methods
 *                whose selection looks at its log-probabilities or entropies.
 * @param state   as the step before returned it; none at the beginning
 * @param options for this step and all its updates; an update replaces what it gives itself
 * @throws TypeError for a column that is missing, with its shape and meaning, and for a name that no method knows, with the
 *         nearest one, and for arrays on two devices; RangeError for a column of another size, or a batch that the method
 *         cannot take; for a state of another method, version or other options
 */
export function prepareStep<R extends AnyRecipe>(
  recipe: R,
  batch: BatchOf<R>,
  state?: SavedState | undefined,
  options: StepOptions = {},
): Prepared<SavedStateOf<R>, NextOf<R>> {
  const decided = now(prepareSteps(checkRecipe(recipe, 'prepareStep'), batch, state, options))
  const { lossSteps, passes } = decided
  const losses = {
    loss: (policy: LossPolicy, more: StepOptions = {}) => now(lossSteps(policy, more)),
    microBatches: <P extends Policy>(
      parts: readonly MicroBatch[],
      forward: (part: MicroBatch) => P,
      more: MicroBatchOptions<P> = {},
    ) => microBatches(passes(parts, more), forward),
  }
  return withProperties(without(decided, 'lossSteps', 'passes'), losses) as never
}

/**
 * One optimization step of a method: prepareStep, and the loss of the current policy on it.
 *
 * @param batch  the columns that the method asks for and the policy: logp, logits (with token), hidden and head, or the
 *               mean of a Gaussian with x and std
 * @returns everything that prepareStep decides, the loss, its gradient with respect to whatever the policy was given as
 *          (gradLogp, gradLogits, gradHidden and gradHead, or gradMean), and statistics for lossStats. What the step has
 *          copied to a device is freed; `dispose` does nothing more.
 * @throws as prepareStep, and as policyLoss
 */
export function optimizationStep<R extends AnyRecipe, B extends BatchOf<R>>(
  recipe: R,
  batch: B,
  state?: SavedState | undefined,
  options: StepOptions = {},
): Omit<Prepared<SavedStateOf<R>, NextOf<R>>, 'loss' | 'inputs' | 'metrics' | 'microBatches'> & StepLoss<B> {
  const prepared = prepareStep(recipe, batch, state, options)
  try {
    const done = prepared.loss(policyIn(batch) as LossPolicy) as StepLoss<B>
    return withProperties(without(prepared, 'loss', 'inputs', 'microBatches'), done)
  } finally {
    prepared.dispose()
  }
}
