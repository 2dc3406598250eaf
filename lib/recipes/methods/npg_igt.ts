import { grpoError } from '../../addon/errors.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>

/** What the optimizer carries from step to step. Plain lists: it can be written as JSON. */
export interface Momentum {
  /** Steps that were made. */
  readonly t: number
  readonly parameters: readonly number[]
  /** The parameters of the step before. */
  readonly before: readonly number[]
  /** null before the first step, which takes the gradient itself. */
  readonly direction: readonly number[] | null
}

export const startMomentum = (parameters: Numbers): Momentum => {
  return { t: 0, parameters: Array.from(parameters), before: Array.from(parameters), direction: null }
}

/** A vector that has to fit the parameters. */
export function checkVector(method: string, name: string, x: Numbers, { parameters }: Momentum): Numbers {
  if (x.length === parameters.length) return x
  throw grpoError('shape', method, name, `has ${x.length} values, expected ${parameters.length}, one per parameter`)
}

export const dot = (x: Numbers, y: Numbers): number =>
  Array.from(x).reduce((total, value, i) => total + value * (y[i] as number), 0)

/** parameters + size direction, or size direction / |direction|; a direction of length 0 moves nothing. */
export function move(state: Momentum, direction: readonly number[], size: number, normalize: boolean): Momentum {
  const length = normalize ? Math.sqrt(dot(direction, direction)) : 1
  const scale = length === 0 ? 0 : size / length
  const parameters = state.parameters.map((x, i) => x + scale * (direction[i] as number))
  return { t: state.t + 1, parameters, before: state.parameters, direction }
}

/**
 * [N] the return of each rollout, whose reward comes with its last token: gamma^(length - 1) R for every token. One that is
 * rejected, or has no token, has none.
 */
export function returns(c: Context, gamma: number): { advantage: Float64Array } {
  const counts = (i: number) => c.length[i] !== 0 && c.rolloutMask?.[i] !== 0
  return { advantage: c.rewards.map((r, i) => (counts(i) ? gamma ** ((c.length[i] as number) - 1) * r : 0)) }
}

export const npgIgt = recipe(
  {
    name: 'npgIgt',
    paper: {
      title: 'Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies',
      arxiv: '2302.01734',
    },
    source: 'code',
    reads: { step: ['mask'] },
    unknown: 'That the reward of a rollout comes with its last token is ours; a batch may bring its own advantages.',
    equation: `g = mean over rollouts of the sum over tokens of (sum of later gamma^h reward[h]) grad logp: minus the gradient of the loss
(rollouts without tokens are in no mean over rollouts, but with countEmpty in the step's objective; rejected ones add 0)
eta = eta0 (2 / (t+2))^(4/5),   step = step0 * 2 / (t+2),   t = 0, 1, ...
lookAhead: p~ = p[t] + ((1 - eta) / eta) (p[t] - p[t-1]); the rollouts come from p~
step:      d[t] = (1 - eta) d[t-1] + eta g(p~), at first g;   p[t+1] = p[t] + step d[t] / |d[t]|`,
    options: {
      gamma: ['number = 0.99 0..1', 'discount per token'],
      eta0: ['number = 1 > 0 <= 1', 'first weight of a new gradient'],
      step0: ['number = 0.1 > 0', 'first step size'],
      schedule: ['enum falling|constant', 'as published; or eta0 and step0 in every step'],
    },
  },
  ({ gamma, eta0, step0, schedule }) => {
    const decay = (t: number) => (schedule === 'constant' ? 1 : 2 / (t + 2))
    const eta = (t: number) => eta0 * decay(t) ** 0.8
    return {
      advantages: (c) => returns(c, gamma),
      objective: { surrogate: 'reinforce', aggregate: 'sequence_sum' },
      sample: {
        start: startMomentum,
        /** The parameters that the next rollouts, and their gradient, are to be taken at. */
        lookAhead({ t, parameters, before }: Momentum): number[] {
          const ahead = (1 - eta(t)) / eta(t)
          return parameters.map((x, i) => x + ahead * (x - (before[i] as number)))
        },
        /** After a step along `gradient`, of the return at `lookAhead`: minus that of the loss. */
        step(state: Momentum, gradient: Numbers): Momentum {
          const g = checkVector('npgIgt', 'gradient', gradient, state)
          const weight = eta(state.t)
          const direction =
            state.direction?.map((d, i) => (1 - weight) * d + weight * (g[i] as number)) ?? Array.from(g)
          return move(state, direction, step0 * decay(state.t), true)
        },
      },
    }
  },
)
