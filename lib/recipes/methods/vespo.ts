import { known, sampledLogp } from '../parts/known.js'
import { float32Map } from '../parts/map_tokens.js'
import { oncePerSample } from '../parts/once_per_batch.js'
import { recipe } from '../step/recipe.js'

export const vespo = recipe(
  {
    name: 'vespo',
    paper: {
      title: 'VESPO: Variational Sequence-Level Soft Policy Optimization for Stable Off-Policy LLM Training',
      arxiv: '2602.10693',
    },
    source: 'code',
    reads: ({ correction }: { correction: string | null }) =>
      correction?.startsWith('token') ? { update: ['mask', 'oldLogp', 'rolloutLogp'] } : {},
    unknown:
      'The advantages: those of GRPO, as TRL has them. TRL clamps the two log-ratios one by one, here their sum is.',
    equation: `W[i] = exp(sum over the tokens of rollout i of (logp - oldLogp)), each and the sum clamped
phi[i] = W^power exp(decay (1 - W)), (power, decay) = (powerPositive, decayPositive) where A >= 0, else the other pair
loss = mean over tokens of -sg[phi] A logp
With a correction, the log of the token's importance weight exp(oldLogp - rolloutLogp) is added to logp - oldLogp.`,
    options: {
      powerPositive: ['number = 2 >= 0', 'power of W where A >= 0'],
      decayPositive: ['number = 3 >= 0.0001', 'decay in W where A >= 0'],
      powerNegative: ['number = 3 >= 0', 'power of W elsewhere'],
      decayNegative: ['number = 2 >= 0.0001', 'decay in W elsewhere'],
      correction: [
        'enum none|token_truncate|token_mask',
        'of the weights of tokens that enter W; TRL: token_truncate or token_mask',
      ],
      cap: ['number = 3 > 0', 'largest weight: what is above is cut to it, or its token masked, which leaves 1e-8'],
    },
  },
  ({ correction, cap, ...constants }) => {
    const { powerPositive, decayPositive, powerNegative, decayNegative } = constants
    return {
      weights(c) {
        if (correction === 'none') return {}
        const corrected = () => {
          const rolloutLogp = known(c, 'rolloutLogp')
          return float32Map(sampledLogp(c), (old, t) => {
            const weight = Math.exp(old - (rolloutLogp[t] as number))
            const counted = weight <= cap ? weight : correction === 'token_mask' ? 0 : cap
            return old - Math.log(Math.max(counted, 1e-8))
          })
        }
        return { oldLogp: oncePerSample(c, `vespo ${correction} ${cap}`, corrected) }
      },
      objective: {
        surrogate: 'vespo',
        ratio: 'sequence_product',
        powerPositive,
        decayPositive,
        powerNegative,
        decayNegative,
      },
    }
  },
)
