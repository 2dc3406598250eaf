import { recipe } from '../step/recipe.js'

const paper = { title: 'Group Sequence Policy Optimization', arxiv: '2507.18071' }

export const gspo = recipe(
  {
    name: 'gspo',
    paper,
    source: 'code',
    unknown: 'The advantages: those of GRPO, as the trainers have them. verl caps log s at 10, which is not done here.',
    equation: `s[i] = exp(mean over the tokens of rollout i of (logp - oldLogp))
loss = mean over rollouts of -min(s A, clip(s, 1 - clipLow, 1 + clipHigh) A), with gradient to all tokens of i`,
    options: {
      clipLow: ['number = 0.0003 >= 0', 'lower width of the clip interval of s, far closer to 1 than token ratios'],
      clipHigh: ['number = 0.0004 >= 0', 'upper width'],
      aggregate: [
        'enum sequence_mean|token_mean',
        'the paper’s; or by length, as TRL does beside its default loss dapo',
      ],
    },
  },
  ({ clipLow, clipHigh, aggregate }) => ({ objective: { ratio: 'sequence', clipLow, clipHigh, aggregate } }),
)

export const gspoToken = recipe(
  {
    name: 'gspoToken',
    paper,
    source: 'code',
    unknown:
      'The advantages: those of GRPO, unless the batch brings one per token. verl caps log s at 10, not done here.',
    equation: `s[i,t] = sg[s[i]] exp(logp - sg[logp]), s[i] as in GSPO
loss = mean over rollouts of the mean over tokens of -min(s A[i,t], clip(s, 1 - clipLow, 1 + clipHigh) A[i,t])`,
    options: {
      clipLow: ['number = 0.0003 >= 0', 'lower width of the clip interval of s'],
      clipHigh: ['number = 0.0004 >= 0', 'upper width'],
    },
  },
  ({ clipLow, clipHigh }) => ({
    objective: { ratio: 'sequence_token', clipLow, clipHigh, aggregate: 'sequence_mean' },
  }),
)

export const luspo = recipe(
  {
    name: 'luspo',
    paper: { title: 'Length-Unbiased Sequence Policy Optimization', arxiv: '2602.05261' },
    source: 'code',
    unknown: 'The advantages: those of GRPO, as TRL has them.',
    equation: `loss = mean over rollouts of n[i] times GSPO's loss of rollout i, n[i] its tokens`,
    options: {
      clipLow: ['number = 0.002 >= 0', 'lower width of the clip interval of s'],
      clipHigh: ['number = 0.0025 >= 0', 'upper width'],
    },
  },
  ({ clipLow, clipHigh }) => ({ objective: { ratio: 'sequence', clipLow, clipHigh, aggregate: 'sequence_sum' } }),
)
