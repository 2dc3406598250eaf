import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

export const optimalTokenBaseline = recipe(
  {
    name: 'optimalTokenBaseline',
    paper: { title: 'The Optimal Token Baseline: Variance Reduction for Long-Horizon LLM-RL', arxiv: '2602.07078' },
    source: 'code',
    reads: { step: ['mask', 'oldLogp', 'squares', 'importance'] },
    unknown: `The estimator of verl, with the position of a token counted among the unmasked tokens of its rollout. The loss is
GRPO's, averaged over tokens.`,
    equation: `w[i,t] = (1 - 2 p + squares) importance^2, p = exp(oldLogp), W[i,t] = sum of w[i,j] over j <= t
B[t] = sum of R[i] W[i,t] / (sum of W[i,t] + eps) over the rollouts of the group that have a token t
A[i,t] = R[i] - B[t]; B = 0 in a group of one, and where only the longest rollout of its group has a token
loss = mean over tokens of -min(r A, clip(r) A)`,
    columns: {
      squares: 'f32[T] the sum over the vocabulary of squared probabilities, under the policy of oldLogp',
      importance: 'f32[T]? truncated importance weights against the inference engine; 1 where it is absent',
    },
    options: {
      zeroTail: ['boolean = true', 'false: the longest rollout is its own baseline where no other is as long'],
      eps: ['number = 1e-8 >= 0', 'added to the sum of the weights'],
    },
    example: { squares: [0.4, 0.3, 0.35, 0.3, 0.5, 0.3, 0.45, 0.25, 0.4, 0.3, 0.45, 0.25] },
  },
  ({ zeroTail, eps }) => ({
    advantages(c) {
      const { oldLogp, sequenceStart, mask, rewards } = c
      const { squares, importance } = c.columns
      const eachToken = (i: number, visit: (t: number, position: number) => void) => {
        let position = 0
        for (let t = sequenceStart[i] as number; t < (sequenceStart[i + 1] as number); t++) {
          if (mask?.[t] !== 0) visit(t, position++)
        }
      }
      const tokenAdvantage = new Float32Array(c.T)
      for (const group of members(c)) {
        const [longest = 0, second = 0] = group.map((i) => c.length[i] as number).sort((a, b) => b - a)
        const weight = new Float64Array(longest)
        const weighted = new Float64Array(longest)
        for (const i of group) {
          let energy = 0
          eachToken(i, (t, position) => {
            const gradient = 1 - 2 * Math.exp(oldLogp[t] as number) + (squares[t] as number)
            energy += gradient * (importance?.[t] ?? 1) ** 2
            weight[position] = (weight[position] as number) + energy
            weighted[position] = (weighted[position] as number) + energy * (rewards[i] as number)
          })
        }
        const shared = group.length < 2 ? 0 : zeroTail ? second : longest
        for (const i of group) {
          eachToken(i, (t, position) => {
            const divisor = (weight[position] as number) + eps
            const baseline = position >= shared || divisor === 0 ? 0 : (weighted[position] as number) / divisor
            tokenAdvantage[t] = (rewards[i] as number) - baseline
          })
        }
      }
      return { tokenAdvantage }
    },
  }),
)
