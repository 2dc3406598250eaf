import { recipe } from '../step/recipe.js'

export const bnpo = recipe(
  {
    name: 'bnpo',
    paper: { title: 'TRL, GRPOTrainer with loss_type "bnpo"' },
    source: 'code',
    unknown: `It has no paper: Beta Normalization Policy Optimization is another method. TRL divides by the steps of gradient
accumulation as well, which is the trainer's.`,
    equation: `A[i] = (R[i] - mean(g)) / (std + eps), std of the group, of the batch, or no division
loss = mean over the tokens of this micro-batch of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3`,
    options: {
      scale: ['enum group_std|batch_std|none', 'TRL’s scale_rewards: which standard deviation divides'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
  },
  ({ scale, eps, clipLow, clipHigh, klCoef }) => ({
    advantages: { scale, eps },
    objective: { clipLow, clipHigh, klCoef, aggregate: 'token_mean' },
  }),
)
