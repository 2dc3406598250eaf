import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { mean } from '../parts/statistics.js'
import { type Context, extended, groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

type Matrix = ArrayLike<ArrayLike<number>>

/** The similarity of two rollouts of a group, clipped to 0..1; a matrix of another size is refused. */
function similarities(c: Context<{ readonly similarity: unknown }>, g: number, begin: number, end: number) {
  const n = end - begin
  const rows = (c.columns.similarity as readonly Matrix[] | undefined)?.[g]
  const square = rows?.length === n && Array.from(rows).every((row) => row?.length === n)
  if (!square)
    throw grpoError('shape', c.method, 'similarity', `of group ${g} is no matrix of ${n} rows of ${n} values`)
  return (i: number, j: number) => Math.min(1, Math.max(0, (rows[i - begin] as ArrayLike<number>)[j - begin] as number))
}

export const evolRl = recipe(
  {
    name: 'evolRl',
    paper: {
      title: 'Evolving Language Models without Labels: Majority Drives Selection, Novelty Promotes Variation',
      arxiv: '2509.15194',
    },
    source: 'code',
    reads: { step: ['mask'] },
    unknown: `The formulas are those of the code, and the paper may differ. The base reward of a group of one was not
read: here it is its label.`,
    equation: `u[i] = 1 - mean of S[i,j] over the others with its label / 2 - max of S[i,j] over all others / 2
       S clipped to 0..1, among the valid rollouts of the group; alone with its label: the mean over all others
v = u scaled to 0..1 among the rollouts with the same label; all equal: 1/2; alone: 1
R[i] = 1/2 + v / 2 in the majority, -1 + v / 2 outside it, -1 if not valid or the only valid one of several
A[i] = (R[i] - mean(g)) / (std(g) + eps) among the first \`trained\` rollouts; R / (1 + eps) for one, with R = label
loss = token mean of the clipped surrogate + klCoef k3 - entropyCoef entropy`,
    columns: {
      majority: 'flag[N] whether the answer is the one that most rollouts of the group give',
      valid: 'flag[N]? whether the response has a boxed answer with a number; 1 if absent',
      similarity: 'any per group the matrix of cosine similarities of its rollouts after the think block, row by row',
    },
    options: {
      trained: [
        'integer? = 32 >= 1',
        'so many rollouts of a group, the first, enter the loss; all are votes. null: all',
      ],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
      dualClip: ['number = 3 > 1', 'largest ratio that counts where the advantage is negative'],
      entropyCoef: [
        'number = 0.003 >= 0',
        'factor of the entropy, as recommended; 0 by default in the script, needs no entropy',
      ],
      klCoef: ['number = 0.001 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: {
      majority: [1, 0, 1, 0, 1, 1, 1, 0],
      valid: [1, 1, 1, 1, 1, 1, 1, 0],
      similarity: [
        [
          [1, 0.2, 0.6, 0.3],
          [0.2, 1, 0.1, 0.5],
          [0.6, 0.1, 1, 0.4],
          [0.3, 0.5, 0.4, 1],
        ],
        [
          [1, 0.7, 0.2, 0],
          [0.7, 1, 0.3, 0],
          [0.2, 0.3, 1, 0],
          [0, 0, 0, 1],
        ],
      ],
    },
  },
  ({ trained, eps, clipLow, clipHigh, dualClip, entropyCoef, klCoef }) => {
    /** [N] 1 = among those that are trained on, and not rejected. */
    const trainedOf = (c: Context) => {
      const mask = new Uint8Array(c.N)
      for (const { begin, end } of c.groups)
        mask.fill(1, begin, trained === null ? end : Math.min(end, begin + trained))
      return mask.map((m, i) => m & (c.rolloutMask?.[i] ?? 1))
    }
    return {
      rewards(c) {
        const { majority, valid } = c.columns
        const reward = new Float64Array(c.N).fill(-1)
        const all = members(c)
        for (const { g, begin, end } of c.groups) {
          const S = similarities(c, g, begin, end)
          const places = (all[g] as number[]).filter((i) => valid?.[i] !== 0)
          if (all[g]?.length === 1) for (const i of places) reward[i] = majority[i] as number
          if (places.length <= 1) continue
          for (const label of [1, 0]) {
            const same = places.filter((i) => majority[i] === label)
            const novelty = same.map((i) => {
              const others = places.filter((j) => j !== i)
              const near = others.filter((j) => majority[j] === label)
              return 1 - 0.5 * mean(near.map((j) => S(i, j))) - 0.5 * Math.max(...others.map((j) => S(i, j)))
            })
            const [low, high] = [Math.min(...novelty), Math.max(...novelty)]
            for (const [k, i] of same.entries()) {
              const scaled = same.length === 1 ? 1 : high === low ? 0.5 : ((novelty[k] as number) - low) / (high - low)
              reward[i] = (label === 1 ? 0.5 : -1) + 0.5 * scaled
            }
          }
        }
        return reward
      },
      advantages: (c) => groupAdvantages(extended(c, { rolloutMask: trainedOf(c) }), { eps, singleton: 'raw' }),
      select: (c) => ({ rollouts: trainedOf(c) }),
      objective: { clipLow, clipHigh, dualClip, entropyCoef, klCoef },
    }
  },
)
