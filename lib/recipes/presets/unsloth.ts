import { recipe } from '../step/recipe.js'
import { truncated } from './trl.js'
import { constants, type TrlOptions, trlPoints, trlReads } from './trl_points.js'

type UnslothOptions = Omit<
  TrlOptions,
  'useBiasCorrectionKl' | 'entropyCoef' | 'offPolicyMaskThreshold' | 'topEntropyQuantile'
>

/** The options in the words of TRL. */
function ofTrl(options: UnslothOptions): TrlOptions {
  const dapo = options.lossType === 'dapo'
  return {
    ...options,
    epsilonHigh: dapo ? 0.28 : options.epsilonHigh,
    maskTruncated: dapo || options.maskTruncated,
    useBiasCorrectionKl: false,
    entropyCoef: 0,
    offPolicyMaskThreshold: null,
    topEntropyQuantile: 1,
  }
}

export const unsloth = recipe(
  {
    name: 'unsloth',
    paper: { title: 'Unsloth, GRPO of unsloth-zoo 2026.8.13' },
    source: 'code',
    reads: (options: UnslothOptions) => trlReads(ofTrl(options)),
    unknown: `It patches TRL: what is not listed here is taken to be TRL’s. It never multiplies the KL by the ratio, whatever
TRL’s default. luspo averages over padding there where beta is not 0 or tokens have weights; here it does not.`,
    equation: `TRL's losses with other defaults: bnpo, beta 0.001, no correction for the inference engine.
dapo always has the upper width 0.28 and masks truncated rollouts. dr_grpo leaves rewards unscaled where scale_rewards is
True: that is none here; the default, the word group, scales them.`,
    columns: { truncated },
    options: {
      lossType: ['enum bnpo|grpo|dapo|dr_grpo|cispo|sapo|luspo|vespo', 'loss_type'],
      scaleRewards: ['enum group|batch|none', 'what rewards are divided by: scale_rewards'],
      importanceSamplingLevel: ['enum token|sequence', 'whose ratio'],
      epsilon: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsilonHigh: ['number? = null >= 0', 'upper width; null: epsilon; 0.28 with dapo, whatever is given'],
      delta: ['number? = null > 1', 'cap of the ratio where A < 0, above the interval'],
      beta: ['number = 0.001 >= 0', 'factor of the KL to the reference policy; TRL has 0'],
      maxCompletionLength: ['number = 8192 > 0', 'constant of dr_grpo'],
      importanceSamplingMode: [
        'enum none|sequence_mask|sequence_truncate|token_mask|token_truncate',
        'correction for the inference engine, where the batch has rolloutLogp; TRL has sequence_mask',
      ],
      importanceSamplingMin: ['number? = null >= 0', 'smallest weight of that correction'],
      importanceSamplingMax: ['number? = 3 > 0', 'largest weight of that correction; null: no bound'],
      maskTruncated: ['boolean = false', 'whether truncated rollouts are masked; always with dapo'],
      ...constants,
    },
    example: { truncated: [0, 0, 0, 0, 0, 0, 0, 1] },
  },
  (options) => trlPoints('unsloth', ofTrl(options)),
)
