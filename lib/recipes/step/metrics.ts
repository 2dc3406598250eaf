// What a trainer logs of a step: numbers of the batch, and of the loss of a policy on it, by their names. Computed when they
// are first looked at: a step that nobody looks at pays nothing.

import type { HostArray } from '../../arrays/array.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import { type LossStats, lossStats } from '../../loss_stats.js'
import { policyLoss } from '../../policy_loss.js'
import { float32Of, type List } from './columns.js'
import { type Context, masked } from './context.js'
import type { Weights } from './recipe.js'

/** Numbers of a prepared batch. Those for which it has no column are absent. */
export interface BatchMetrics {
  /** Of the rewards as the method has shaped them, of rollouts that are not rejected and whose reward is no NaN. */
  readonly rewardMean?: number
  /** Their standard deviation, as all here with n - 1; 0 of equal values. */
  readonly rewardStd?: number
  /** Share of the groups with such rewards in which they are all equal; a group of one is among them. */
  readonly groupsWithoutSignal?: number
  /** Of the rollouts that are kept, or, where advantages are those of tokens, of the tokens that are. */
  readonly advantageMean?: number
  readonly advantageStd?: number
  /** Rollouts that the method selects and the batch does not reject. */
  readonly rolloutsKept: number
  /** Of all rollouts. */
  readonly rolloutsKeptShare: number
  /** Tokens that enter the loss, but for those that weights mask: `tokens` of a loss leaves these out too. */
  readonly tokensKept?: number
  /** Of the tokens that the batch does not mask. */
  readonly tokensKeptShare?: number
  /** Share of all tokens that the batch masks. */
  readonly tokensMaskedShare?: number
  /** Share of the rollouts that were cut off, of a method with the column `truncated`. */
  readonly truncatedShare?: number
  /**
   * Mean of |oldLogp - rolloutLogp| over the tokens that are kept; those whose rolloutLogp is NaN are left out, here and
   * below. In a loss the policy itself stands in place of an oldLogp that the batch does not have.
   */
  readonly engineMismatchMean?: number
  /** Of the ratios exp(oldLogp - rolloutLogp), the logarithm held within ± 20; 0 without tokens, as all means are. */
  readonly engineRatioMin?: number
  readonly engineRatioMean?: number
  readonly engineRatioMax?: number
  /** (sum of the ratios)^2 / (tokens × sum of their squares), a share: 1 where they are all equal. */
  readonly engineEffectiveSampleSize?: number
}

/**
 * Numbers of a loss: those of its batch, the loss, and those of lossStats. Without tokens ratioMin and ratioMax are 0. For a
 * loss of the method's own policyLoss is the loss, klLoss and the clip fractions are 0, and the others those of its
 * log-probabilities. The KL to the mean of a reference Gaussian is in `loss` alone.
 */
export interface StepMetrics extends BatchMetrics, Readonly<LossStats> {
  readonly loss: number
}

interface Shaped {
  readonly rewards: ArrayLike<number> | undefined // [N]
  readonly rollouts: Uint8Array // [N]
}

type Values = Float32Array | List | DeviceArray

/** A loss; what of it lies on a device is read when its metrics are looked at. */
interface LossFound {
  readonly loss: number | DeviceArray
  readonly logp: Values | undefined // [T]
  readonly entropy: Values | undefined // [T]
  readonly stats: HostArray<'f64'> | DeviceArray | undefined
  readonly weights: Weights
}

/** The object with `metrics`. A spread would compute them; property descriptors do not. */
export const withMetrics = <X extends object, M>(x: X, get: () => M): X & { readonly metrics: M } =>
  Object.defineProperty(x, 'metrics', { get, enumerable: true, configurable: true }) as X & { readonly metrics: M }

/** What is computed once. */
function once<M>(compute: () => M): () => M {
  let found: M | undefined
  return () => (found ??= compute())
}

/** The metrics of a batch, as the context is after `select`, computed once. */
export function metricsOfBatch(c: Context, shaped: Shaped): () => BatchMetrics {
  return once(() => batchMetrics(c, shaped))
}

/**
 * The metrics of a loss on a prepared batch, computed once.
 *
 * @param entropy  that the policy brought beside its log-probabilities
 */
export function metricsOfLoss(
  c: Context,
  ofBatch: () => BatchMetrics,
  found: LossFound,
  entropy: Values | undefined,
): () => StepMetrics {
  return once(() => ({ ...ofBatch(), ...lossMetrics(c, found, entropy) }))
}

type Counts = (i: number) => boolean

/** Mean and standard deviation of the values that count, in two passes: an offset that they share takes no digits. */
function spread(x: ArrayLike<number>, counts: Counts): { mean: number; std: number } {
  let [n, sum, least, most] = [0, 0, Infinity, -Infinity]
  for (let i = 0; i < x.length; i++) {
    if (!counts(i)) continue
    const value = x[i] as number
    n++
    sum += value
    least = Math.min(least, value)
    most = Math.max(most, value)
  }
  if (n === 0) return { mean: 0, std: 0 }
  if (least === most) return { mean: least, std: 0 }
  const mean = sum / n
  let m2 = 0
  for (let i = 0; i < x.length; i++) if (counts(i)) m2 += ((x[i] as number) - mean) ** 2
  return { mean, std: Math.sqrt(m2 / (n - 1)) }
}

const share = (part: number, all: number) => (all === 0 ? 0 : part / all)

