import { grpoError } from '../../addon/errors.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const maxRl = recipe(
  {
    name: 'maxRl',
    paper: { title: 'Maximum Likelihood Reinforcement Learning', arxiv: '2602.02710' },
    source: 'code',
    unknown: `The loss: GRPO's, averaged over tokens. A group of one has advantage 0; the released code gives it its reward
divided by eps.`,
    equation: `A[i] = (R[i] - mean(g)) / (mean(g) + eps), 0 where all rewards are 0
loss = mean over tokens of -min(r A, clip(r) A)`,
    options: { eps: ['number = 0.000001 > 0', 'added to the mean'] },
  },
  ({ eps }) => ({
    advantages(c) {
      const negative = c.rewards.findIndex((reward, i) => reward < 0 && c.rolloutMask?.[i] !== 0)
      if (negative >= 0) {
        throw grpoError('value', 'maxRl', 'rewards', `has ${c.rewards[negative]} at ${negative}, expected at least 0: their mean divides`) // biome-ignore format: one text
      }
      return groupAdvantages(c, { scale: 'mean', eps })
    },
  }),
)
