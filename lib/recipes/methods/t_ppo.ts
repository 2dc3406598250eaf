import { discountedSum } from '../../discounted_sum.js'
import { tokenRewards } from '../parts/tokens.js'
import { masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const tPpo = recipe(
  {
    name: 'tPpo',
    paper: { title: 'Truncated Proximal Policy Optimization', arxiv: '2506.15050' },
    source: 'third-party',
    reads: { step: ['mask', 'values', 'window'] },
    unknown: `gamma, lambda and the clip interval: 1, 0.95 and 0.2 are our choice. That tokens of earlier windows leave the
policy loss, and that the value network learns Monte-Carlo returns, is inferred.`,
    equation: `delta[t] = r[t] + gamma V[t+1] - V[t],   V after the last token: 0 if finished, V of the last token if truncated
A[t] = sum over k of (gamma lambda)^k delta[t+k],   r the reward at the last token, else 0
loss = mean over tokens of -min(ratio A, clip(ratio, 1 - clipLow, 1 + clipHigh) A)
value: the finished rollouts alone, target = sum over k of gamma^k r[t+k]`,
    columns: {
      values: 'f32[T] what the critic expects of the rest of the rollout, before each token',
      truncated: 'flag[N] 1 = the rollout was cut off at the end of the window and will be continued',
      window: 'flag[T]? 1 = sampled in this window; earlier tokens count in A, but do not enter the policy loss again',
    },
    options: {
      gamma: ['number = 1 0..1', 'discount of rewards'],
      lambda: ['number = 0.95 0..1', 'discount of residuals'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
    example: {
      values: [0.5, 0.6, 0.1, 0.7, 0.9, 0.2, 0.3, 0.8, 0.4, 0.1, 0.2, 0.3],
      truncated: [0, 0, 0, 1, 0, 0, 1, 0],
    },
  },
  ({ gamma, lambda, clipLow, clipHigh }) => ({
    advantages(c) {
      const { sequenceStart } = c
      const { values, truncated } = c.columns
      const mask = masked(c, c.rolloutMask, undefined)
      const delta = tokenRewards(c, c.rewards, 0)
      for (let i = 0; i < c.N; i++) {
        let next = truncated[i] ? undefined : 0
        for (let t = (sequenceStart[i + 1] as number) - 1; t >= (sequenceStart[i] as number); t--) {
          if (mask?.[t] === 0) continue
          const own = values[t] as number
          delta[t] = (delta[t] as number) + gamma * (next ?? own) - own
          next = own
        }
      }
      return { tokenAdvantage: discountedSum({ x: delta, sequenceStart, mask }, { decay: gamma * lambda }).x.data }
    },
    weights: (c) => ({ mask: c.columns.window }),
    objective: { clipLow, clipHigh },
    sample: {
      /**
       * The rollouts to continue in the next window, and what the value network learns from this one: no target without
       * rewards, in a batch that brings its own advantages.
       */
      next(c) {
        const finished = c.columns.truncated.map((cut, i) => (cut || c.rolloutMask?.[i] === 0 ? 0 : 1))
        const carryOver = Array.from(finished.keys()).filter((i) => c.columns.truncated[i] === 1)
        const valueMask = masked(c, finished, undefined)
        const returns = () => {
          const inputs = { x: tokenRewards(c, c.rewards, 0), sequenceStart: c.sequenceStart, mask: valueMask }
          return discountedSum(inputs, { decay: gamma }).x.data
        }
        return { carryOver, valueMask, valueTarget: c.has('rewards') ? returns() : undefined }
      },
    },
  }),
)
