import { grpoError } from '../../addon/errors.js'
import { moments } from '../../moments.js'
import { standardize } from '../../standardize.js'
import { softmax } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>

export const mdpo = recipe(
  {
    name: 'mdpo',
    paper: { title: 'Mirror Descent Policy Optimization', arxiv: '2005.09814' },
    source: 'code',
    unknown: `The code has the exact KL of each state and advantages from a critic; for tokens the KL is an estimator, and without
a critic (which gives tokenAdvantage) the standardised rewards stand in. The number of iterations is the run's own.`,
    equation: `A = (R - mean) / std over the batch, std with divisor N, no eps; 0 where all rewards are equal
loss = mean over tokens of -r A + KL(policy, old policy) / t,   no clipping
t = 1 - k / iterations in iteration k = 0, 1, ...; it stays at 1 / iterations once they are over
closed form for a table: probability of an action ∝ old exp(t A)`,
    options: {
      iterations: ['integer = 1000 >= 1', 'of the whole run: t falls over them'],
      schedule: ['enum paper|code', 'code: t = 1 - (k - 1) / iterations'],
      kl: ['enum k3|k2', 'the estimator on logp - oldLogp, with its exact gradient'],
      klWeight: [
        'enum none|ratio',
        'ratio: the estimator is multiplied by the ratio: for k3 the gradient is r (logp - oldLogp)',
      ],
    },
    state: { version: 1, initial: () => ({ iteration: 0 }), shape: { iteration: 'integer >= 0' } },
  },
  ({ iterations, schedule, kl, klWeight }) => {
    /** Of an iteration, above 0: from 1 (for the code 1 + 1 / iterations) down. */
    const stepSize = (iteration: number) => {
      const k = Math.min(iteration, iterations - 1)
      return 1 - (schedule === 'code' ? k - 1 : k) / iterations
    }
    return {
      advantages(c) {
        const rewards = { x: Float32Array.from(c.rewards), mask: c.rolloutMask }
        return { advantage: standardize(rewards, { moments: moments(rewards), ddof: 0, eps: 0 }).x.data }
      },
      weights: (c) => ({ refLogp: c.at('oldLogp') }),
      objective: (c) => ({
        clipLow: null,
        clipHigh: null,
        klCoef: 1 / stepSize(c.state.iteration),
        kl,
        klWeight,
      }),
      update: (c) => ({ iteration: c.state.iteration + 1 }),
      sample: {
        stepSize,
        /** The new probabilities of the actions of a state, from the old ones and the advantages. */
        closedForm(old: Numbers, advantage: Numbers, t: number): Float64Array {
          if (advantage.length !== old.length) {
            throw grpoError(
              'shape',
              'mdpo',
              'advantage',
              `has ${advantage.length} values, expected ${old.length} (from old)`,
            )
          }
          return softmax(Float64Array.from(old, (p, a) => Math.log(p) + t * (advantage[a] as number)))
        },
      },
    }
  },
)
