import { sequenceExpand } from '../../sequence_expand.js'
import { members } from '../parts/members.js'
import { mean } from '../parts/statistics.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const tpGrpo = recipe(
  {
    name: 'tpGrpo',
    paper: { title: 'Good Learners Think Their Thinking', arxiv: '2507.23317' },
    source: 'third-party',
    reads: { step: ['sound'] },
    unknown: `alpha, the divisor of the standard deviation and the clip range: here 0.5, n - 1 and 0.2. The closed forms follow
from sums of process rewards over thoughts only if the last thought carries the outcome alone, which is inferred.
Where all outcomes of a group are equal, o is 0, also of correct solutions: they count as wrong, and nothing is learned.`,
    equation: `o = (R - mean(g)) / std(g), R = 1 or -1;   r_c = alpha (share of correct solutions in g)
o > 0, a correct solution:  A = o in correct thoughts,             o - r_c in incorrect ones
o <= 0, a wrong solution:   A = o in thoughts that match its answer,     0 in the others
loss = mean over rollouts of the mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3`,
    columns: { sound: 'flag[T] whether the thought of a token is correct; in a wrong solution, whether it matches the answer' }, // biome-ignore format: one text
    options: {
      alpha: ['number = 0.5 >= 0', 'factor of the process reward; not published'],
      ddof: ['integer = 1 0..1', 'of the standard deviation; not published'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { rewards: [1, -1, 1, -1, -1, 1, -1, -1], sound: [1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0] },
  },
  ({ alpha, ddof, clipLow, clipHigh, klCoef }) => ({
    advantages(c) {
      const { advantage } = groupAdvantages(c, { ddof, eps: 0 })
      const tokenAdvantage = sequenceExpand({ x: advantage, sequenceStart: c.sequenceStart }).x.data
      for (const graded of members(c)) {
        const accuracy = mean(graded.map((i) => Number((c.rewards[i] as number) > 0)))
        for (const i of graded) {
          const outcome = advantage[i] as number
          const unsound = outcome > 0 ? outcome - alpha * accuracy : 0
          for (let t = c.sequenceStart[i] as number; t < (c.sequenceStart[i + 1] as number); t++) {
            if (!c.columns.sound[t]) tokenAdvantage[t] = unsound
          }
        }
      }
      return { tokenAdvantage }
    },
    objective: { clipLow, clipHigh, klCoef, aggregate: 'sequence_mean' },
  }),
)
