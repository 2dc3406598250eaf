// What TRL's GRPOTrainer does, and with it Liger-Kernel's losses and Unsloth: the presets differ in their defaults.
import { grpoError } from '../../addon/errors.js'
import type { Objective } from '../../objective.js'
import { correctedWeights } from '../parts/corrections.js'
import { known, sampledLogp } from '../parts/known.js'
import { float32Map } from '../parts/map_tokens.js'
import { within } from '../parts/rejection.js'
import { missingColumn } from '../step/columns.js'
import { type Context, extended, groupAdvantages } from '../step/context.js'
import type { Reads, Weights } from '../step/recipe.js'

export interface TrlOptions {
  readonly lossType: 'dapo' | 'grpo' | 'bnpo' | 'dr_grpo' | 'cispo' | 'sapo' | 'luspo' | 'vespo'
  readonly scaleRewards: 'group' | 'batch' | 'none'
  readonly importanceSamplingLevel: 'token' | 'sequence'
  readonly epsilon: number
  readonly epsilonHigh: number | null
  readonly delta: number | null
  readonly beta: number
  readonly useBiasCorrectionKl: boolean
  readonly entropyCoef: number
  /** null: the longest rollout of the batch. */
  readonly maxCompletionLength: number | null
  readonly importanceSamplingMode: `${'token' | 'sequence'}_${'truncate' | 'mask'}` | 'none'
  readonly importanceSamplingMin: number | null
  readonly importanceSamplingMax: number | null
  readonly offPolicyMaskThreshold: number | null
  readonly topEntropyQuantile: number
  readonly maskTruncated: boolean
  readonly sapoTemperaturePos: number
  readonly sapoTemperatureNeg: number
  readonly vespoKPos: number
  readonly vespoLambdaPos: number
  readonly vespoKNeg: number
  readonly vespoLambdaNeg: number
}

/** Options of two loss types, which the three presets have alike. */
export const constants = {
  sapoTemperaturePos: ['number = 1 > 0', 'sapo, sharpness of the gate where A > 0'],
  sapoTemperatureNeg: ['number = 1.05 > 0', 'sapo, and elsewhere'],
  vespoKPos: ['number = 2 >= 0', 'vespo, power of the ratio where A >= 0'],
  vespoLambdaPos: ['number = 3 >= 0', 'vespo, decay in the ratio where A >= 0; at least 1e-4 is taken'],
  vespoKNeg: ['number = 3 >= 0', 'vespo, power elsewhere'],
  vespoLambdaNeg: ['number = 2 >= 0', 'vespo, decay elsewhere'],
} as const

export type TrlContext = Context<{ readonly truncated?: Uint8Array | undefined }, undefined>

/**
 * What each loss type minimises, and how it averages. A rollout without tokens counts among the rollouts. The entropy is a
 * mean over tokens, which has the denominator of the loss where that is one of tokens of a generation batch.
 */
const losses = {
  dapo: { aggregate: 'token_mean', entropyAggregate: null },
  bnpo: { aggregate: 'token_mean' },
  grpo: { aggregate: 'sequence_mean', countEmpty: true },
  dr_grpo: { aggregate: 'constant', countEmpty: true },
  luspo: { aggregate: 'sequence_sum', countEmpty: true },
  cispo: { surrogate: 'cispo', aggregate: 'token_mean', entropyAggregate: null },
  sapo: { surrogate: 'sapo', aggregate: 'sequence_mean', countEmpty: true },
  vespo: { surrogate: 'vespo', ratio: 'sequence_product', aggregate: 'token_mean', entropyAggregate: null },
} as const satisfies Record<TrlOptions['lossType'], Objective>

/** The weights of tokens within their mean, where only those that are kept have an entropy bonus. */
function ofKept({ mask }: TrlContext, kept: Float32Array): Float32Array {
  let [tokens, among] = [0, 0]
  for (let t = 0; t < kept.length; t++) {
    if (mask?.[t] === 0) continue
    tokens++
    if (kept[t] !== 0) among++
  }
  return among === 0 ? kept : float32Map(kept, (x) => (x * tokens) / among)
}

