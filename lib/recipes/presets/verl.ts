import { grpoError } from '../../addon/errors.js'
import { isDeviceArray } from '../../arrays/device_memory.js'
import type { Objective } from '../../objective.js'
import { correctedWeights } from '../parts/corrections.js'
import { product } from '../parts/map_tokens.js'
import { perSequence, perToken } from '../parts/rejection.js'
import type { Context } from '../step/context.js'
import { recipe, type Weights } from '../step/recipe.js'
import { sequenceTerm } from './sequence_term.js'
import { longest } from './trl_points.js'

const kl = { low_var_kl: 'k3', kl: 'k1', abs: 'abs', mse: 'k2' } as const
const aggregates = {
  'token-mean': 'token_mean',
  'seq-mean-token-mean': 'sequence_mean',
  'seq-mean-token-sum': 'sequence_sum',
  'seq-mean-token-sum-norm': 'constant',
  'token-sum': 'token_sum',
} as const

/** Of each rollout, the geometric mean of its weights: what verl makes of them for geo_mean. */
function geometricMean(c: Context, weight: Float32Array): Float32Array {
  const logs = weight.map((w) => Math.log(w + 1e-10))
  return perToken(c, perSequence(c, logs, true).map(Math.exp))
}

/**
 * gspo caps s at e^10, without gradient beyond, and has no bound below: a dual clip there and, for A > 0, the upper end of
 * the interval. The clamp only keeps s a finite float32 above 0.
 */
const gspoCap = Math.exp(10)
const gspo = (clipLow: number, clipHigh: number) =>
  ({
    ratio: 'sequence_token',
    clipLow,
    clipHigh: Math.min(clipHigh, gspoCap - 1),
    dualClip: gspoCap,
    logRatioClamp: 87,
  }) as const

/** Whether the policy term is turned from a mean over rollouts into another aggregate. */
const isTurned = (lossMode: string, lossAggMode: string) =>
  lossAggMode !== 'seq-mean-token-mean' && ['gspo', 'sapo', 'geo_mean'].includes(lossMode)
/** Whether importance weights are combined with others on the host. */
const looksAtWeights = (lossMode: string, useKlLoss: boolean, lossAggMode: string) =>
  lossMode === 'geo_mean' || (useKlLoss && isTurned(lossMode, lossAggMode))

