import { recipe } from '../step/recipe.js'

export const remax = recipe(
  {
    name: 'remax',
    paper: {
      title:
        'ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models',
      arxiv: '2310.10505',
    },
    source: 'code',
    unknown: `How the loss is averaged, and the KL to the reference: here the mean over rollouts of the policy gradient, and
none. A rejected rollout has advantage 0.`,
    equation: `A[i] = R[i] - R of the greedy rollout of its prompt
loss = mean over rollouts of -A[i] sum over tokens of logp`,
    columns: {
      greedyReward: 'number[G] the reward of the greedy rollout of each prompt, which is no rollout of the batch',
    },
    example: { greedyReward: [1, 0] },
  },
  () => ({
    advantages(c) {
      const advantage = new Float64Array(c.N)
      for (const { g, begin, end } of c.groups) {
        for (let i = begin; i < end; i++) {
          if (c.rolloutMask?.[i] !== 0) advantage[i] = (c.rewards[i] as number) - (c.columns.greedyReward[g] as number)
        }
      }
      return { advantage }
    },
    objective: { surrogate: 'reinforce', aggregate: 'sequence_sum' },
  }),
)
