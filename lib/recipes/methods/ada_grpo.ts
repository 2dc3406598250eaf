import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

export const adaGrpo = recipe(
  {
    name: 'adaGrpo',
    paper: { title: 'ARM: Adaptive Reasoning Model', arxiv: '2505.20258' },
    source: 'code',
    unknown: 'The paper’s form of alpha was not read; it is recalled to be the same. The code takes no ragged groups.',
    equation: `F[i] = number of rollouts of the group in the format of rollout i, n = all of them
alpha[i] = 1 + (n / F[i] - 1) (1 + cos(pi t / T)) / 2
R'[i] = alpha[i] R[i]
A[i] = (R'[i] - mean(g)) / (std(g) + eps); R' / (1 + eps) in a group of one`,
    columns: {
      format: 'id[N] names the reasoning format of each rollout; unknown, with reward 0, if it has none',
      progress: 'number the current step over all steps, from 0 to 1',
    },
    options: {
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      clip: ['number = 0.2 >= 0', 'half width of the clip interval'],
      klCoef: ['number = 0.001 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { format: ['long', 'long', 'short', 'long', 'direct', 'code', 'long', 'unknown'], progress: 0.25 },
  },
  ({ eps, clip, klCoef }) => ({
    rewards(c) {
      const { format, progress } = c.columns
      if (!(progress >= 0 && progress <= 1)) {
        throw grpoError('value', c.method, 'progress', `is ${progress}, expected a number from 0 to 1`)
      }
      const reward = new Float64Array(c.N)
      const decay = 0.5 * (1 + Math.cos(Math.PI * progress))
      for (const places of members(c)) {
        for (const i of places) {
          const raw = c.rewards[i] as number
          if (format[i] === 'unknown' && raw !== 0) {
            throw grpoError('value', c.method, 'rewards', `has ${raw} at ${i}, expected 0 where the format is unknown`)
          }
          const same = places.filter((j) => format[j] === format[i]).length
          reward[i] = raw * (1 + (places.length / same - 1) * decay)
        }
      }
      return reward
    },
    advantages: { eps, singleton: 'raw' },
    objective: { clipLow: clip, clipHigh: clip, klCoef },
  }),
)
