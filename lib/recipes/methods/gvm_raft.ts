import { grpoError } from '../../addon/errors.js'
import { mean, roundHalfEven, sum } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

/** Of each prompt: how much a sample of it is worth, its share of the budget, and its samples. */
export interface Allocation {
  readonly weight: Float64Array
  readonly share: Float64Array
  readonly count: Int32Array
}

/** x over its sum; all 0 stays so. */
function normalized(x: Float64Array): Float64Array {
  const total = sum(x)
  return total === 0 ? x : x.map((value) => value / total)
}

/** Whole numbers that add up to n: rounded, then moved by one where rounding has moved furthest, the first of equals. */
function rounded(share: Float64Array, n: number): Int32Array {
  const count = Int32Array.from(share, (q) => roundHalfEven(q * n))
  const missing = n - sum(count)
  const sign = Math.sign(missing)
  const residual = Array.from(share, (q, i) => sign * (q * n - (count[i] as number)))
  const order = residual.map((_, i) => i).sort((i, j) => (residual[j] as number) - (residual[i] as number) || i - j)
  for (const i of order.slice(0, Math.abs(missing))) count[i] = (count[i] as number) + sign
  return count
}

export const gvmRaft = recipe(
  {
    name: 'gvmRaft',
    paper: {
      title: 'Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and RL',
      arxiv: '2505.02391',
    },
    source: 'code',
    unknown:
      'Which rounding remainders win among equals (here the first), and what happens when no prompt has an accepted sample: nothing is allocated. A = max(R, 0) is RAFT++, which trains on what was accepted, as it is described: it was not read in the code.',
    equation: `of a prompt: p = accepted / samples, G = mean over accepted samples of |gradient of the log-likelihood|, 0 for none
w = G / sqrt(p + alpha / p^(beta - 1)) where G > 0 and p > 0, else 0;   q = w / sum w
q = 0 where p > filterThreshold or p q n < filterInsufficient (a filter of 0 is none), normalized again
count = q n rounded to even and corrected to the sum n = min(budget, prompts * samples)
A = max(R, 0), or GRPO's;  loss = mean over tokens of -min(r A, clip(r) A), at most -dualClip A where A < 0, + klCoef k3`,
    columns: {
      gradientNorm: 'number[G]? G of each prompt, for the allocation of the next stage',
      acceptance: 'number[G]? p of each prompt, likewise',
    },
    options: {
      alpha: ['number = 0.001 >= 0', 'weight of the penalty on rarely accepted prompts'],
      beta: ['number = 2', 'exponent of the penalty'],
      samples: ['integer = 8 >= 1', 'per prompt in the first stage; 16 in the script that measures gradients'],
      budget: ['integer = 10000 >= 0', 'samples of the second stage, over all prompts'],
      filterThreshold: ['number = 0 0..1', 'prompts accepted more often get nothing; 1 in the script; 0: no filter'],
      filterInsufficient: ['number = 0 >= 0', 'nor those with fewer expected accepted samples; 0: no filter'],
      estimator: ['enum raft|grpo', 'advantages: the reward itself, or GRPO’s'],
      singleton: [
        'enum zero|raw',
        'grpo: what a group of one gets: 0, or its reward, as in verl, which the code is built on',
      ],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      dualClip: ['number? = 3 > 1', 'bound of the ratio for negative advantages'],
      klCoef: ['number = 0.001 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { gradientNorm: [4, 2], acceptance: [0.5, 0.25] },
  },
  ({ alpha, beta, samples, budget, filterThreshold, filterInsufficient, estimator, singleton, ...objective }) => {
    const allocate = (gradientNorm: ArrayLike<number>, acceptance: ArrayLike<number>): Allocation => {
      if (gradientNorm.length !== acceptance.length) {
        const problem = `has ${gradientNorm.length} values, expected ${acceptance.length} as acceptance`
        throw grpoError('shape', 'gvmRaft', 'gradientNorm', problem)
      }
      const n = Math.min(budget, acceptance.length * samples)
      const weight = Float64Array.from(acceptance, (p, i) => {
        const norm = gradientNorm[i] as number
        return norm > 0 && p > 0 ? norm / Math.sqrt(p + alpha / p ** (beta - 1)) : 0
      })
      const kept = normalized(weight).map((q, i) => {
        const p = acceptance[i] as number
        const easy = filterThreshold > 0 && p > filterThreshold
        return easy || (filterInsufficient > 0 && p * q * n < filterInsufficient) ? 0 : q
      })
      const share = normalized(kept)
      return { weight, share, count: rounded(share, sum(share) === 0 ? 0 : n) }
    }
    return {
      advantages:
        estimator === 'grpo'
          ? { eps: 1e-6, singleton }
          : (c) => ({ advantage: c.rewards.map((r, i) => (c.rolloutMask?.[i] === 0 ? 0 : Math.max(r, 0))) }),
      objective,
      sample: {
        /** From the gradient norms of the accepted samples of each prompt. */
        estimate: (norms: readonly ArrayLike<number>[]) => ({
          gradientNorm: Float64Array.from(norms, mean),
          acceptance: Float64Array.from(norms, (accepted) => accepted.length / samples),
        }),
        allocate,
        /** The allocation of the next stage, if the batch has both columns. */
        next: ({ columns: { gradientNorm, acceptance } }) =>
          gradientNorm && acceptance ? allocate(gradientNorm, acceptance) : undefined,
      },
    }
  },
)
