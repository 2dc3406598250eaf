import { correctedWeights } from '../parts/corrections.js'
import { type Context, extended } from '../step/context.js'
import { recipe, type Weights } from '../step/recipe.js'

/** The off-policy mask looks at oldLogp alone, whatever the inference engine reported; without it nothing has drifted. */
function onPolicy(c: Context, threshold: number): Weights {
  const oldLogp = c.has('oldLogp') ? c.oldLogp : c.logp
  const sampled = extended(c, { oldLogp, has: (name) => name !== 'rolloutLogp' && c.has(name) })
  return correctedWeights(sampled, { offPolicy: threshold })
}

const kl = { k1: 'k1', k2: 'k2', k3: 'k3', low_var_kl: 'k3' } as const

export const slime = recipe(
  {
    name: 'slime',
    paper: { title: 'slime, losses of 0.3.1' },
    source: 'code',
    reads: ({ useTis, opsmDelta }: { useTis: boolean; opsmDelta: number | null }) => ({
      update: [
        ...(useTis && opsmDelta !== null ? ['rolloutLogp'] : []),
        ...(opsmDelta === null ? [] : ['mask', 'oldLogp', 'logp']),
      ],
    }),
    unknown: `With calculatePerTokenLoss slime counts a rollout without tokens as one token: here as none. Logs of importance
weights are within ±20 here.`,
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-6)
loss = mean over rollouts of the mean over tokens of PPO's clipped surrogate + klLossCoef KL
Rollouts without tokens count among the rollouts.`,
    options: {
      loss: [
        'enum clip|cispo|gspo',
        'the clipped surrogate; CISPO with the same interval, meant for epsClip >= 1; or the ratio of the rollout',
      ],
      grpoStdNormalization: ['boolean = true', 'whether advantages are divided by the standard deviation'],
      calculatePerTokenLoss: ['boolean = false', 'the mean over all tokens instead'],
      epsClip: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsClipHigh: ['number? = null >= 0', 'upper width; null: epsClip'],
      epsClipC: ['number? = null > 1', 'dual clip; not of cispo'],
      klLossCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
      klLossType: ['enum k1|k2|k3|low_var_kl', 'its estimator; low_var_kl is k3, times its factor within ±10'],
      useUnbiasedKl: ['boolean = false', 'whether the KL is multiplied by the token’s own ratio, with gradient'],
      entropyCoef: ['number = 0 >= 0', 'factor of the entropy'],
      useTis: ['boolean = false', 'importance weights of tokens for the inference engine'],
      tisClipLow: ['number = 0 >= 0', 'smallest of these weights'],
      tisClip: ['number = 2 > 0', 'largest'],
      opsmDelta: ['number? = null', 'off-policy mask of rollouts with A < 0; slime’s value, where it is on, is 1e-4'],
    },
  },
  (options) => {
    const { loss, epsClip, epsClipHigh, klLossType, useTis, tisClipLow: low, tisClip: high, opsmDelta } = options
    const scale = options.grpoStdNormalization ? 'group_std' : 'none'
    return {
      advantages: { scale, eps: 1e-6 },
      weights(c) {
        const kept = opsmDelta === null ? {} : onPolicy(c, opsmDelta)
        return useTis ? correctedWeights(c, { importance: { mode: 'token_truncate', low, high } }, kept) : kept
      },
      objective: {
        surrogate: loss === 'cispo' ? 'cispo' : 'clip',
        ratio: loss === 'gspo' ? 'sequence' : 'token',
        clipLow: epsClip,
        clipHigh: epsClipHigh ?? epsClip,
        dualClip: loss === 'cispo' ? null : options.epsClipC,
        klCoef: options.klLossCoef,
        kl: kl[klLossType],
        klWeight: options.useUnbiasedKl ? 'token_ratio' : 'none',
        klTermClamp: klLossType === 'low_var_kl' ? 10 : null,
        entropyCoef: options.entropyCoef,
        aggregate: options.calculatePerTokenLoss ? 'token_mean' : 'sequence_mean',
        countEmpty: true,
      },
    }
  },
)