function rewardMetrics(c: Context, rewards: ArrayLike<number>): Partial<BatchMetrics> {
  const counts: Counts = (i) => c.rolloutMask?.[i] !== 0 && !Number.isNaN(rewards[i])
  const { mean: rewardMean, std: rewardStd } = spread(rewards, counts)
  if (!c.has('groupStart')) return { rewardMean, rewardStd }
  let [groups, equal] = [0, 0]
  for (const { begin, end } of c.groups) {
    let [n, same, first] = [0, true, 0]
    for (let i = begin; i < end; i++) {
      if (!counts(i)) continue
      if (n++ === 0) first = rewards[i] as number
      else if (rewards[i] !== first) same = false
    }
    if (n === 0) continue
    groups++
    if (same) equal++
  }
  return { rewardMean, rewardStd, groupsWithoutSignal: share(equal, groups) }
}

/** How far the engine's log-probabilities are from those of the policy that sampled, [T]. */
function engineMetrics({ rolloutLogp, mask }: Context, sampled: ArrayLike<number>): Partial<BatchMetrics> {
  let [n, distance, sum, squares, least, most] = [0, 0, 0, 0, Infinity, -Infinity]
  for (let t = 0; t < rolloutLogp.length; t++) {
    if (mask?.[t] === 0 || Number.isNaN(rolloutLogp[t])) continue
    const log = (sampled[t] as number) - (rolloutLogp[t] as number)
    const ratio = Math.exp(Math.min(Math.max(log, -20), 20))
    n++
    distance += Math.abs(log)
    sum += ratio
    squares += ratio * ratio
    least = Math.min(least, ratio)
    most = Math.max(most, ratio)
  }
  return {
    engineMismatchMean: share(distance, n),
    engineRatioMin: n === 0 ? 0 : least,
    engineRatioMean: share(sum, n),
    engineRatioMax: n === 0 ? 0 : most,
    engineEffectiveSampleSize: share(sum * sum, n * squares),
  }
}

function batchMetrics(c: Context, { rewards, rollouts }: Shaped): BatchMetrics {
  const { rolloutMask, advantage, tokenAdvantage, N, T } = c
  const isKept: Counts = (i) => rollouts[i] !== 0 && rolloutMask?.[i] !== 0
  let rolloutsKept = 0
  for (let i = 0; i < N; i++) if (isKept(i)) rolloutsKept++
  const hasTokens = c.has('sequenceStart')
  const mask = hasTokens ? c.mask : undefined
  const enters: Counts = (t) => mask?.[t] !== 0
  let [tokensKept, given] = [0, 0]
  for (let t = 0; hasTokens && t < T; t++) if (enters(t)) tokensKept++
  if (hasTokens) for (const tokens of c.length) given += tokens
  const advantages =
    tokenAdvantage !== undefined
      ? spread(tokenAdvantage, enters)
      : advantage !== undefined
        ? spread(advantage, isKept)
        : undefined
  const { truncated } = (c.columns ?? {}) as { readonly truncated?: ArrayLike<number> }
  return {
    ...(rewards !== undefined && rewardMetrics(c, rewards)),
    ...(advantages && { advantageMean: advantages.mean, advantageStd: advantages.std }),
    rolloutsKept,
    rolloutsKeptShare: share(rolloutsKept, N),
    ...(hasTokens && {
      tokensKept,
      tokensKeptShare: share(tokensKept, given),
      tokensMaskedShare: share(T - given, T),
    }),
    ...(truncated !== undefined && { truncatedShare: share(Array.from(truncated).filter((x) => x !== 0).length, N) }),
    ...(c.has('rolloutLogp') && c.has('oldLogp') && engineMetrics(c, c.oldLogp)),
  }
}

/** On the host: from a device by a copy, which waits for it. */
const valuesOf = (c: Context, name: string, x: Values | null | undefined): Float32Array | undefined =>
  x === undefined || x === null ? undefined : float32Of(c.method, name, isDeviceArray(x) ? x.readSync() : x, name)

/** The statistics of a loss that is no policy objective: those of its log-probabilities. */
function ownStats(c: Context, { logp, entropy, weights }: LossFound, given: Values | undefined): LossStats {
  const inputs = {
    logp: valuesOf(c, 'logp', logp) as Float32Array,
    oldLogp: c.has('oldLogp') ? c.oldLogp : undefined,
    refLogp: c.has('refLogp') ? c.refLogp : undefined,
    entropy: valuesOf(c, 'entropy', entropy ?? given) ?? (c.has('entropy') ? c.entropy : undefined),
    advantage: new Float32Array(c.N),
    sequenceStart: c.sequenceStart,
    mask: weights.mask === undefined ? c.mask : masked(c, undefined, weights.mask),
  }
  const { stats } = policyLoss(inputs, { clipLow: null, clipHigh: null, out: { gradLogp: null } })
  return lossStats(stats)
}

function lossMetrics(c: Context, found: LossFound, entropy: Values | undefined) {
  const { stats, logp } = found
  const loss = isDeviceArray(found.loss) ? (found.loss.readSync().data[0] as number) : found.loss
  const named = stats === undefined ? { ...ownStats(c, found, entropy), policyLoss: loss } : lossStats(stats)
  const none = named.tokens === 0 && { ratioMin: 0, ratioMax: 0 } // they are infinite there, which no chart takes
  const sampled = c.has('rolloutLogp') && !c.has('oldLogp') ? valuesOf(c, 'logp', logp) : undefined
  return { ...(sampled && engineMetrics(c, sampled)), loss, ...named, ...none }
}
