import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { moments } from '../../moments.js'
import { standardize } from '../../standardize.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

/** Two rollouts by their places in the group, and the score of the first: 1 won, 0 lost, 0.5 tie, null unreadable. */
export type Verdict = readonly [a: number, b: number, score: number | null]

/** To three decimals as Python rounds: halfway cases, which are odd sixteenths, go to the even digit. */
const rounded = (x: number) => ((16 * x) % 2 === 1 ? (2 * Math.round(500 * x)) / 1000 : Number(x.toFixed(3)))

export const prefGrpo = recipe(
  {
    name: 'prefGrpo',
    paper: {
      title: 'Pref-GRPO: Pairwise Preference Reward-based GRPO for Stable Text-to-Image Reinforcement Learning',
      arxiv: '2508.20751',
    },
    source: 'code',
    unknown: `The formulas are those of the code, and the paper may differ. Its scripts also normalise the ratio, as
grpoGuard does; here a token is a denoising step, and the steps of a rollout are averaged.`,
    equation: `w[i] = wins / comparisons of rollout i in its group, to three decimals, 0 without comparisons;
       a tie or an unreadable verdict is half a win for both
A[i] = sum over rewards k of weight[k] (R[k,i] - mean(g)) / (std(g) + eps), the first reward being w
applyGdpo: A = (A - mean(batch)) / (std(batch) + eps)
A = clip(A, -maxAdvantage, maxAdvantage)`,
    columns: {
      verdicts:
        'any per group the list of its judged pairs: place, place, score of the first (1, 0.5, 0; null unreadable)',
      scores: 'number[K,N]? further rewards, a row of N for each',
      weights: 'number[W]? of the win rate and of each row of scores, 1 by default; the FLUX script has 0.4 and 0.6',
    },
    options: {
      rounded: ['boolean = true', 'win rates have three decimals'],
      applyGdpo: ['boolean = true', 'the summed advantages are normalised over the batch, as in the released scripts'],
      maxAdvantage: ['number = 5 > 0', 'largest advantage in size'],
      eps: ['number = 1e-8 >= 0', 'added to the standard deviations'],
      clip: ['number = 0.0001 >= 0', 'half width of the clip interval: ratios of a denoising step are close to 1'],
      klCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
    },
    example: {
      verdicts: [
        [
          [0, 1, 1],
          [0, 2, 0.5],
          [0, 3, 1],
          [1, 2, 0],
          [1, 3, 0],
          [2, 3, 1],
        ],
        [
          [0, 1, 0],
          [0, 2, 0.5],
          [0, 3, 1],
          [1, 2, 1],
          [1, 3, 1],
          [2, 3, null],
        ],
      ],
      scores: [0.3, 0.1, 0.4, 0.2, 0.2, 0.6, 0.3, 0.1],
      weights: [0.4, 0.6],
    },
  },
  ({ rounded: round, applyGdpo, maxAdvantage, eps, clip, klCoef }) => ({
    rewards(c) {
      const lists: readonly (readonly Verdict[])[] = c.columns.verdicts
      const wrong = (problem: string) => grpoError('value', c.method, 'verdicts', problem)
      if (!Array.isArray(lists) || lists.length !== c.G || !lists.every((list) => Array.isArray(list))) {
        throw grpoError('shape', c.method, 'verdicts', `is no list of ${c.G} lists, expected one of pairs per group`)
      }
      const wins = new Float64Array(c.N)
      const comparisons = new Float64Array(c.N)
      for (const { g, begin, end } of c.groups) {
        for (const verdict of lists[g] as readonly Verdict[]) {
          if (!Array.isArray(verdict) || verdict.length !== 3) {
            throw wrong(`has ${describe(verdict)} in group ${g}, expected [place, place, score of the first]`)
          }
          const [a, b, score] = verdict as unknown as Verdict
          const [i, j] = [begin + a, begin + b]
          if (![a, b].every((x) => Number.isInteger(x) && x >= 0 && x < end - begin) || a === b) {
            throw wrong(`has the pair ${a}, ${b} in group ${g}, expected two places from 0 to ${end - begin - 1}`)
          }
          if (![1, 0.5, 0, null].includes(score)) throw wrong(`has the score ${score}, expected 1, 0.5, 0 or null`)
          if (c.rolloutMask?.[i] === 0 || c.rolloutMask?.[j] === 0) continue
          for (const [place, won] of [
            [i, score ?? 0.5],
            [j, 1 - (score ?? 0.5)],
          ] as const) {
            wins[place] = (wins[place] as number) + won
            comparisons[place] = (comparisons[place] as number) + 1
          }
        }
      }
      const rate = wins.map((won, i) => (comparisons[i] === 0 ? 0 : won / (comparisons[i] as number)))
      return round ? rate.map(rounded) : rate
    },
    advantages(c) {
      const { scores = new Float64Array(), weights } = c.columns
      const count = c.N === 0 ? 0 : scores.length / c.N
      const rows = Array.from({ length: count }, (_, k) => scores.subarray(k * c.N, (k + 1) * c.N))
      if (weights !== undefined && weights.length !== rows.length + 1) {
        const expected = `${rows.length + 1}: of the win rate and of ${rows.length} rows of scores`
        throw grpoError('shape', c.method, 'weights', `has ${weights.length} values, expected ${expected}`)
      }
      const sum = new Float32Array(c.N)
      for (const [k, row] of [c.rewards, ...rows].entries()) {
        groupAdvantages(c, { eps }, row).advantage.forEach((a, i) => {
          sum[i] = (sum[i] as number) + (weights?.[k] ?? 1) * a
        })
      }
      const inputs = { x: sum, mask: c.rolloutMask }
      const advantage = applyGdpo ? standardize(inputs, { moments: moments(inputs), eps }).x.data : sum
      return { advantage: advantage.map((a) => Math.max(-maxAdvantage, Math.min(maxAdvantage, a))) }
    },
    objective: { clipLow: clip, clipHigh: clip, klCoef, aggregate: 'sequence_mean' },
  }),
)
