import { advantagesBy, pairIds } from '../parts/regroup.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const stratifiedGrpo = recipe(
  {
    name: 'stratifiedGrpo',
    paper: {
      title: 'Stratified GRPO: Handling Structural Heterogeneity in Reinforcement Learning of LLM Search Agents',
      arxiv: '2510.06214',
    },
    source: 'third-party',
    unknown: `ddof, eps, and alpha beyond the 0.6 quoted for the Qwen2.5-3B base model: ddof is 0, as in the theory, and
eps 1e-6. A stratum of one has the stratified advantage 0.`,
    equation: `A = alpha (R - mean(s)) / (std(s) + eps) + (1 - alpha) (R - mean(g)) / (std(g) + eps)
s the rollouts of the same group and stratum, g those of the group`,
    columns: { stratum: 'integer[N] the stratum of each rollout within its group: its number of search calls' },
    options: {
      alpha: ['number = 0.6 0..1', 'share of the stratified advantage'],
      scale: ['enum group_std|none', 'none: advantages are not divided by standard deviations'],
      ddof: ['integer = 0 0..1', 'divisor of the variance is n - ddof'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviations'],
    },
    example: { stratum: [0, 0, 1, 1, 2, 0, 2, 1] },
  },
  ({ alpha, scale, ddof, eps }) => ({
    advantages(c) {
      const options = { scale, ddof, eps }
      const group = new Int32Array(c.N)
      for (const { g, begin, end } of c.groups) group.fill(g, begin, end)
      const within = advantagesBy(pairIds(group, c.columns.stratum), c.rewards, options, c.rolloutMask)
      const { advantage: overall } = groupAdvantages(c, options)
      return { advantage: Float64Array.from(within, (a, i) => alpha * a + (1 - alpha) * (overall[i] as number)) }
    },
  }),
)
