import { recipe } from '../step/recipe.js'

export const nemoGrpo = recipe(
  {
    name: 'nemoGrpo',
    paper: { title: 'NeMo-RL, GRPO' },
    source: 'code',
    unknown: `The standard deviation of the others needs three rollouts. Of two it counts as 0, so that nothing divides: A is the
difference of the rewards. A group of one has advantage 0. Where the KL is clamped, at 10, NeMo-RL's gradient of it is not x.`,
    equation: `A[i] = (R[i] - mean of the others) / (std of the others + eps), without division where that std is 0
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3,
x = logp - refLogp the gradient of the KL: that of k3 and of its probability together`,
    options: {
      leaveOneOut: ['boolean = true', 'false: mean and standard deviation of the whole group'],
      normalize: ['boolean = true', 'false: no division'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      dualClip: ['number? = null > 1', 'ratio_clip_c: where A < 0 a token’s loss is at most -dualClip A'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
  },
  ({ leaveOneOut, normalize, eps, clipLow, clipHigh, dualClip, klCoef }) => ({
    advantages: {
      center: leaveOneOut ? 'leave_one_out' : 'mean',
      scale: !normalize ? 'none' : leaveOneOut ? 'leave_one_out_std' : 'group_std',
      eps,
    },
    objective: { clipLow, clipHigh, dualClip, klCoef, klGradient: 'k2', klClamp: 20, klValueClamp: 10 },
  }),
)
