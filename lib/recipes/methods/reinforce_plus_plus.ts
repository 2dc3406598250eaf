import { discountedSum } from '../../discounted_sum.js'
import { moments } from '../../moments.js'
import { standardize } from '../../standardize.js'
import { tokenRewards } from '../parts/tokens.js'
import { groupAdvantages, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const reinforcePlusPlus = recipe(
  {
    name: 'reinforcePlusPlus',
    paper: {
      title: 'REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Normalization',
      arxiv: '2501.03262',
    },
    source: 'code',
    reads: ({ klCoef }: { klCoef: number }) => ({ step: ['mask', ...(klCoef === 0 ? [] : ['oldLogp', 'refLogp'])] }),
    unknown: `The KL coefficient: 0.01, as in OpenRLHF. No token, or one, has advantage 0, where verl raises an error.`,
    equation: `R'[i] = R[i]; with baseline R[i] - mean(g), a group of one its reward
reward[t] = -klCoef (oldLogp - refLogp), and R'[i] more at the last token of rollout i
G[t] = reward[t] + gamma G[t+1] over the unmasked tokens of the rollout
A = (G - mean) / sqrt(var + 1e-8), mean and var with divisor n - 1 over all tokens of the batch
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)`,
    options: {
      baseline: ['boolean = false', 'true: REINFORCE++-baseline, for several rollouts of a prompt'],
      gamma: ['number = 1 0..1', 'discount of rewards'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL in the rewards; 0 needs neither oldLogp nor refLogp for it'],
      whiten: [
        'enum verl|openrlhf|center',
        'as above; or divided by sqrt(max(var, 1e-8)), var with divisor n; or the mean subtracted only (no_std_norm)',
      ],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
  },
  ({ baseline, gamma, klCoef, whiten, clipLow, clipHigh }) => ({
    advantages(c) {
      const { sequenceStart } = c
      const mask = masked(c, c.rolloutMask, undefined)
      const rewards = baseline ? groupAdvantages(c, { scale: 'none', singleton: 'raw' }).advantage : c.rewards
      const x = discountedSum({ x: tokenRewards(c, rewards, klCoef), sequenceStart, mask }, { decay: gamma }).x.data
      const { count, mean, m2 } = moments({ x, mask })
      const options = {
        verl: { moments: { count, mean, m2 }, epsUnderRoot: true },
        openrlhf: { moments: { count, mean, m2: Math.max(m2, 1e-8 * count) }, ddof: 0, eps: 0 },
        center: { moments: { count, mean, m2: 0 } }, // a deviation of 0 divides nothing
      }[whiten]
      return { tokenAdvantage: standardize({ x, mask }, options).x.data }
    },
    objective: { clipLow, clipHigh, aggregate: 'token_mean' },
  }),
)