/** The most tokens that a rollout of the batch has, masked ones included. */
export function longest({ sequenceStart, N }: Pick<Context, 'sequenceStart' | 'N'>): number {
  let most = 1
  for (let i = 0; i < N; i++) most = Math.max(most, (sequenceStart[i + 1] as number) - (sequenceStart[i] as number))
  return most
}

/** A rollout that no reward function has scored has the reward NaN: it is in no statistic, and has advantage 0. */
function scored(c: TrlContext): Context {
  if (!c.rewards.some(Number.isNaN)) return c
  const rolloutMask = Uint8Array.from(c.rewards, (r, i) => (Number.isNaN(r) ? 0 : (c.rolloutMask?.[i] ?? 1)))
  return extended(c, { rolloutMask })
}

function check(name: string, options: TrlOptions): void {
  const {
    lossType,
    epsilon,
    epsilonHigh,
    delta,
    importanceSamplingLevel: level,
    importanceSamplingMode: mode,
    importanceSamplingMin: least,
    beta,
    useBiasCorrectionKl,
  } = options
  const wrong = (option: string, value: unknown, expected: string) =>
    grpoError('option', name, option, `is ${String(value)}, expected ${expected}`)
  const unclipped = lossType === 'cispo' || lossType === 'sapo' || lossType === 'vespo'
  if (delta !== null && unclipped) throw wrong('delta', delta, `null: ${lossType} has no two-sided clip`)
  if (delta !== null && delta <= 1 + (epsilonHigh ?? epsilon)) {
    throw wrong('delta', delta, `a number above the clip interval, which ends at ${1 + (epsilonHigh ?? epsilon)}`)
  }
  if (lossType === 'luspo' && level !== 'sequence') throw wrong('importanceSamplingLevel', level, 'sequence for luspo')
  if (lossType !== 'vespo') return
  if (mode.startsWith('sequence')) {
    throw wrong('importanceSamplingMode', mode, 'token_truncate, token_mask or none for vespo, whose weight holds it')
  }
  if (least !== null) throw wrong('importanceSamplingMin', least, 'null for vespo')
  // The ratio of the loss is then the product of the rollout's, and there is no mean of its log beside it.
  if (level === 'sequence' && beta !== 0 && useBiasCorrectionKl) {
    throw wrong('importanceSamplingLevel', level, 'token for vespo, whose KL is multiplied by the ratio')
  }
}

/** [T] oldLogp with which the ratio of vespo, a product over the rollout, holds the weights of its tokens; the KL's does not. */
function vespoWeights(c: TrlContext, options: TrlOptions): Weights {
  const { importanceSamplingMode: mode, importanceSamplingMax: cap, useBiasCorrectionKl } = options
  const { logp, sequenceStart, mask } = c
  const [old, rolloutLogp] = [sampledLogp(c), known(c, 'rolloutLogp')]
  const klOldLogp = useBiasCorrectionKl ? old : undefined
  const logWeight = (x: number) => {
    const kept =
      cap === null || Math.exp(x) <= cap ? x : mode === 'token_mask' ? Number.NEGATIVE_INFINITY : Math.log(cap)
    return within(kept, Math.log(1e-8), 20)
  }
  const oldLogp = new Float32Array(c.T)
  for (let i = 0; i < c.N; i++) {
    const [begin, end] = [sequenceStart[i] as number, sequenceStart[i + 1] as number]
    let [sum, n] = [0, 0]
    for (let t = begin; t < end; t++) {
      if (mask?.[t] === 0) continue
      const before = old[t] as number
      sum += within((logp[t] as number) - before, -20, 20) + logWeight(before - (rolloutLogp[t] as number))
      n++
    }
    // Spread over the rollout, of which only the sum counts: no token's share then leaves the clamp of the surrogate.
    const share = within(sum, Math.log(1e-8), 20) / n
    for (let t = begin; t < end; t++) oldLogp[t] = (logp[t] as number) - share
  }
  return { oldLogp, klOldLogp }
}

