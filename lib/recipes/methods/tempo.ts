import { groupAdvantage } from '../../group_advantage.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { prefixTree, segmentValues } from '../parts/prefix_tree.js'
import { recipe } from '../step/recipe.js'

export const tempo = recipe(
  {
    name: 'tempo',
    paper: { title: 'Exploiting Tree Structure for Credit Assignment in RL Training of LLMs', arxiv: '2509.18314' },
    source: 'code',
    reads: { step: ['token'] },
    unknown:
      'A group of one: the released code divides by the standard deviation of one value; here its advantage is 0.',
    equation: `V_i(t) = mean of the rewards of the rollouts of the group that begin with the first t tokens of rollout i
A[i, j] = (R[i] - mean(g) + V_i(j + 1) - V_i(j)) / (std(g) + eps)
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A), at most -dualClip A where A < 0`,
    options: {
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      scale: ['enum group_std|none', 'none: not divided by the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
      dualClip: ['number? = 3 > 1', 'largest ratio that counts where A < 0'],
    },
  },
  ({ eps, scale, clipLow, clipHigh, dualClip }) => ({
    advantages(c) {
      const tree = prefixTree(c)
      const value = segmentValues(tree, c.rewards, c.rolloutMask)
      const inputs = { rewards: Float32Array.from(c.rewards), groupStart: c.groupStart, mask: c.rolloutMask }
      const { advantage, std } = groupAdvantage(inputs, { eps, scale, out: { mean: null } })
      const tokenAdvantage = sequenceExpand({ x: advantage, sequenceStart: c.sequenceStart }).x.data
      // V changes at the first token of a segment and nowhere else.
      let g = -1
      tree.parent.forEach((above, b) => {
        if (above === -1) g++
        const spread = std.data[g] as number
        if (above === -1 || spread === 0) return
        const step = ((value[b] as number) - (value[above] as number)) / (scale === 'none' ? 1 : spread + eps)
        for (const i of tree.rollouts[b] as readonly number[]) {
          if (c.rolloutMask?.[i] === 0) continue
          const t = (c.sequenceStart[i] as number) + (tree.begin[b] as number)
          tokenAdvantage[t] = (tokenAdvantage[t] as number) + step
        }
      })
      return { tokenAdvantage }
    },
    objective: { clipLow, clipHigh, dualClip },
  }),
)
