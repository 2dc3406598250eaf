import { grpoError } from '../../addon/errors.js'
import { recipe } from '../step/recipe.js'

export const trainLong = recipe(
  {
    name: 'trainLong',
    paper: { title: 'Train Long, Think Short: Curriculum Learning for Efficient Reasoning', arxiv: '2508.08940' },
    source: 'paper',
    reads: { step: ['mask'] },
    unknown: `Which weights are the final ones, the weight and parts of the format reward, its factors, eps, clip range
and KL factor: 0.6 and 0.3 of the two pairs explored, 0.1, halves, 1, 1e-8, 0.2 and 0.04. The budget is not rounded.`,
    equation: `L = max(1, budget gamma^floor(step / interval))
Rlen(l) = maxLengthReward l / L to L, falling to 0 at 2 L; shape band: maxLengthReward to L
R[i] = correctWeight correct[i] + lengthWeight Rlen(l[i]) + formatWeight (thinkPart think[i] + answerPart answer[i])
A[i] = (R[i] - mean(g)) / sqrt(var(g) + eps), var dividing by n; 0 in a group of one
loss = mean over rollouts of -min(r A, clip(r) A) + klCoef k3, r = pi(rollout) / pi_old(rollout)`,
    columns: {
      correct: 'flag[N] whether the answer is right',
      think: 'flag[N] whether the think span is well formed',
      answer: 'flag[N] whether the answer span is well formed',
      step: 'integer how many optimization steps came before this one',
    },
    options: {
      budget: ['number = 256 > 0', 'tokens at the beginning'],
      gamma: ['number = 0.7 > 0', 'factor of the budget after each interval'],
      interval: ['integer = 150 >= 1', 'steps with the same budget'],
      shape: ['enum triangle|band', 'the length reward below the budget: rising, or constant as in an ablation'],
      correctWeight: ['number = 0.6 >= 0', 'weight of correctness; 0.3 in the other published pair'],
      lengthWeight: ['number = 0.3 >= 0', 'weight of the length reward; 0.6 in the other published pair'],
      formatWeight: ['number = 0.1 >= 0', 'weight of the format reward'],
      thinkPart: ['number = 0.5 >= 0', 'of the format reward, for the think span'],
      answerPart: ['number = 0.5 >= 0', 'of the format reward, for the answer span'],
      maxLengthReward: ['number = 1 >= 0', 'length reward at the budget'],
      eps: ['number = 1e-8 >= 0', 'added to the variance, under the root'],
      clip: ['number = 0.2 >= 0', 'half width of the clip interval'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: {
      correct: [1, 0, 1, 0, 0, 1, 0, 0],
      think: [1, 1, 1, 0, 1, 1, 1, 1],
      answer: [1, 1, 0, 0, 1, 1, 1, 1],
      step: 150,
    },
  },
  (options) => {
    const { correctWeight, lengthWeight, formatWeight, thinkPart, answerPart, eps, clip, klCoef } = options
    /** Tokens that the prompts of a step ask for. */
    const budget = (step: number) => {
      if (!(step >= 0)) throw grpoError('value', 'trainLong', 'step', `is ${step}, expected at least 0`)
      return Math.max(1, options.budget * options.gamma ** Math.floor(step / options.interval))
    }
    const lengthReward = (length: number, L: number) => {
      if (length > L) return options.maxLengthReward * Math.max(0, 1 - (length - L) / L)
      return options.maxLengthReward * (options.shape === 'band' ? 1 : length / L)
    }
    return {
      rewards(c) {
        const { correct, think, answer, step } = c.columns
        const L = budget(step)
        return c.length.map((length, i) => {
          const format = thinkPart * (think[i] as number) + answerPart * (answer[i] as number)
          return correctWeight * (correct[i] as number) + lengthWeight * lengthReward(length, L) + formatWeight * format
        })
      },
      advantages: { ddof: 0, eps, epsUnderRoot: true },
      objective: { ratio: 'sequence_product', clipLow: clip, clipHigh: clip, klCoef, aggregate: 'sequence_mean' },
      sample: {
        budget,
        /** The budget to write into the prompts of the next step. */
        next({ columns: { step } }) {
          budget(step) // refuses a step that there is not, also where the batch brings its own advantages
          return { budget: budget(step + 1) }
        },
      },
    }
  },
)
