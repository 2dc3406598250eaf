import { recipe } from '../step/recipe.js'

export const drGrpo = recipe(
  {
    name: 'drGrpo',
    paper: { title: 'Understanding R1-Zero-Like Training: A Critical Perspective', arxiv: '2503.20783' },
    source: 'code',
    unknown: `The constant of the loss belongs to the run: 512 is TRL's default. verl divides by the padded length of the batch
instead, which is no constant.`,
    equation: `A[i] = R[i] - mean(g), a group of one 0
loss = sum over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) / (rollouts × maxLength), empty ones counted`,
    options: {
      maxLength: ['number = 512 > 0', 'most tokens that a rollout may have, not the longest of the batch'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      singleton: ['enum zero|raw', 'what a group of one gets: 0, as in TRL, or its reward, as in verl'],
    },
  },
  ({ maxLength, clipLow, clipHigh, singleton }) => ({
    advantages: { scale: 'none', singleton },
    objective: { clipLow, clipHigh, aggregate: 'constant', maxLength, countEmpty: true },
  }),
)
