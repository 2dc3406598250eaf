import { recipe } from '../step/recipe.js'
import { constants, trlPoints, trlReads } from './trl_points.js'

/** The column of TRL's mask_truncated_completions. */
export const truncated =
  'flag[N]? which rollouts reached the limit without an end: masked, but still in their group’s statistics'

export const trl = recipe(
  {
    name: 'trl',
    paper: { title: 'TRL, GRPOTrainer of 1.10.0' },
    source: 'code',
    reads: trlReads,
    unknown: `Where a term of luspo differs from token to token (beta, weights of tokens, topEntropyQuantile) 1.10.0 averages
over padding; here, as in 1.13.0, it does not. 1.13.0 divides the entropy of dapo, cispo and vespo by the tokens above the
quantile. With sequence ratios both multiply the KL by the rollout’s ratio (klWeight token_ratio in the step’s objective:
by the token’s own). With vespo and a cap below 1 TRL counts padding. Logs of importance weights are within ±20 here. The
adaptive entropyCoef is not copied.`,
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-4); a reward of NaN, which no function has scored, is left out: A[i] = 0
loss by lossType, plus beta r k3 per token, minus entropyCoef times the mean entropy of the tokens
with topEntropyQuantile the entropy of those above it: over them, or for dapo, cispo and vespo over all tokens
dapo, bnpo, cispo, vespo: mean over tokens (but for bnpo over those of a generation batch: give their number as normalizer)
grpo, sapo: mean over rollouts of the mean over tokens;   luspo: of the sum;   dr_grpo: of the sum / maxCompletionLength
cispo caps the ratio itself at epsilonHigh`,
    columns: { truncated },
    options: {
      lossType: ['enum dapo|grpo|bnpo|dr_grpo|cispo|sapo|luspo|vespo', 'loss_type'],
      scaleRewards: ['enum group|batch|none', 'what rewards are divided by: scale_rewards'],
      importanceSamplingLevel: ['enum token|sequence', 'whose ratio; sequence is GSPO, weighted by length with dapo'],
      epsilon: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsilonHigh: ['number? = null >= 0', 'upper width; null: epsilon, so that cispo caps every ratio at 0.2'],
      delta: ['number? = null > 1', 'cap of the ratio where A < 0, above the interval'],
      beta: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
      useBiasCorrectionKl: ['boolean = true', 'whether the KL is multiplied by the ratio, with gradient'],
      entropyCoef: ['number = 0 >= 0', 'factor of the entropy, a mean over tokens with every loss type'],
      maxCompletionLength: ['number = 512 > 0', 'constant of dr_grpo'],
      importanceSamplingMode: [
        'enum sequence_mask|sequence_truncate|token_mask|token_truncate|none',
        'correction for the inference engine, where the batch has rolloutLogp; sequence: by the product of ratios',
      ],
      importanceSamplingMin: ['number? = null >= 0', 'smallest weight of that correction'],
      importanceSamplingMax: ['number? = 3 > 0', 'largest weight of that correction; null: no bound'],
      offPolicyMaskThreshold: ['number? = null', 'rollouts with A < 0 that have drifted further are left out'],
      topEntropyQuantile: ['number = 1 0..1', 'share of the tokens with the highest entropy; 1 is all'],
      maskTruncated: ['boolean = false', 'whether truncated rollouts are masked: mask_truncated_completions'],
      ...constants,
    },
    example: { truncated: [0, 0, 0, 0, 0, 0, 0, 1] },
  },
  (options) => trlPoints('trl', options),
)
