import { recipe } from '../step/recipe.js'

export const posteriorGrpo = recipe(
  {
    name: 'posteriorGrpo',
    paper: { title: 'ReCode: Reinforcing Code Generation with Reasoning-Process Rewards', arxiv: '2508.05170' },
    source: 'third-party',
    unknown: `Whether the process reward has a weight, eps, the upper clip width, and the aggregation: 1, 1e-6, 0.28 as
in DAPO, and GRPO's.`,
    equation: `R[i] = format[i] + correct[i] + correct[i] processWeight process[i]
A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one, and where nothing differs
loss = GRPO's with clipHigh above clipLow and without a KL`,
    columns: {
      format: 'flag[N] whether the think and answer tags are well formed',
      correct: 'flag[N] whether all tests pass',
      process: 'number[N] score of the reasoning from 0 to 1; read where the rollout is correct',
    },
    options: {
      processWeight: ['number = 1 >= 0', 'factor of the process reward; one text mentions 0.5'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
    },
    example: {
      format: [1, 1, 1, 0, 1, 1, 1, 1],
      correct: [1, 0, 1, 0, 0, 1, 0, 0],
      process: [0.9, 0.4, 0.5, 0.2, 0.3, 0.8, 0.6, 0.1],
    },
  },
  ({ processWeight, eps, clipLow, clipHigh }) => ({
    rewards: ({ columns: { format, correct, process } }) =>
      process.map((p, i) => (format[i] as number) + (correct[i] ? 1 + processWeight * p : 0)),
    advantages: { eps },
    objective: { clipLow, clipHigh, aggregate: 'sequence_mean' },
  }),
)
