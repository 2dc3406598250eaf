// The two step functions as promises: kernels run off the main thread, what is read from a device is awaited, and `signal`
// stops a step between its kernels and within them. What a method computes in JavaScript runs on the main thread between
// its kernels. Until a promise settles the caller leaves batch and policy alone.
import { grpoError } from '../addon/errors.js'
import { describe } from '../arrays/array.js'
import type { StepLoss } from './step/loss.js'
import {
  type MicroBatch,
  type MicroBatchGradients,
  type MicroBatchOptions,
  microBatchesLater,
} from './step/micro_batches.js'
import { policyIn } from './step/names.js'
import type { Policy } from './step/policy.js'
import { without, withProperties } from './step/properties.js'
import { type AnyRecipe, checkRecipe } from './step/recipe.js'
import type { SavedState } from './step/state.js'
import {
  type BatchOf,
  type NextOf,
  type Prepared as PreparedNow,
  prepareSteps,
  type SavedStateOf,
} from './step/step.js'
import { later } from './step/steps.js'
import type { LossPolicy, StepOptions } from './step/update.js'

/** Options of a step, and what stops it. */
export interface StepOptionsLater extends StepOptions {
  readonly signal?: AbortSignal
}

/** What a method decides about a batch, whose losses are promises. */
export interface Prepared<State = SavedState | undefined, Sample = unknown>
  extends Omit<PreparedNow<State, Sample>, 'loss' | 'microBatches'> {
  /** As that of prepareStep, off the main thread. A signal is that of this update alone. */
  loss<P extends LossPolicy>(policy: P, options?: StepOptionsLater): Promise<StepLoss<P>>
  /** As that of prepareStep, for `for await`; `forward` may return a promise. */
  microBatches<P extends Policy>(
    parts: readonly MicroBatch[],
    forward: (part: MicroBatch) => P | Promise<P>,
    options?: MicroBatchOptions<P> & { readonly signal?: AbortSignal },
  ): AsyncGenerator<MicroBatchGradients<P>, StepLoss, void>
}

/** The signal of a step beside its other options. */
function apart<Options extends { readonly signal?: AbortSignal }>(
  method: string,
  { signal, ...options }: Options,
): [Omit<Options, 'signal'>, AbortSignal | undefined] {
  if (signal === undefined || signal instanceof AbortSignal) return [options, signal]
  throw grpoError('kind', method, 'signal', `is ${describe(signal)}, expected an AbortSignal`)
}

/**
 * prepareStep as a promise.
 *
 * @throws (as a rejection) what prepareStep throws, or the reason of the signal
 */
export async function prepareStep<R extends AnyRecipe>(
  recipe: R,
  batch: BatchOf<R>,
  state?: SavedState | undefined,
  options: StepOptionsLater = {},
): Promise<Prepared<SavedStateOf<R>, NextOf<R>>> {
  const method: AnyRecipe = checkRecipe(recipe, 'prepareStep')
  const [ofStep, signal] = apart(method.name, options)
  const decided = await later(prepareSteps(method, batch, state, ofStep), signal)
  const loss = async (policy: LossPolicy, more: StepOptionsLater = {}) => {
    const [ofUpdate, own] = apart(method.name, more)
    return later(decided.lossSteps(policy, ofUpdate), own)
  }
  async function* parts<P extends Policy>(
    list: readonly MicroBatch[],
    forward: (part: MicroBatch) => P | Promise<P>,
    more: MicroBatchOptions<P> & { readonly signal?: AbortSignal } = {},
  ) {
    const [given, own] = apart(method.name, more)
    return yield* microBatchesLater(decided.passes(list, given as never), forward, own)
  }
  return withProperties(without(decided, 'lossSteps', 'passes'), { loss, microBatches: parts }) as never
}

/**
 * optimizationStep as a promise.
 *
 * @throws (as a rejection) what optimizationStep throws, or the reason of the signal
 */
export async function optimizationStep<R extends AnyRecipe, B extends BatchOf<R>>(
  recipe: R,
  batch: B,
  state?: SavedState | undefined,
  options: StepOptionsLater = {},
): Promise<
  Omit<PreparedNow<SavedStateOf<R>, NextOf<R>>, 'loss' | 'inputs' | 'metrics' | 'microBatches'> & StepLoss<B>
> {
  const prepared = await prepareStep(recipe, batch, state, options)
  try {
    const { signal } = options
    const done = await prepared.loss(policyIn(batch) as LossPolicy, signal === undefined ? {} : { signal })
    return withProperties(without(prepared, 'loss', 'inputs', 'microBatches'), done as StepLoss<B>)
  } finally {
    prepared.dispose()
  }
}
