import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { at } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

export const zoRank = recipe(
  {
    name: 'zoRank',
    paper: {
      title: 'Zeroth-Order Optimization Meets Human Feedback: Provable Learning via Ranking Oracles',
      arxiv: '2303.03751',
    },
    source: 'inferred',
    unknown: `The rank weights are the paper's, for perturbations of parameters; that rollouts take their place is ours.
The code has weights larger by 1 for ranked ones, whose sum is not 0.`,
    equation: `m rollouts of a group, k of them ranked;  |E| = k (k - 1) / 2 + k (m - k)
W = m - 1 - 2 t for the ranked one at place t, -k for the others;  A[i] = W[i] / |E|;  0 where |E| = 0
loss = mean over groups of the sum of -A logp: for Gaussian perturbations its gradient is the paper's estimate`,
    columns: {
      rank: 'integer[N] place among the ranked ones of the group, 0 for the best; -1 for those that are not ranked. Rejected ones leave the ranking',
    },
    options: {
      form: ['enum paper|code', 'code: m - 2 t in place of m - 1 - 2 t'],
      perEdge: ['boolean = true', 'false: A = W'],
    },
    example: { rank: [0, -1, 1, -1, 2, 0, 1, -1] },
  },
  ({ form, perEdge }) => ({
    advantages(c) {
      const { rank } = c.columns
      const advantage = new Float64Array(c.N)
      for (const [g, places] of members(c).entries()) {
        const m = places.length
        const all = (c.groupStart[g + 1] as number) - (c.groupStart[g] as number)
        const ranked = places.filter((i) => rank[i] !== -1)
        const k = ranked.length
        // Where ranked rollouts are rejected, their places are free: those that are left move up.
        const order = at(rank, ranked).sort((a, b) => a - b)
        const last = k - 1 + all - m
        if (order.some((t, place) => t < 0 || t > last || t === order[place - 1])) {
          throw grpoError('value', c.method, 'rank', `of group ${g} is no ranking, expected 0 to ${last} once each`)
        }
        const edges = (k * (k - 1)) / 2 + k * (m - k)
        if (edges === 0) continue
        const best = form === 'paper' ? m - 1 : m
        for (const i of places) {
          const t = order.indexOf(rank[i] as number)
          advantage[i] = (t === -1 ? -k : best - 2 * t) / (perEdge ? edges : 1)
        }
      }
      return { advantage }
    },
    objective: (c) => ({ surrogate: 'reinforce', aggregate: 'sequence_sum', normalizer: c.G }),
  }),
)
