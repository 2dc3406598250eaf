import { groupAdvantage } from '../../group_advantage.js'
import { moments } from '../../moments.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { standardize } from '../../standardize.js'
import { masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const gdpo = recipe(
  {
    name: 'gdpo',
    paper: {
      title: 'GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL Optimization',
      arxiv: '2601.05242',
    },
    source: 'code',
    reads: ({ form }: { form: string }) => (form === 'verl' ? { step: ['mask'] } : {}),
    unknown: `Whether the paper normalises over rollouts or tokens: over rollouts, as TRL does. The loss is GRPO's, averaged over
tokens.`,
    equation: `a[i,k] = (scores[i,k] - mean(g)) / (std(g) + eps) for each kind of reward k
s[i] = sum over k of scoreWeight[k] a[i,k]
A = (s - mean) / (std + eps) over the rollouts of the batch, eps 1e-4 and a group of one 0;
form 'verl': A = (s - mean) / sqrt(var + 1e-8) over its tokens, eps 1e-6 and a group of one its reward
scale 'none': a[i,k] = scores[i,k] - mean(g)`,
    columns: {
      scores: 'number[N,K] rewards of each kind, one row per rollout; NaN where it has none of that kind',
      scoreWeight: 'number[K]? the weight of each kind; 1 where it is absent',
    },
    options: {
      form: ['enum trl|verl', 'over what the sum is normalised, and the eps of each trainer'],
      scale: ['enum group_std|none', 'none: kinds are not divided by their standard deviation, norm_adv_by_std_in_grpo of verl'], // biome-ignore format: one text
      normalize: ['boolean = true', 'false: the sums as they are'],
    },
    example: { scores: [1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1], scoreWeight: [1, 0.5] },
  },
  ({ form, scale, normalize }) => ({
    advantages(c) {
      const { groupStart } = c
      const { scores, scoreWeight } = c.columns
      const kinds = scores.length / c.N
      const sum = new Float64Array(c.N)
      const scored = new Uint8Array(c.N)
      const grpo = form === 'verl' ? ({ scale, eps: 1e-6, singleton: 'raw' } as const) : ({ scale, eps: 1e-4 } as const)
      for (let k = 0; k < kinds; k++) {
        const rewards = Float32Array.from(sum, (_, i) => scores[i * kinds + k] as number)
        const mask = Uint8Array.from(rewards, (r, i) => (Number.isNaN(r) || c.rolloutMask?.[i] === 0 ? 0 : 1))
        const one = groupAdvantage({ rewards, groupStart, mask }, { ...grpo, out: { mean: null, std: null } })
        for (let i = 0; i < c.N; i++) {
          sum[i] = (sum[i] as number) + (scoreWeight?.[k] ?? 1) * (one.advantage.data[i] as number)
          scored[i] = (scored[i] as number) | (mask[i] as number)
        }
      }
      if (!normalize) return { advantage: sum }
      if (form === 'trl') {
        const over = { x: Float32Array.from(sum), mask: scored }
        return { advantage: standardize(over, { moments: moments(over), eps: 1e-4 }).x.data }
      }
      const mask = masked(c, scored, undefined)
      const { data: x } = sequenceExpand({ x: Float32Array.from(sum), sequenceStart: c.sequenceStart, mask }).x
      return { tokenAdvantage: standardize({ x, mask }, { moments: moments({ x, mask }), epsUnderRoot: true }).x.data }
    },
  }),
)
