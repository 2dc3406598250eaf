import { members } from '../parts/members.js'
import { at, mean } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

export const gcpo = recipe(
  {
    name: 'gcpo',
    paper: {
      title: 'GeometryZero: Advancing Geometry Solving via Group Contrastive Policy Optimization',
      arxiv: '2506.07160',
    },
    source: 'inferred',
    reads: ({ lengthWeight }: { lengthWeight: number }) => (lengthWeight === 0 ? {} : { step: ['mask'] }),
    unknown: `The inequality and the size of the margin, how the two subgroups arise, the length reward and all weights.
Only the contrast of two accuracies, its sign and its product with the auxiliary reward were read, in others' texts.`,
    equation: `gap(g) = accuracy of the rollouts with an auxiliary construction - accuracy of those without
mask(g) = 1 if gap > margin, -1 if gap < -margin, else 0; 0 if either subgroup is empty
R[i] = correct[i] + formatWeight format[i] + auxiliaryWeight mask(g) auxiliary[i]
       + lengthWeight min(1, length[i] / maxLength)
A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one`,
    columns: {
      correct: 'flag[N] whether the answer is right',
      auxiliary: 'flag[N] whether the response makes an auxiliary construction',
      format: 'flag[N]? whether the format is right; 0 if absent',
    },
    options: {
      margin: ['number = 0.1 >= 0', 'difference of accuracies that counts'],
      auxiliaryWeight: ['number = 0.5 >= 0', 'weight of the auxiliary reward'],
      formatWeight: ['number = 1 >= 0', 'weight of the format'],
      lengthWeight: ['number = 0 >= 0', 'weight of the length; 0 needs no sequenceStart'],
      maxLength: ['number = 2048 > 0', 'length in tokens with the full length reward'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: {
      correct: [1, 0, 1, 0, 0, 1, 0, 0],
      auxiliary: [1, 0, 1, 0, 1, 0, 0, 1],
      format: [1, 1, 1, 0, 1, 1, 1, 1],
    },
  },
  ({ margin, auxiliaryWeight, formatWeight, lengthWeight, maxLength, eps, klCoef }) => ({
    rewards(c) {
      const { correct, auxiliary, format } = c.columns
      const reward = new Float64Array(c.N)
      for (const places of members(c)) {
        const having = places.filter((i) => auxiliary[i])
        const lacking = places.filter((i) => !auxiliary[i])
        const gap = mean(at(correct, having)) - mean(at(correct, lacking))
        const contrasted = having.length > 0 && lacking.length > 0 && Math.abs(gap) > margin
        const bonus = contrasted ? auxiliaryWeight * Math.sign(gap) : 0
        for (const i of places) {
          const length = lengthWeight === 0 ? 0 : lengthWeight * Math.min(1, (c.length[i] as number) / maxLength)
          const aux = auxiliary[i] ? bonus : 0
          reward[i] = (correct[i] as number) + formatWeight * (format?.[i] ?? 0) + aux + length
        }
      }
      return reward
    },
    advantages: { eps },
    objective: { klCoef, aggregate: 'sequence_mean' },
  }),
)
