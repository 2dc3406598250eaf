import { discountedSum } from '../../discounted_sum.js'
import { tokenRewards, whitened } from '../parts/tokens.js'
import { masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const ppo = recipe(
  {
    name: 'ppo',
    paper: { title: 'Proximal Policy Optimization Algorithms', arxiv: '1707.06347' },
    source: 'code',
    reads: ({ klCoef }: { klCoef: number }) => ({
      step: ['mask', 'values', ...(klCoef === 0 ? [] : ['oldLogp', 'refLogp'])],
    }),
    unknown: `gamma and lambda for language models: 1 and 0.95 are common; verl has 1 and 1. The loss of the critic is the
trainer's; its targets are the advantages with whiten false, plus the values.`,
    equation: `reward[t] = -klCoef (oldLogp - refLogp), and R[i] more at the last token of rollout i
delta[t] = reward[t] + gamma values[t+1] - values[t], A[t] = delta[t] + gamma lambda A[t+1]
t+1 the next unmasked token of the rollout, 0 after the last; then A = (A - mean) / sqrt(var + 1e-8) over all tokens
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)`,
    columns: { values: 'f32[T] what the critic expects of the rest of the rollout, before each token' },
    options: {
      gamma: ['number = 1 0..1', 'discount of rewards'],
      lambda: ['number = 0.95 0..1', 'decay of the generalized advantage: 0 one step, 1 the whole return'],
      klCoef: ['number = 0 >= 0', 'factor of the KL in the rewards; 0 needs neither oldLogp nor refLogp for it'],
      whiten: ['boolean = true', 'false: advantages in the unit of the rewards'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
    example: { values: [0.5, 0.7, 0.3, 0.4, 0.8, 0.2, 0.1, 0.6, 0.9, 0.3, 0.2, 0.1] },
  },
  ({ gamma, lambda, klCoef, whiten, clipLow, clipHigh }) => ({
    advantages(c) {
      const { sequenceStart } = c
      const { values } = c.columns
      const mask = masked(c, c.rolloutMask, undefined)
      const delta = tokenRewards(c, c.rewards, klCoef)
      for (let i = 0; i < c.N; i++) {
        let next = 0
        for (let t = (sequenceStart[i + 1] as number) - 1; t >= (sequenceStart[i] as number); t--) {
          if (mask?.[t] === 0) continue
          delta[t] = (delta[t] as number) + gamma * next - (values[t] as number)
          next = values[t] as number
        }
      }
      const x = discountedSum({ x: delta, sequenceStart, mask }, { decay: gamma * lambda }).x.data
      if (!whiten) return { tokenAdvantage: x }
      return { tokenAdvantage: whitened(x, mask) }
    },
    objective: { clipLow, clipHigh, aggregate: 'token_mean' },
  }),
)
