import { sequenceSum } from '../../sequence_sum.js'
import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

export const unlikeliness = recipe(
  {
    name: 'unlikeliness',
    paper: { title: 'Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening', arxiv: '2506.02355' },
    source: 'code',
    reads: { step: ['mask', 'oldLogp'] },
    unknown: `The code ranks by the mean over tokens, where the paper is reported to rank by the probability of the
sequence. Ties are broken arbitrarily there, here by the order in the group.`,
    equation: `key[i] = mean of oldLogp over the unmasked tokens of rollout i, 0 without tokens
rank[i] = number of rollouts of the group with a smaller key, 0 for the least likely
R'[i] = R[i] (1 - betaRank rank[i] / n(g))
A[i] = (R'[i] - mean(g)) / (std(g) + eps); R' / (1 + eps) in a group of one
dropUniform: a group in which all or none of the rewards are above 0 leaves the loss`,
    options: {
      betaRank: ['number = 0.25 0..1', 'the most likely rollout loses this share of its reward, times (n - 1) / n'],
      key: ['enum mean|sum', 'log-probability of a rollout per token, as in the code; or of the whole'],
      dropUniform: ['boolean = true', 'groups that are all right or all wrong are left out, as in the released script'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.1 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
  },
  ({ betaRank, key, dropUniform, eps, clipLow, clipHigh, klCoef }) => ({
    rewards(c) {
      const { oldLogp: x, sequenceStart, mask } = c
      const keys = sequenceSum({ x, sequenceStart, mask }, { mean: key === 'mean' }).x.data
      const reward = c.rewards.slice()
      for (const places of members(c)) {
        const ascending = [...places].sort((i, j) => (keys[i] as number) - (keys[j] as number) || i - j)
        ascending.forEach((i, rank) => {
          reward[i] = (c.rewards[i] as number) * (1 - (betaRank * rank) / places.length)
        })
      }
      return reward
    },
    advantages: { eps, singleton: 'raw' },
    select(c) {
      // Without rewards, for a batch that brings its advantages, no group is known to be uniform.
      if (!dropUniform || !c.has('rewards')) return {}
      const rollouts = new Uint8Array(c.N)
      for (const places of members(c)) {
        const successes = places.filter((i) => (c.rewards[i] as number) > 0).length
        if (successes > 0 && successes < places.length) for (const i of places) rollouts[i] = 1
      }
      return { rollouts }
    },
    objective: { clipLow, clipHigh, klCoef },
  }),
)
