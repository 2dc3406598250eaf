import { correctedWeights } from '../parts/corrections.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

const kl = { k1: 'k1', k2: 'k2', k3: 'k3', low_var_kl: 'k3' } as const

export const slime = recipe(
  {
    name: 'slime',
    paper: { title: 'slime, PPO utilities of 624b824' },
    source: 'code',
    unknown: 'What it adds to the standard deviation of a group: 1e-6, as verl has it.',
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-6)
loss = mean over rollouts of the mean over tokens of PPO's clipped surrogate + klLossCoef KL
Rollouts without tokens are in no mean over rollouts, but with countEmpty in the step's objective.`,
    options: {
      loss: ['enum clip|cispo', 'the clipped surrogate; or CISPO with the same interval, meant for epsClip >= 1'],
      calculatePerTokenLoss: ['boolean = false', 'the mean over all tokens instead'],
      epsClip: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsClipHigh: ['number? = null >= 0', 'upper width; null: epsClip'],
      epsClipC: ['number? = null > 1', 'dual clip'],
      klLossCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
      klLossType: ['enum k1|k2|k3|low_var_kl', 'its estimator; low_var_kl is k3 within ±10'],
      useUnbiasedKl: ['boolean = false', 'whether the KL is multiplied by the ratio'],
      entropyCoef: ['number = 0 >= 0', 'factor of the entropy'],
      useTis: ['boolean = false', 'importance weights of tokens for the inference engine, cut to [0, 2]'],
      opsmDelta: ['number? = null', 'off-policy mask of rollouts with A < 0; slime’s value, where it is on, is 1e-4'],
    },
  },
  (options) => {
    const { loss, epsClip, epsClipHigh, klLossType, useTis, opsmDelta } = options
    return {
      advantages: (c) => groupAdvantages(c, { eps: 1e-6 }),
      weights: (c) =>
        correctedWeights(c, {
          ...(useTis && { importance: { mode: 'token_truncate', low: 0, high: 2 } }),
          ...(opsmDelta !== null && { offPolicy: opsmDelta }),
        }),
      objective: {
        surrogate: loss,
        clipLow: epsClip,
        clipHigh: epsClipHigh ?? epsClip,
        dualClip: options.epsClipC,
        klCoef: options.klLossCoef,
        kl: kl[klLossType],
        klValueClamp: klLossType === 'low_var_kl' ? 10 : null,
        klWeight: options.useUnbiasedKl ? 'ratio' : 'none',
        entropyCoef: options.entropyCoef,
        aggregate: options.calculatePerTokenLoss ? 'token_mean' : 'sequence_mean',
      },
    }
  },
)
