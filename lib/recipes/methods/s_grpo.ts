import { grpoError } from '../../addon/errors.js'
import { type Layout, treeLayout } from '../../tree_layout.js'
import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

/** A serial group in tokens: the prompt, and the exits from the front to the back, the last being the full rollout. */
export interface SerialGroup {
  readonly prompt: number
  /** Tokens of the thought before the exit, and of what follows there, the text that forces the exit included. */
  readonly exits: readonly { readonly thought: number; readonly answer: number }[]
}

export const sGrpo = recipe(
  {
    name: 'sGrpo',
    paper: { title: 'S-GRPO: Early Exit via Reinforcement Learning in Reasoning Models', arxiv: '2505.07686' },
    source: 'third-party',
    unknown: `Whether the advantage is divided by the standard deviation, and whether every exit trains the thought it
shares: not divided, and as the mask says. A third-party implementation decays by the index of the exit.`,
    equation: `a group is ordered by exit position, front to back, and ends with the full rollout
R[i] = 2^(1 - number of correct exits up to and including i) if correct, else 0
decay index: R[i] = 2^(-place of i in the group, rejected exits included) if correct
A[i] = R[i] - mean(g), with scale group_std divided by std(g) + eps`,
    columns: { correct: 'flag[N] whether the answer is right; the exits of a group from front to back' },
    options: {
      decay: ['enum correct|index', 'what halves the reward: each correct exit so far, or each exit'],
      scale: ['enum none|group_std', 'what divides the advantage'],
      exits: ['integer = 8 >= 1', 'how many positions are drawn for one thought'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { correct: [0, 1, 1, 1, 1, 0, 0, 1] },
  },
  ({ decay, scale, exits, eps, klCoef }) => ({
    rewards(c) {
      const reward = new Float64Array(c.N)
      for (const [g, places] of members(c).entries()) {
        let right = 0
        for (const i of places) {
          const place = i - (c.groupStart[g] as number)
          if (c.columns.correct[i]) reward[i] = 2 ** -(decay === 'index' ? place : right++)
        }
      }
      return reward
    },
    advantages: { scale, eps },
    objective: { klCoef, aggregate: 'sequence_mean' },
    sample: {
      /** Where to leave a thought of so many tokens: after 1 to `thought` of them, uniform, sorted; some may repeat. */
      exits(thought: number, random: () => number): number[] {
        if (!Number.isInteger(thought) || thought < 1) {
          throw grpoError('value', 'sGrpo', 'thought', `is ${thought}, expected a whole number from 1`)
        }
        return Array.from({ length: exits }, () => 1 + Math.floor(random() * thought)).sort((a, b) => a - b)
      },
      /**
       * How serial groups lie packed: each part of a thought once, whichever exits share it. Segments of a group are
       * the prompt, then for each exit the thought since the one before, and the answer. Sequences are the exits.
       */
      layout(groups: readonly SerialGroup[]): Layout {
        const length: number[] = []
        const parent: number[] = []
        const end: number[] = []
        const add = (tokens: number, after: number) => {
          parent.push(after)
          return length.push(tokens) - 1
        }
        for (const [g, { prompt, exits: list }] of groups.entries()) {
          let before = 0
          let path = add(prompt, -1)
          for (const { thought, answer } of list) {
            if (!(thought >= before)) {
              const problem = `has one after ${thought} tokens in group ${g}, expected at least ${before}: they rise`
              throw grpoError('value', 'sGrpo', 'exits', problem)
            }
            path = add(thought - before, path)
            end.push(add(answer, path))
            before = thought
          }
        }
        return treeLayout({ length, parent, end })
      },
    },
  }),
)
