import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const ngrpo = recipe(
  {
    name: 'ngrpo',
    paper: { title: 'NGRPO: Negative-enhanced Group Relative Policy Optimization', arxiv: '2509.18851' },
    source: 'code',
    reads: { step: ['mask'] },
    unknown:
      'Whether the paper clips by the sign of the advantage beyond what one interval does: the released code has one.',
    equation: `E = rewards of the group and virtualCount times maxReward
A[i] = (R[i] - mean(E)) / (std(E) + eps)
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) - entropyCoef entropy
A group of one has A = R / (1 + eps). Groups with every reward at maxReward are left out.`,
    options: {
      maxReward: ['number = 1', 'the best reward there is, that of the virtual rollouts'],
      virtualCount: ['integer = 1 >= 0', 'how many virtual rollouts enter the statistics of a group'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.16 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.24 >= 0', 'upper width'],
      entropyCoef: ['number = 0.001', 'factor of the entropy bonus; 0 needs no entropy'],
      filter: ['boolean = true', 'false: groups that are all correct stay in the batch, with their advantages'],
    },
  },
  ({ maxReward, virtualCount, eps, clipLow, clipHigh, entropyCoef, filter }) => {
    /** The groups in which every rollout that is not rejected has the best reward, and there is one. */
    const allCorrect = (c: Context) =>
      c.groups.filter(({ begin, end }) => {
        const rewards = c.rewards.subarray(begin, end).filter((_, k) => c.rolloutMask?.[begin + k] !== 0)
        return rewards.length > 0 && rewards.every((r) => r >= maxReward)
      })
    return {
      advantages: { eps, virtualCount, virtualReward: maxReward, singleton: 'raw' },
      select(c) {
        const rollouts = new Uint8Array(c.N).fill(1)
        if (filter && c.has('rewards')) for (const { begin, end } of allCorrect(c)) rollouts.fill(0, begin, end)
        return { rollouts }
      },
      objective: { clipLow, clipHigh, entropyCoef },
      sample: {
        /** The groups that were left out, and that the batch is refilled for. */
        next: (c) => ({ refill: filter && c.has('rewards') ? allCorrect(c).map(({ g }) => g) : [] }),
      },
    }
  },
)
