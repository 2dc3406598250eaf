import { float32Map, float64Map } from '../parts/map_tokens.js'
import { advantagesBy, stepIds } from '../parts/regroup.js'
import { masked } from '../step/context.js'
import { gaussianExample } from '../step/gaussian.js'
import { recipe } from '../step/recipe.js'

export const g2rpo = recipe(
  {
    name: 'g2rpo',
    paper: { title: 'Fine-Grained GRPO for Precise Preference Alignment in Flow Models', arxiv: '2510.01982' }, // biome-ignore format: one title
    source: 'code',
    unknown:
      'The released code takes one optimizer step per denoising step: a batch then holds the steps of one number.',
    equation: `every token is one SDE step from the anchor of its prompt, then without noise to the end at several strides
A[t] = sum over rewards and strides v of (R[t, v] - mean_v) / (std_v + eps) over the steps of the same number and prompt
loss = mean over steps of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)
A within -maxAdvantage ... maxAdvantage`,
    columns: {
      views: 'number[T,V] rewards of the images that each step led to: one per reward model and stride',
      step: 'integer[T]? number of each step in the schedule; default: its place in the trajectory',
    },
    options: {
      clipLow: ['number = 0.0001 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.0001 >= 0', 'upper width'],
      eps: ['number = 1e-8 >= 0', 'added to the standard deviation'],
      maxAdvantage: ['number = 5 > 0', 'largest size of an advantage'],
    },
    example: {
      ...gaussianExample,
      views: [
        0.1, 0.2, 0.5, 0.4, 0.3, 0.1, 0.2, 0.6, 0.9, 0.8, 0.4, 0.3, 0.6, 0.5, 0.2, 0.1, 0.8, 0.9, 0.7, 0.4, 0.1, 0.3,
        0.4, 0.2,
      ],
    },
  },
  ({ clipLow, clipHigh, eps, maxAdvantage }) => ({
    gaussian: 'logp',
    advantages(c) {
      const ids = stepIds(c, c.columns.step)
      const counted = masked(c, c.rolloutMask, undefined)
      const count = c.T === 0 ? 0 : c.columns.views.length / c.T
      const total = new Float64Array(c.T)
      for (let v = 0; v < count; v++) {
        const rewards = float64Map(total, (_, t) => c.columns.views[t * count + v] as number)
        advantagesBy(ids, rewards, { eps }, counted).forEach((a, t) => (total[t] = (total[t] as number) + a))
      }
      return { tokenAdvantage: float32Map(total, (a) => Math.min(Math.max(a, -maxAdvantage), maxAdvantage)) }
    },
    objective: { clipLow, clipHigh },
  }),
)
