import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const gpg = recipe(
  {
    name: 'gpg',
    paper: {
      title: 'GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning',
      arxiv: '2504.02546',
    },
    source: 'code',
    unknown: `Which rollouts the paper counts in alpha was not read: here those with a reward other than 0, as verl does, and
not those of groups without a gradient.`,
    equation: `A[i] = alpha (R[i] - mean(g)) / fNorm, alpha = rollouts / max(1, rollouts whose reward is not 0)
loss = mean over tokens of -A logp`,
    options: {
      fNorm: ['number = 1 > 0', 'divides the advantages'],
      singleton: ['enum zero|raw', 'a group of one has advantage 0; or alpha times its reward, as in verl'],
    },
  },
  ({ fNorm, singleton }) => ({
    advantages(c) {
      const valid = c.rewards.filter((_, i) => c.rolloutMask?.[i] !== 0)
      const alpha = valid.length / Math.max(1, valid.filter((reward) => reward !== 0).length)
      const { advantage } = groupAdvantages(c, { scale: 'none', singleton })
      return { advantage: Float64Array.from(advantage, (a) => (alpha * a) / fNorm) }
    },
    objective: { surrogate: 'reinforce', aggregate: 'token_mean' },
  }),
)
