import { members } from '../parts/members.js'
import { at, descending, mean, standardDeviation } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))

export const grpoLambda = recipe(
  {
    name: 'grpoLambda',
    paper: { title: 'Stable Reinforcement Learning for Efficient Reasoning', arxiv: '2505.18086' },
    source: 'third-party',
    reads: { step: ['mask'] },
    unknown: `The value of alpha, the divisor of the standard deviation of lengths, eps, ties at the cut, and the loss:
0.6 and n as in a third-party implementation, 1e-6, the earlier group, and GRPO's.`,
    equation: `accuracy of a group = mean of correct; the max(1, ceil(lambda G)) groups with the highest are efficient
R[i] = 1 - alpha sigmoid((L[i] - mean(L)) / std(L)) if correct, 0 if wrong, in an efficient group; mean and std run over
       its correct rollouts, and std = 0 gives sigmoid(0)
R[i] = correct[i] in every other group
A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one`,
    columns: { correct: 'flag[N] whether the answer is right' },
    options: {
      lambda: ['number = 0.2 0..1', 'fraction of the groups of the batch whose length is rewarded'],
      alpha: ['number = 0.6 >= 0', 'weight of the length'],
      lengthDdof: ['integer = 0 0..1', 'the standard deviation of lengths divides by n - lengthDdof'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation of rewards'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { correct: [1, 0, 1, 0, 0, 1, 0, 0] },
  },
  ({ lambda, alpha, lengthDdof, eps, klCoef }) => ({
    rewards(c) {
      const { correct } = c.columns
      const reward = Float64Array.from(correct)
      const groups = members(c).filter((places) => places.length > 0)
      const accuracy = groups.map((places) => mean(at(correct, places)))
      // 1e-9 as in selectRollouts: 0.07 of 100 groups are 7, though the product is above it.
      const count = Math.max(1, Math.ceil(lambda * groups.length - 1e-9))
      for (const g of descending(accuracy).slice(0, count)) {
        const solved = (groups[g] as number[]).filter((i) => correct[i])
        const lengths = at(c.length, solved)
        const [center, spread] = [mean(lengths), standardDeviation(lengths, lengthDdof)]
        for (const i of solved) {
          reward[i] = 1 - alpha * sigmoid(spread === 0 ? 0 : ((c.length[i] as number) - center) / spread)
        }
      }
      return reward
    },
    advantages: { eps },
    objective: { klCoef, aggregate: 'sequence_mean' },
  }),
)
