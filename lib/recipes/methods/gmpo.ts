import { recipe } from '../step/recipe.js'

export const gmpo = recipe(
  {
    name: 'gmpo',
    paper: { title: 'Geometric-Mean Policy Optimization', arxiv: '2507.20673' },
    source: 'code',
    unknown: 'The advantages: those of GRPO.',
    equation: `d[t] = logp - oldLogp, cut at clipHigh from above where A > 0, at -clipLow from below where A < 0
loss = mean over rollouts of -A exp(mean over tokens of d); a cut token gets no gradient`,
    options: {
      clipLow: ['number = 0.4 >= 0', 'lower width, in log-ratios; verl has 0.2'],
      clipHigh: ['number = 0.4 >= 0', 'upper width, in log-ratios; verl has 0.2'],
    },
  },
  ({ clipLow, clipHigh }) => ({ objective: { ratio: 'geometric', clipLow, clipHigh, aggregate: 'sequence_mean' } }),
)