/** What the points look at on the host. */
export function trlReads(options: TrlOptions): Reads {
  const { importanceSamplingMode: mode, offPolicyMaskThreshold, topEntropyQuantile, entropyCoef } = options
  const folds = mode !== 'none' && options.lossType === 'vespo'
  const isAlone = !folds && topEntropyQuantile === 1 && offPolicyMaskThreshold === null
  const corrects = mode === 'none' || isAlone ? [] : ['mask', 'oldLogp', 'rolloutLogp']
  const quantile = topEntropyQuantile === 1 ? [] : ['mask', 'entropy']
  const terms = topEntropyQuantile !== 1 && entropyCoef !== 0
  return {
    ...(options.maskTruncated && { step: ['mask'] }),
    update: [
      ...corrects,
      ...quantile,
      ...(folds || terms ? ['logp', 'oldLogp', 'refLogp'] : []),
      ...(offPolicyMaskThreshold === null ? [] : ['mask', 'logp', 'oldLogp', 'rolloutLogp']),
    ],
  }
}

export function trlPoints(name: string, options: TrlOptions) {
  check(name, options)
  const { lossType, scaleRewards, importanceSamplingMode: mode, importanceSamplingMin, importanceSamplingMax } = options
  const { epsilon, delta, offPolicyMaskThreshold, topEntropyQuantile, maxCompletionLength } = options
  const epsilonHigh = options.epsilonHigh ?? epsilon
  const clip =
    lossType === 'cispo' ? { clipLow: null, clipHigh: epsilonHigh - 1 } : { clipLow: epsilon, clipHigh: epsilonHigh }
  /** The entropy of what is kept is divided by all tokens, not by those that are kept. */
  const ofBatch = 'entropyAggregate' in losses[lossType]
  const scale = scaleRewards === 'none' ? 'none' : (`${scaleRewards}_std` as const)
  return {
    advantages: (c: TrlContext) => groupAdvantages(scored(c), { scale, eps: 1e-4 }),
    select({ columns }: TrlContext) {
      if (!options.maskTruncated) return {}
      if (columns.truncated === undefined)
        throw missingColumn(name, 'truncated', 'flag[N]', 'which rollouts reached the limit')
      return { rollouts: columns.truncated.map((x) => 1 - x) }
    },
    weights(c: TrlContext) {
      // Without an inference engine there is nothing to correct, in TRL as here.
      const engine = mode !== 'none' && c.has('rolloutLogp')
      const range = { low: importanceSamplingMin, high: importanceSamplingMax }
      const correction = {
        ...(engine && lossType !== 'vespo' && { importance: { mode, ...range } }),
        ...(offPolicyMaskThreshold !== null && { offPolicy: offPolicyMaskThreshold }),
        topEntropy: topEntropyQuantile,
      }
      const folds = engine && lossType === 'vespo'
      const weights = correctedWeights(c, correction, folds ? vespoWeights(c, options) : {})
      if (options.entropyCoef === 0 || topEntropyQuantile === 1) return weights
      const kept = correctedWeights(c, { topEntropy: topEntropyQuantile }).weight as Float32Array
      return { ...weights, entropyWeight: ofBatch ? kept : ofKept(c, kept) }
    },
    objective: (c: TrlContext): Objective => ({
      ratio: options.importanceSamplingLevel,
      ...clip,
      dualClip: delta,
      klCoef: options.beta,
      klWeight: options.useBiasCorrectionKl ? (lossType === 'vespo' ? 'token_ratio' : 'ratio') : 'none',
      entropyCoef: options.entropyCoef,
      entropyAggregate: 'token_mean',
      tauPositive: options.sapoTemperaturePos,
      tauNegative: options.sapoTemperatureNeg,
      powerPositive: options.vespoKPos,
      decayPositive: Math.max(options.vespoLambdaPos, 1e-4),
      powerNegative: options.vespoKNeg,
      decayNegative: Math.max(options.vespoLambdaNeg, 1e-4),
      ...losses[lossType],
      ...(lossType === 'dr_grpo' && { maxLength: maxCompletionLength ?? longest(c) }),
    }),
  }
}
