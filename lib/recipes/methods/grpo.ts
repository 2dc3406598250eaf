import { recipe } from '../step/recipe.js'

export const grpo = recipe(
  {
    name: 'grpo',
    paper: { title: 'DeepSeekMath: Pushing the Limits of Mathematical Reasoning', arxiv: '2402.03300' },
    source: 'paper',
    unknown:
      'The clip range, and the divisor of the standard deviation: 0.2, and n - 1 with 1e-4 added, as TRL has them.',
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + eps)
loss = mean over rollouts of the mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3`,
    options: {
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      ddof: ['integer = 1 0..1', 'divisor n - ddof of its variance'],
      scale: ['enum group_std|batch_std|none', 'what the distance from the mean is divided by'],
      singleton: ['enum zero|raw', 'advantage of a group of one: 0, or the reward (verl)'],
    },
  },
  ({ clipLow, clipHigh, klCoef, ...advantages }) => ({
    advantages,
    objective: { clipLow, clipHigh, klCoef, aggregate: 'sequence_mean' },
  }),
)
