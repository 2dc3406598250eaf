import { moments } from '../../moments.js'
import { sequenceSum } from '../../sequence_sum.js'
import { standardize } from '../../standardize.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

const leaveOneOut = (singleton: 'zero' | 'raw') => ({ center: 'leave_one_out', scale: 'none', singleton }) as const

export const rloo = recipe(
  {
    name: 'rloo',
    paper: {
      title: 'Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs',
      arxiv: '2402.14740',
    },
    source: 'code',
    reads: ({ klCoef }: { klCoef: number }) => (klCoef === 0 ? {} : { step: ['mask', 'oldLogp', 'refLogp'] }),
    unknown: 'The KL coefficient of the paper, which depends on its data set: 0.05, as TRL has it.',
    equation: `R'[i] = R[i] - klCoef sum over tokens of (oldLogp - refLogp)
A[i] = R'[i] - mean of the others of its group, a group of one 0
loss = mean over rollouts of -A[i] sum over tokens of logp;
form 'clip': mean over rollouts of -min(W A, clip(W, 1 - clipLow, 1 + clipHigh) A), W = exp(sum of (logp - oldLogp))`,
    options: {
      form: [
        'enum reinforce|clip',
        'the paper’s policy gradient; or TRL’s RLOOTrainer, which may use a batch more than once',
      ],
      klCoef: ['number = 0.05 >= 0', 'factor of the KL in the reward; 0 needs neither oldLogp nor refLogp for it'],
      clipLow: ['number = 0.2 >= 0', 'lower width, for the form clip'],
      clipHigh: ['number = 0.2 >= 0', 'upper width, for the form clip'],
      normalize: [
        'boolean = false',
        'TRL’s normalize_advantages: over the batch, with 1e-4 added to the standard deviation',
      ],
      singleton: ['enum zero|raw', 'what a group of one gets: 0, or its reward, as verl’s rloo has it'],
    },
  },
  ({ form, klCoef, clipLow, clipHigh, normalize, singleton }) => ({
    rewards:
      klCoef === 0
        ? undefined
        : ({ rewards, oldLogp, refLogp, sequenceStart, mask }) => {
            const x = oldLogp.map((logp, t) => logp - (refLogp[t] as number))
            const kl = sequenceSum({ x, sequenceStart, mask }).x.data
            return rewards.map((reward, i) => reward - klCoef * (kl[i] as number))
          },
    advantages: normalize
      ? (c) => {
          const over = { x: groupAdvantages(c, leaveOneOut(singleton)).advantage, mask: c.rolloutMask }
          return { advantage: standardize(over, { moments: moments(over), eps: 1e-4 }).x.data }
        }
      : leaveOneOut(singleton),
    objective:
      form === 'clip'
        ? { ratio: 'sequence_product', clipLow, clipHigh, aggregate: 'sequence_mean' }
        : { surrogate: 'reinforce', aggregate: 'sequence_sum' },
  }),
)
