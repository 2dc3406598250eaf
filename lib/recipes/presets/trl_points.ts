// What TRL's GRPOTrainer does, and with it Liger-Kernel's losses and Unsloth: the presets differ in their defaults.
import { grpoError } from '../../addon/errors.js'
import type { Objective } from '../../objective.js'
import { vespo } from '../methods/vespo.js'
import { correctedWeights, type ImportanceMode } from '../parts/corrections.js'
import { missingColumn } from '../step/columns.js'
import { type Context, extended, groupAdvantages } from '../step/context.js'

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
  readonly importanceSamplingMode: Exclude<ImportanceMode, 'token_gate'> | 'none'
  readonly importanceSamplingMin: number | null
  readonly importanceSamplingMax: number
  readonly offPolicyMaskThreshold: number | null
  readonly topEntropyQuantile: number
  readonly maskTruncated: boolean
}

export type TrlContext = Context<{ readonly truncated?: Uint8Array | undefined }, undefined>

/** What each loss type minimises, and how it averages. A rollout without tokens counts among the rollouts. */
const losses = {
  dapo: { aggregate: 'token_mean' },
  bnpo: { aggregate: 'token_mean' },
  grpo: { aggregate: 'sequence_mean', countEmpty: true },
  dr_grpo: { aggregate: 'constant', countEmpty: true },
  luspo: { aggregate: 'sequence_sum', countEmpty: true },
  cispo: { surrogate: 'cispo', aggregate: 'token_mean' },
  sapo: { surrogate: 'sapo', aggregate: 'sequence_mean', countEmpty: true },
  vespo: { ...(vespo().objective as Objective), aggregate: 'token_mean' },
} as const satisfies Record<TrlOptions['lossType'], Objective>

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
}

export function trlPoints(name: string, options: TrlOptions) {
  check(name, options)
  const { lossType, scaleRewards, importanceSamplingMode: mode, importanceSamplingMin, importanceSamplingMax } = options
  const { epsilon, delta, offPolicyMaskThreshold, topEntropyQuantile, maxCompletionLength } = options
  const epsilonHigh = options.epsilonHigh ?? epsilon
  const clip =
    lossType === 'cispo' ? { clipLow: null, clipHigh: epsilonHigh - 1 } : { clipLow: epsilon, clipHigh: epsilonHigh }
  const scale = scaleRewards === 'none' ? 'none' : (`${scaleRewards}_std` as const)
  const folded = vespo({ correction: lossType === 'vespo' ? (mode as 'none') : 'none', cap: importanceSamplingMax })
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
      return correctedWeights(c, correction, engine && lossType === 'vespo' ? folded.weights(c) : {})
    },
    objective: (c: TrlContext): Objective => ({
      ratio: options.importanceSamplingLevel,
      ...clip,
      dualClip: delta,
      klCoef: options.beta,
      klWeight: options.useBiasCorrectionKl ? 'ratio' : 'none',
      entropyCoef: options.entropyCoef,
      entropyAggregate: 'token_mean',
      ...losses[lossType],
      ...(lossType === 'dr_grpo' && { maxLength: maxCompletionLength ?? longest(c) }),
    }),
  }
}