export const verl = recipe(
  {
    name: 'verl',
    paper: { title: 'verl, core algorithms of 0.9.0' },
    source: 'code',
    reads: ({
      rolloutIs,
      lossMode,
      useKlLoss,
      lossAggMode,
    }: {
      rolloutIs: string | null
      lossMode: string
      useKlLoss: boolean
      lossAggMode: string
    }) => ({
      update: [
        ...(rolloutIs !== null && looksAtWeights(lossMode, useKlLoss, lossAggMode)
          ? ['mask', 'oldLogp', 'rolloutLogp']
          : []),
        ...(useKlLoss && isTurned(lossMode, lossAggMode) ? ['mask'] : []),
      ],
    }),
    unknown: `Its default estimator, gae, needs a critic: here grpo. Empty rollouts count, as with a global batch size.
gspo, sapo and geo_mean with a KL under another lossAggMode: a normalizer is that of the KL, and scales their term with it.`,
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-6), and the reward itself in a group of one (rloo_vectorized: 0)
vanilla: PPO with the interval and, always, the dual clip at clipRatioC
log-ratios within ±20, but for gspo (log s at most 10), geo_mean and dro
gspo, sapo, geo_mean: always the mean over rollouts of the mean over tokens; KL and entropy as lossAggMode says
geo_mean is weighted by the geometric mean over each rollout of the importance weights + 1e-10
clip_cov and kl_cov are methods of their own: clipCov, klCov`,
    options: {
      advEstimator: ['enum grpo|rloo|rloo_vectorized', 'adv_estimator'],
      normAdvByStd: ['boolean = true', 'whether grpo divides by the standard deviation'],
      lossMode: ['enum vanilla|gpg|gspo|sapo|geo_mean|cispo|dro|dppo_tv|dppo_kl', 'policy_loss.loss_mode'],
      lossAggMode: [
        'enum token-mean|seq-mean-token-mean|seq-mean-token-sum|seq-mean-token-sum-norm|token-sum',
        'loss_agg_mode',
      ],
      lossScaleFactor: [
        'number? = null > 0',
        'constant of seq-mean-token-sum-norm; null: the longest rollout of the batch',
      ],
      clipRatioLow: ['number = 0.2 >= 0', 'lower width; clip_ratio alone changes nothing. In log-ratios for geo_mean'],
      clipRatioHigh: ['number = 0.2 >= 0', 'upper width'],
      clipRatioC: ['number = 3 > 1', 'dual clip; also the cap of the ratio in dppo'],
      droBeta: ['number? = null > 0', 'needed by dro'],
      tauPos: ['number = 1 > 0', 'sapo, sharpness of the gate where A > 0'],
      tauNeg: ['number = 1.05 > 0', 'sapo, and elsewhere'],
      useKlLoss: ['boolean = false', 'whether the loss has a KL'],
      klLossCoef: ['number = 0.001 >= 0', 'its factor; it is aggregated by lossAggMode'],
      klLossType: ['enum low_var_kl|kl|abs|mse', 'its estimator; low_var_kl within ±10'],
      klStraightThrough: ['boolean = false', 'whether its gradient is that of mse: low_var_kl+, kl+, abs+'],
      entropyCoeff: ['number = 0 >= 0', 'factor of the entropy, aggregated by lossAggMode'],
      rolloutIs: ['enum? token|sequence', 'importance weights for the inference engine; null: none'],
      rolloutIsThreshold: ['number = 2 > 0', 'largest weight'],
      rolloutIsLow: ['number? = null >= 0', 'smallest weight; if given, weights outside are 0 (IcePop) and not cut'],
      rolloutIsBatchNormalize: ['boolean = false', 'whether weights are divided by their mean over the batch'],
    },
  },
  (options) => {
    const { lossMode, clipRatioLow: clipLow, clipRatioHigh: clipHigh, clipRatioC, droBeta, klLossType } = options
    if (lossMode === 'dro' && droBeta === null)
      throw grpoError('option', 'verl', 'droBeta', 'is null, but lossMode is dro')
    const modes = {
      vanilla: { clipLow, clipHigh, dualClip: clipRatioC, logRatioClamp: 20 },
      gpg: { surrogate: 'reinforce' },
      gspo: gspo(clipLow, clipHigh),
      sapo: { surrogate: 'sapo', tauPositive: options.tauPos, tauNegative: options.tauNeg, logRatioClamp: 20 },
      geo_mean: { ratio: 'geometric', clipLow, clipHigh },
      cispo: { surrogate: 'cispo', clipLow, clipHigh, logRatioClamp: 20 },
      dro: { surrogate: 'dro', droBeta: droBeta ?? 1 },
      dppo_tv: { surrogate: 'dppo_tv', clipLow, clipHigh, ratioCap: clipRatioC, logRatioClamp: 20 },
      dppo_kl: { surrogate: 'dppo_kl', clipLow, clipHigh, ratioCap: clipRatioC, logRatioClamp: 20 },
    } as const satisfies Record<typeof lossMode, Objective>
    const estimators = {
      grpo: { scale: options.normAdvByStd ? 'group_std' : 'none', eps: 1e-6, singleton: 'raw' },
      rloo: { center: 'leave_one_out', scale: 'none', singleton: 'raw' },
      rloo_vectorized: { center: 'leave_one_out', scale: 'none', singleton: 'zero' },
    } as const
    const { rolloutIs, rolloutIsThreshold: high, rolloutIsLow: low, rolloutIsBatchNormalize: normalize } = options
    const clamps = klLossType === 'low_var_kl' ? { klClamp: 20, klValueClamp: 10 } : {}
    const aggregate = aggregates[options.lossAggMode]
    const maxLength = (c: Context) => options.lossScaleFactor ?? longest(c)
    const ofRollouts = lossMode === 'gspo' || lossMode === 'sapo' || lossMode === 'geo_mean'
    // A loss has one aggregate for its policy term and its KL: with both, weights turn it into the other for the first.
    const turned = ofRollouts && options.useKlLoss && aggregate !== 'sequence_mean' && aggregate
    return {
      advantages: estimators[options.advEstimator],
      weights(c) {
        const onHost = looksAtWeights(lossMode, options.useKlLoss, options.lossAggMode)
        const mode = `${rolloutIs ?? 'token'}_${low === null ? 'truncate' : 'mask'}` as const
        const found: Weights =
          rolloutIs === null ? {} : correctedWeights(c, { importance: { mode, low, high, normalize } }, {}, onHost)
        if (isDeviceArray(found.weight)) return lossMode === 'dro' ? { ...found, oldLogp: c.at('oldLogp') } : found
        const factors = [
          lossMode === 'geo_mean' && found.weight ? geometricMean(c, found.weight) : found.weight,
          turned ? sequenceTerm(c, { aggregate: turned, countEmpty: true, maxLength: maxLength(c) }) : undefined,
        ].filter((factor) => factor !== undefined)
        return { ...found, weight: product(factors), ...(lossMode === 'dro' && { oldLogp: c.at('oldLogp') }) }
      },
      objective: (c): Objective => ({
        aggregate: ofRollouts && !turned ? 'sequence_mean' : aggregate,
        entropyAggregate: ofRollouts && !turned && aggregate !== 'sequence_mean' ? aggregate : null,
        countEmpty: true,
        ...(aggregate === 'constant' && { maxLength: maxLength(c) }),
        klCoef: options.useKlLoss ? options.klLossCoef : 0,
        kl: kl[klLossType],
        klGradient: options.klStraightThrough ? 'k2' : 'exact',
        ...clamps,
        entropyCoef: options.entropyCoeff,
        ...modes[lossMode],
      }),
    }
  },
)
