import { recipe } from '../step/recipe.js'

export const cispo = recipe(
  {
    name: 'cispo',
    paper: { title: 'MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention', arxiv: '2506.13585' },
    source: 'code',
    unknown: 'The cap: the paper gives no number; 5 is what ScaleRL and the documentation of TRL use.',
    equation: `loss = mean over tokens of -sg[r'] A logp, so that no token is left without gradient
r' = min(r, cap);   with bound 'interval': clip(r, 1 - clipLow, 1 + clipHigh)`,
    options: {
      bound: [
        'enum cap|interval',
        'the ratio capped from above, as in the paper and TRL; or verl’s and slime’s interval',
      ],
      cap: [
        'number = 5 > 0',
        'largest ratio, for the bound cap. TRL’s own default is 0.2, which scales every gradient',
      ],
      clipLow: ['number = 0.2 >= 0', 'lower width, for the bound interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width, for the bound interval'],
    },
  },
  ({ bound, cap, clipLow, clipHigh }) => ({
    objective: {
      surrogate: 'cispo',
      ...(bound === 'cap' ? { clipLow: null, clipHigh: cap - 1 } : { clipLow, clipHigh }),
    },
  }),
)
