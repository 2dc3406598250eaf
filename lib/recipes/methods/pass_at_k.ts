import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { at, descending, standardDeviation } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

export const passAtK = recipe(
  {
    name: 'passAtK',
    paper: {
      title: 'Optimizing Language Models for Inference Time Objectives using Reinforcement Learning',
      arxiv: '2503.19595',
    },
    source: 'code',
    unknown: `The estimator of verl (grpo_passk), k being the size of the group; its loss is GRPO's, averaged over tokens. A
group of which rejections leave fewer than two has advantages 0.`,
    equation: `A[best of the group] = (R[best] - R[second best]) / (std(g) + eps), 0 for a tie
A = 0 for the others
loss = mean over tokens of -min(r A, clip(r) A)`,
    options: {
      scale: ['boolean = true', 'false: no division by the standard deviation'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation, whose divisor is n - 1'],
    },
  },
  ({ scale, eps }) => ({
    advantages(c) {
      const advantage = new Float64Array(c.N)
      for (const [g, group] of members(c).entries()) {
        if ((c.groupStart[g + 1] as number) - (c.groupStart[g] as number) === 1) {
          throw grpoError('value', 'passAtK', 'groupStart', `has 1 rollout in group ${g}, expected at least 2: the best is compared with the second`) // biome-ignore format: one text
        }
        if (group.length < 2) continue
        const rewards = at(c.rewards, group)
        const [best, second] = descending(rewards) as [number, number]
        const gap = (rewards[best] as number) - (rewards[second] as number)
        if (gap > 0) advantage[group[best] as number] = gap / (scale ? standardDeviation(rewards, 1) + eps : 1)
      }
      return { advantage }
    },
  }),
)
