import { grpoError } from '../../addon/errors.js'
import { positiveColumn } from '../parts/positive.js'
import { advantagesBy, stepIds } from '../parts/regroup.js'
import { centerOf, mean } from '../parts/statistics.js'
import { masked } from '../step/context.js'
import { gaussianExample } from '../step/gaussian.js'
import { recipe } from '../step/recipe.js'

export const tempFlow = recipe(
  {
    name: 'tempFlow',
    paper: { title: 'TempFlow-GRPO: When Timing Matters for GRPO in Flow Models', arxiv: '2508.04324' },
    source: 'code',
    unknown: `The noise-aware weight of the paper is known from a third party; those of the released script are options.
The clip range is that of related repositories. Without the column schedule, mean_one takes the step numbers that enter
the loss of the batch, each once with the mean of its std: a batch of one step number then has weight 1.`,
    equation: `every token is one SDE step from its trajectory, denoised without noise to the end, with its own reward
A[t] = (R[t] - mean_s) / (std_s + eps) over the steps of the same number and prompt
w = std / (mean of std over the steps of a schedule), or scale std, or scale std / sqrt(dt);   std = sigma sqrt(dt)
loss = mean over steps of -w min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef mean_d((mean - refMean)^2)/(2 std^2)
trajectories whose advantages are all 0 are left out`,
    columns: {
      stepReward: 'number[T] reward of the image that each step led to',
      step: 'integer[T]? number of each step in the schedule; default: its place in the trajectory',
      std: 'f32[T] standard deviation of each step',
      schedule:
        'number[K]? std of every trained step of the schedule, for weighting "mean_one", whatever steps the batch has',
      dt: 'number[T]? length of each step, above 0, for weighting "sigma"',
    },
    options: {
      weighting: ['enum mean_one|std|sigma', 'the paper’s; or those of the released script: original, recommended'],
      scale: ['number = 2.25 >= 0', 'factor of the weights std and sigma'],
      clipLow: ['number = 0.0001 >= 0', 'lower width of the clip interval; not published'],
      clipHigh: ['number = 0.0001 >= 0', 'upper width; not published'],
      klCoef: [
        'number = 0.004 >= 0',
        'factor of the KL; 0.001 for PickScore, ten times as much with weighting "sigma"',
      ],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
    },
    example: { ...gaussianExample, stepReward: [0.1, 0.5, 0.3, 0.2, 0.9, 0.4, 0.6, 0.2, 0.8, 0.7, 0.1, 0.4] },
  },
  ({ weighting, scale, clipLow, clipHigh, klCoef, eps }) => ({
    advantages(c) {
      const ids = stepIds(c, c.columns.step)
      return {
        tokenAdvantage: advantagesBy(ids, c.columns.stepReward, { ddof: 0, eps }, masked(c, c.rolloutMask, undefined)),
      }
    },
    select: (c) => ({
      rollouts: Uint8Array.from({ length: c.N }, (_, i) => {
        return Number(c.tokenAdvantage?.subarray(c.sequenceStart[i], c.sequenceStart[i + 1]).some((a) => a !== 0) ?? 1)
      }),
    }),
    weights(c) {
      const { std, step, dt, schedule } = c.columns
      const counts = masked(c, c.rolloutMask, undefined)
      const weight = (factor: (t: number) => number) => ({
        weight: std.map((s, t) => (counts[t] ? factor(t) * s : 0)),
      })
      if (weighting === 'std') return weight(() => scale)
      if (weighting === 'sigma') {
        const length = positiveColumn(c, 'dt', dt, counts, 'weighting sigma')
        return weight((t) => scale / Math.sqrt(length[t] as number))
      }
      if (schedule !== undefined) {
        const wrong = schedule.findIndex((s) => !(s > 0 && s < Infinity))
        if (wrong >= 0 || schedule.length === 0) {
          const problem = schedule.length === 0 ? 'is empty' : `has ${schedule[wrong]} at ${wrong}`
          throw grpoError('value', c.method, 'schedule', `${problem}, expected standard deviations, above 0`)
        }
        const center = mean(schedule)
        return weight(() => 1 / center)
      }
      // Each step number counts once, however many trajectories have it.
      const numbered = new Map<number, number[]>()
      for (const [i, begin] of c.sequenceStart.subarray(0, c.N).entries()) {
        for (let t = begin; t < (c.sequenceStart[i + 1] as number); t++) {
          if (!counts[t]) continue
          const number = step?.[t] ?? t - begin
          const seen = numbered.get(number)
          if (seen === undefined) numbered.set(number, [std[t] as number])
          else seen.push(std[t] as number)
        }
      }
      const center = mean(Array.from(numbered.values(), centerOf))
      return weight(() => 1 / center)
    },
    objective: { clipLow, clipHigh, klCoef },
    sample: {
      /** std of each step of Flow-GRPO's SDE: a sqrt(level / (1 - level)) sqrt(dt), from levels that fall from 1 to 0. */
      stepStd: (levels: readonly number[], a = 0.7): number[] =>
        levels.slice(0, -1).map((level, k) => {
          const below = 1 - (level === 1 ? (levels[1] as number) : level)
          return a * Math.sqrt(level / below) * Math.sqrt(level - (levels[k + 1] as number))
        }),
    },
  }),
)
