import { recipe } from '../step/recipe.js'
import { checkVector, dot, type Momentum, move, returns, startMomentum } from './npg_igt.js'

type Numbers = ArrayLike<number>

/** Of a rollout from `between`, with u = parameters - before and Phi = sum over tokens of (later rewards) logp. */
export interface Curvature {
  /** Gradient of the log-probability of the whole rollout. */
  readonly gradLogp: Numbers
  /** Gradient of Phi. */
  readonly gradPhi: Numbers
  /** Hessian of Phi times u. */
  readonly hessianProduct: Numbers
}

export const harpg = recipe(
  {
    name: 'harpg',
    paper: {
      title: 'Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies',
      arxiv: '2302.01734',
    },
    source: 'code',
    reads: { step: ['mask'] },
    unknown: `The code multiplies means over the batch in v and seems to have its sign wrong; here v is the mean of the products, as
in the formula. That the reward of a rollout comes with its last token is ours.`,
    equation: `g = mean over rollouts of the sum over tokens of (sum of later gamma^h reward[h]) grad logp: minus the gradient of the loss
(rollouts without tokens are in no mean over rollouts, but with countEmpty in the step's objective; rejected ones add 0)
eta = eta0 * 2 / (t+2),   step = step0 sqrt(2 / (t+2)), or normalised step0 * 2 / (t+2);   t = 0, 1, ...;   u = p[t] - p[t-1]
between:    p^ = b p[t] + (1 - b) p[t-1], b uniform in [0, 1]; extra rollouts come from p^
correction: v = mean over those of <grad logp of the rollout, u> grad Phi + Hessian(Phi) u
step:       d[t] = (1 - eta) (d[t-1] + v) + eta g(p[t]), at first g;   p[t+1] = p[t] + step d[t], or step d[t] / |d[t]|`,
    options: {
      gamma: ['number = 0.99 0..1', 'discount per token'],
      eta0: ['number = 1 > 0 <= 1', 'first weight of a new gradient'],
      step0: ['number = 0.1 > 0', 'first step size'],
      normalize: ['boolean = false', 'N-HARPG: steps of length step'],
      schedule: ['enum falling|constant', 'as published; or eta0 and step0 in every step'],
    },
  },
  ({ gamma, eta0, step0, normalize, schedule }) => {
    const decay = (t: number) => (schedule === 'constant' ? 1 : 2 / (t + 2))
    return {
      advantages: (c) => returns(c, gamma),
      objective: { surrogate: 'reinforce', aggregate: 'sequence_sum' },
      sample: {
        start: startMomentum,
        /** The parameters that the extra rollouts come from. */
        between({ parameters, before }: Momentum, random: () => number): number[] {
          const b = random()
          return parameters.map((x, i) => b * x + (1 - b) * (before[i] as number))
        },
        /** v, from the extra rollouts; 0 without any, and on the first step. */
        correction(state: Momentum, rollouts: readonly Curvature[]): number[] {
          const moved = state.parameters.map((x, i) => x - (state.before[i] as number))
          const total = moved.map(() => 0)
          for (const { gradLogp, gradPhi, hessianProduct } of rollouts) {
            const score = dot(checkVector('harpg', 'gradLogp', gradLogp, state), moved)
            checkVector('harpg', 'gradPhi', gradPhi, state)
            checkVector('harpg', 'hessianProduct', hessianProduct, state)
            for (const [i, sum] of total.entries()) {
              const term = score * (gradPhi[i] as number) + (hessianProduct[i] as number)
              total[i] = sum + term / rollouts.length
            }
          }
          return total
        },
        /** After a step along `gradient`, of the return at the parameters: minus that of the loss. */
        step(state: Momentum, gradient: Numbers, correction: Numbers): Momentum {
          const g = checkVector('harpg', 'gradient', gradient, state)
          const v = checkVector('harpg', 'correction', correction, state)
          const weight = eta0 * decay(state.t)
          const kept = state.direction?.map((d, i) => (1 - weight) * (d + (v[i] as number)) + weight * (g[i] as number))
          const size = step0 * (normalize ? decay(state.t) : Math.sqrt(decay(state.t)))
          return move(state, kept ?? Array.from(g), size, normalize)
        },
      },
    }
  },
)
