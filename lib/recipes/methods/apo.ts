import { grpoError } from '../../addon/errors.js'
import { logisticHead, pairColumns } from '../parts/pairs.js'
import { softmax } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'
import { dpoLoss } from './rdpo.js'

type Numbers = ArrayLike<number>

export const apo = recipe(
  {
    name: 'apo',
    paper: { title: 'Accelerated Preference Optimization for Large Language Model Alignment', arxiv: '2410.06293' },
    source: 'inferred',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown: `The equations were not read in the paper, only summaries of them; alpha and beta of its experiments are not known.
Extrapolating parameters is exact for log-linear policies alone.`,
    equation: `in round k, with pairs sampled from p[k], the reference of the round (oldLogp):
  q[k+1] = argmin mean over pairs of -log sigmoid(beta (log q/p[k] of chosen - of rejected))     the loss of this recipe
  p[k+1] = q[k+1] (q[k+1] / q[k])^alpha, normalised                                              extrapolateProbabilities
  in parameters: theta = theta_q[k+1] + alpha (theta_q[k+1] - theta_q[k])                        extrapolate
Not to be confused with TRL's apo_zero and apo_down, Anchored Preference Optimization.`,
    columns: pairColumns,
    options: {
      beta: ['number = 0.1 > 0', 'scale of the log-ratios'],
      alpha: ['number = 0.3 >= 0 < 1', 'momentum; 0 gives iterative DPO'],
    },
    example: { chosen: [0, 5], rejected: [1, 4] },
  },
  ({ beta, alpha }) => {
    const checkLengths = (before: Numbers, after: Numbers) => {
      if (after.length === before.length) return
      throw grpoError('shape', 'apo', 'after', `has ${after.length} values, expected ${before.length} (from before)`)
    }
    return {
      advantages: () => null,
      objective: (c) => dpoLoss(c, c.oldLogp, beta, logisticHead),
      sample: {
        /** Parameters to sample the next round with, from those that this round and the one before ended with. */
        extrapolate<Parameters extends Float32Array | Float64Array>(before: Parameters, after: Parameters): Parameters {
          checkLengths(before, after)
          return after.map((x, i) => x + alpha * (x - (before[i] as number))) as Parameters
        },
        /** The same for the probabilities of a few outcomes. One that has probability 0 keeps it. */
        extrapolateProbabilities(before: Numbers, after: Numbers): Float64Array {
          checkLengths(before, after)
          const logs = Float64Array.from(after, (p, i) => {
            if (p > 0 && before[i] === 0) throw grpoError('value', 'apo', 'before', `is 0 at ${i}, but after is ${p}`)
            return p === 0 ? -Infinity : Math.log(p) + alpha * (Math.log(p) - Math.log(before[i] as number))
          })
          return softmax(logs)
        },
      },
    }
  },
)
