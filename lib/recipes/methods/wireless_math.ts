import { recipe } from '../step/recipe.js'

export const wirelessMath = recipe(
  {
    name: 'wirelessMath',
    paper: {
      title:
        'WirelessMathLM: Teaching Mathematical Reasoning for LLMs in Wireless Communications with Reinforcement Learning',
      arxiv: '2509.23219',
    },
    source: 'inferred',
    unknown:
      'All but GRPO on a binary reward: no group size, clip range, KL factor or eps was found, so these are GRPO’s.',
    equation: `R[i] = correct[i],   A[i] = (R[i] - mean(g)) / (std(g) + eps)
with p = mean(g):  A = (1 - p) / (std + eps) or -p / (std + eps),  std = sqrt(p (1 - p) n / (n - 1));  0 if all agree`,
    columns: { correct: 'flag[N] whether the verifier accepts the answer' },
    options: {
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      clip: ['number = 0.2 >= 0', 'half width of the clip interval'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { correct: [1, 0, 1, 0, 0, 1, 0, 0] },
  },
  ({ eps, clip, klCoef }) => ({
    rewards: (c) => Float64Array.from(c.columns.correct),
    advantages: { eps },
    objective: { clipLow: clip, clipHigh: clip, klCoef, aggregate: 'sequence_mean' },
  }),
)
