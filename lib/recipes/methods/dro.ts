import { recipe } from '../step/recipe.js'

export const dro = recipe(
  {
    name: 'dro',
    paper: {
      title: 'Offline Regularised Reinforcement Learning for Large Language Models Alignment',
      arxiv: '2405.19107',
    },
    source: 'code',
    unknown:
      'beta: verl asks for one and has no default; 0.05 is ours. The advantages: those of GRPO, not a learned value.',
    equation: 'loss = mean over tokens of -(A logp - beta / 2 (logp - oldLogp)^2)',
    options: {
      beta: ['number = 0.05 > 0', 'factor of the squared log-ratio'],
    },
  },
  ({ beta }) => ({
    // Asked for: an objective without oldLogp takes the log-ratio to be 0, and the penalty would be gone.
    weights: (c) => ({ oldLogp: c.at('oldLogp') }),
    objective: { surrogate: 'dro', droBeta: beta },
  }),
)
