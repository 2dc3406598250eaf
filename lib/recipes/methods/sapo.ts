import { recipe } from '../step/recipe.js'

export const sapo = recipe(
  {
    name: 'sapo',
    paper: { title: 'Soft Adaptive Policy Optimization', arxiv: '2511.20347' },
    source: 'code',
    unknown: 'The advantages: those of GRPO.',
    equation: `loss = mean over rollouts of the mean over tokens of -A (4 / tau) sigmoid(tau (r - 1))
tau = tauPositive where A > 0, else tauNegative; the gate of the gradient is 1 at r = 1 and never 0`,
    options: {
      tauPositive: ['number = 1 > 0', 'sharpness of the gate where A > 0'],
      tauNegative: ['number = 1.05 > 0', 'and elsewhere'],
    },
  },
  ({ tauPositive, tauNegative }) => ({
    objective: { surrogate: 'sapo', tauPositive, tauNegative, aggregate: 'sequence_mean' },
  }),
)
