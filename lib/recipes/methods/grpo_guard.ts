import { float32Map } from '../parts/map_tokens.js'
import { positiveColumn } from '../parts/positive.js'
import { groupAdvantages, masked } from '../step/context.js'
import { gaussianExample } from '../step/gaussian.js'
import { recipe } from '../step/recipe.js'

export const grpoGuard = recipe(
  {
    name: 'grpoGuard',
    paper: { title: 'GRPO-Guard: Mitigating Implicit Over-Optimization in Flow Matching via Regulated Clipping', arxiv: '2510.22319' }, // biome-ignore format: one title
    source: 'third-party',
    unknown: `No code of the authors was found; three implementations agree on the formulas. Their clip ranges differ: the
default is that of verl-omni. Advantages are those of Flow-GRPO, on which the method builds.`,
    equation: `every rollout is a trajectory, every token a step: x ~ N(mean, std^2), std = sigma sqrt(dt)
log r' = std (log r + mean_d((mean - oldMean)^2) / (2 std^2)) = mean_d((x - oldMean)(mean - oldMean)) / std
delta = 1 / dt, or (1 + eta^2 (1 - time) / (2 time)) / dt
loss = mean over steps of -delta min(r' A, clip(r', 1 - clipLow, 1 + clipHigh) A)
A within -maxAdvantage ... maxAdvantage`,
    columns: {
      dt: 'number[T]? length of each step, above 0, for stepScale',
      time: 'number[T]? time of each step, above 0, for stepScale "dance"',
    },
    options: {
      ratioNorm: [
        'boolean = true',
        'false: the plain ratio r; a policy that is given as logp, logits or hidden states has that one in either case',
      ],
      stepScale: ['enum flow|dance|none', 'delta of the SDE of Flow-GRPO, or of DanceGRPO; none: 1'],
      eta: ['number = 0.7 >= 0', 'noise level of the SDE of DanceGRPO'],
      clipLow: ['number = 0.000002 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.000002 >= 0', 'upper width'],
      ddof: ['integer = 0 0..1', 'of the standard deviation of a group'],
      eps: ['number = 0.0001 >= 0', 'added to it'],
      maxAdvantage: ['number = 5 > 0', 'largest size of an advantage'],
    },
    example: { ...gaussianExample, dt: [0.3, 0.2, 0.3, 0.3, 0.2, 0.3, 0.3, 0.3, 0.2, 0.3, 0.3, 0.2] },
  },
  ({ ratioNorm, stepScale, eta, clipLow, clipHigh, ddof, eps, maxAdvantage }) => ({
    gaussian: ratioNorm ? 'log_ratio' : 'logp',
    advantages(c) {
      const { advantage } = groupAdvantages(c, { ddof, eps })
      return { advantage: advantage.map((a) => Math.min(Math.max(a, -maxAdvantage), maxAdvantage)) }
    },
    weights(c) {
      if (stepScale === 'none') return {}
      const counts = masked(c, c.rolloutMask, undefined)
      const need = (name: 'dt' | 'time') => positiveColumn(c, name, c.columns[name], counts, `stepScale ${stepScale}`)
      const dt = need('dt')
      const weight = (factor: (t: number) => number) => ({
        weight: float32Map(dt, (step, t) => (counts[t] ? factor(t) / step : 0)),
      })
      if (stepScale === 'flow') return weight(() => 1)
      const time = need('time')
      return weight((t) => 1 + (eta ** 2 * (1 - (time[t] as number))) / (2 * (time[t] as number)))
    },
    objective: { clipLow, clipHigh },
  }),
)
