import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { knownOf, remember } from '../parts/prompts.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

/** The fewest tool calls of a correct rollout so far, of each question that was answered correctly. */
export interface FewestCalls {
  fewest: Record<string, number>
}
interface Columns {
  readonly correct: Uint8Array
  readonly toolCalls: Int32Array
  readonly prompt: readonly (string | number)[]
}

export const otc = recipe(
  {
    name: 'otc',
    paper: { title: 'Acting Less is Reasoning More! Teaching Model to Act Efficiently', arxiv: '2504.14870' },
    source: 'third-party',
    unknown: `alpha, the smoothing constant, eps and the loss: 1 and 6 as in a third-party implementation, 1e-6, and
GRPO's. The constant is recalled to be the largest number of tool turns.`,
    equation: `m = tool calls of the rollout, n = the fewest of a correct rollout of the question, over all visits
form grpo: tool = 1 if m = n = 0;  cos(m pi / (2 m + c)) if n = 0;  sin(f pi / (2 n)), f = 2 n m / (m + n), otherwise
form ppo:  tool = cos(m pi / (2 m + c))
R[i] = alpha tool[i] correct[i];   A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one`,
    columns: {
      correct: 'flag[N] whether the answer is right',
      toolCalls: 'integer[N] how many tools each rollout called',
      prompt: 'id[G] names the question of each group, the same on every visit',
    },
    options: {
      form: ['enum grpo|ppo', 'the tool reward of OTC-GRPO or of OTC-PPO'],
      alpha: ['number = 1 >= 0', 'factor of the reward'],
      smoothing: ['number = 6 > 0', 'the constant c'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    state: {
      version: 1,
      initial: (): FewestCalls => ({ fewest: {} }),
      shape: { fewest: { '*': 'integer 0..2147483647' } },
    },
    example: { correct: [1, 0, 1, 0, 0, 1, 0, 0], toolCalls: [2, 0, 3, 1, 1, 1, 2, 0], prompt: ['a', 'b'] },
  },
  ({ form, alpha, smoothing, eps, klCoef }) => {
    type C = Context<Columns, FewestCalls>
    const falling = (m: number) => Math.cos((m * Math.PI) / (2 * m + smoothing))
    const toolReward = (m: number, n: number) => {
      if (form === 'ppo' || n === 0) return falling(m)
      return Math.sin((m / (m + n)) * Math.PI)
    }
    /** With this batch's rollouts; a question in two groups of a batch is one question. */
    const fewestCalls = (c: C, groups: number[][]) => {
      const { correct, toolCalls, prompt } = c.columns
      const fewest = { ...c.state.fewest }
      for (const [g, places] of groups.entries()) {
        const key = prompt[g]
        for (const i of places) {
          const m = toolCalls[i] as number
          if (m < 0) throw grpoError('value', c.method, 'toolCalls', `has ${m} at ${i}, expected at least 0`)
          if (correct[i]) remember(fewest, key, Math.min(knownOf(fewest, key) ?? m, m))
        }
      }
      return fewest
    }
    return {
      rewards(c) {
        const { correct, toolCalls, prompt } = c.columns
        const groups = members(c)
        const fewest = fewestCalls(c, groups)
        const reward = new Float64Array(c.N)
        for (const [g, places] of groups.entries()) {
          for (const i of places.filter((i) => correct[i])) {
            reward[i] = alpha * toolReward(toolCalls[i] as number, knownOf(fewest, prompt[g]) as number)
          }
        }
        return reward
      },
      advantages: { eps },
      objective: { klCoef, aggregate: 'sequence_mean' },
      update: (c) => ({ fewest: fewestCalls(c, members(c)) }),
    }
  },
)
