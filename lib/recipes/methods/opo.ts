import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

export const opo = recipe(
  {
    name: 'opo',
    paper: { title: 'On-Policy RL with Optimal Reward Baseline', arxiv: '2505.23585' },
    source: 'code',
    reads: { step: ['mask'] },
    unknown: `How the loss is averaged: over tokens, verl's default. Training is exactly on-policy, so there is no ratio. A
group without tokens has advantages 0.`,
    equation: `b = sum of length[i] R[i] / sum of length[i] over the group, A[i] = R[i] - b
loss = mean over tokens of -A logp`,
    options: {
      singleton: ['enum zero|raw', 'what a group of one gets: 0, as the formula says, or its reward, as in verl'],
    },
  },
  ({ singleton }) => ({
    advantages(c) {
      const advantage = new Float64Array(c.N)
      for (const group of members(c)) {
        // From the first reward, so that equal ones give exactly 0.
        const first = c.rewards[group[0] ?? 0] ?? 0
        let [weighted, length] = [0, 0]
        for (const i of group) {
          weighted += (c.length[i] as number) * ((c.rewards[i] as number) - first)
          length += c.length[i] as number
        }
        const raw = group.length === 1 && singleton === 'raw'
        if (length === 0 && !raw) continue
        for (const i of group) advantage[i] = (c.rewards[i] as number) - (raw ? 0 : first + weighted / length)
      }
      return { advantage }
    },
    objective: { surrogate: 'reinforce', aggregate: 'token_mean' },
  }),
)
