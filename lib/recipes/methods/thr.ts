import { sequenceExpand } from '../../sequence_expand.js'
import type { Context } from '../step/context.js'
import { groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface InfluenceInputs {
  /** [n,D] */
  readonly hiddenState: ArrayLike<number>
  /** [n,V] */
  readonly predictionError: ArrayLike<number>
  /** [m+1] first token of each rollout of the group; ends with n */
  readonly sequenceStart: ArrayLike<number>
  /** [m] */
  readonly correct: ArrayLike<number | boolean>
  /** [n] */
  readonly mask?: ArrayLike<number> | undefined
}

export interface Influence {
  /** [V,D] */
  readonly matrix: Float64Array
  /** [n] s of each token; 0 where masked */
  readonly score: Float64Array
  /** The smallest mean score of a correct rollout; Infinity without one that has tokens. */
  readonly anchor: number
}

/** How much each token of a group moves the likelihood of its correct rollouts. */
function influence({ hiddenState, predictionError, sequenceStart, correct, mask }: InfluenceInputs): Influence {
  const n = sequenceStart[sequenceStart.length - 1] as number
  const [D, V] = n === 0 ? [0, 0] : [hiddenState.length / n, predictionError.length / n]
  const matrix = new Float64Array(V * D)
  const score = new Float64Array(n)
  const tokens = (i: number) => {
    const [begin, end] = [sequenceStart[i] as number, sequenceStart[i + 1] as number]
    return Array.from({ length: end - begin }, (_, k) => begin + k).filter((t) => mask?.[t] !== 0)
  }
  const all = Array.from({ length: sequenceStart.length - 1 }, (_, i) => tokens(i))
  const each = (t: number, visit: (place: number, product: number) => void) => {
    for (let v = 0; v < V; v++) {
      const error = predictionError[t * V + v] as number
      for (let d = 0; d < D; d++) visit(v * D + d, error * (hiddenState[t * D + d] as number))
    }
  }
  const positive = all.filter((list, i) => correct[i] && list.length > 0)
  for (const t of positive.flat()) each(t, (place, product) => (matrix[place] = (matrix[place] as number) + product))
  for (const t of all.flat()) {
    let sum = 0
    each(t, (place, product) => (sum += product * (matrix[place] as number)))
    score[t] = sum
  }
  const means = positive.map((list) => list.reduce((sum, t) => sum + (score[t] as number), 0) / list.length)
  return { matrix, score, anchor: Math.min(...means) }
}

export const thr = recipe(
  {
    name: 'thr',
    paper: {
      title: 'Token Hidden Reward: Steering Exploration-Exploitation in Group Relative Deep Reinforcement Learning',
      arxiv: '2510.03669',
    },
    source: 'third-party',
    reads: { step: ['mask', 'hiddenState', 'predictionError'] },
    unknown:
      'The score and the form nthr follow a note on the predecessor’s paper. The multiplier 1 + p sign(THR), its threshold (here that of nthr) and the values of p are recalled or inferred, not verified: p = 0 keeps the dominant tokens alone.',
    equation: `g = onehot(token) - probabilities, h = hidden state;  M = sum of g h^T over the tokens of the correct rollouts
s = g^T M h,   tau = beta min over correct rollouts of the mean of s
form thr:   THR = sign(A) s,   A' = A (1 + p sign(THR)) where |THR| > tau, else 0
form nthr:  A' = 2 |1/2 - share correct| A in wrong rollouts where s > tau, else A
groups without both correct and wrong rollouts are left as they are; loss as GRPO's with A'`,
    columns: {
      hiddenState: 'f32[T,D] the last hidden state, which predicts the token, under the policy that sampled',
      predictionError: 'f32[T,V] onehot(token) - probabilities, on the tokens that occur in the batch',
      correct: 'flag[N]? which rollouts are right; without it those with a reward above 0',
    },
    options: {
      form: ['enum thr|nthr', 'reweights all tokens by the sign; or softens wrong rollouts alone, as the predecessor'],
      p: ['number = 0 -1..1', 'above 0 towards exploitation, below 0 towards exploration'],
      beta: ['number = 1', 'factor of the threshold'],
      ratio: ['enum token|sequence_token', 'sequence_token: with GSPO-token'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
    },
    example: {
      hiddenState: [
        1, 0, 0.5, 0.5, 1, 0.2, -0.3, 1, 0.4, -0.6, 0.7, 0.1, 0.2, 0.9, -0.5, 0.3, 0.8, -0.2, 0.1, 0.6, 0.3, 0.3, -0.4,
        0.5,
      ],
      predictionError: [
        0.4, -0.3, -0.2, 0.5, 0.5, -0.4, -0.3, 0.6, 0.7, -0.2, -0.6, 0.9, -0.1, 0.3, 0.2, -0.7, 0.6, -0.5, 0.1, 0.4,
        -0.3, 0.8, 0.7, -0.2,
      ],
    },
  },
  ({ form, p, beta, ...objective }) => {
    type C = Context<{
      readonly hiddenState: Float32Array
      readonly predictionError: Float32Array
      readonly correct?: Uint8Array | undefined
    }>
    const multipliers = (c: C, advantage: Float32Array) => {
      const factor = new Float32Array(c.T).fill(1)
      const [D, V] = [c.columns.hiddenState.length / c.T, c.columns.predictionError.length / c.T]
      for (const { begin, end } of c.groups) {
        const [first, last] = [c.sequenceStart[begin] as number, c.sequenceStart[end] as number]
        const kept = Array.from({ length: end - begin }, (_, k) => begin + k).filter((i) => c.rolloutMask?.[i] !== 0)
        const right = kept.filter((i) => (c.columns.correct ? c.columns.correct[i] : (c.rewards[i] as number) > 0))
        if (right.length === 0 || right.length === kept.length) continue
        const { score, anchor } = influence({
          hiddenState: c.columns.hiddenState.subarray(first * D, last * D),
          predictionError: c.columns.predictionError.subarray(first * V, last * V),
          sequenceStart: c.sequenceStart.slice(begin, end + 1).map((t) => t - first),
          correct: Array.from({ length: end - begin }, (_, k) => right.includes(begin + k)),
          mask: c.mask?.subarray(first, last),
        })
        if (anchor === Infinity) continue
        const softened = 2 * Math.abs(0.5 - right.length / kept.length)
        for (const i of kept) {
          for (let t = c.sequenceStart[i] as number; t < (c.sequenceStart[i + 1] as number); t++) {
            const s = score[t - first] as number
            const value = Math.sign(advantage[i] as number) * s
            if (form === 'thr') factor[t] = Math.abs(value) > beta * anchor ? 1 + p * Math.sign(value) : 0
            else if (!right.includes(i) && s > beta * anchor) factor[t] = softened
          }
        }
      }
      return factor
    }
    return {
      advantages(c) {
        const { advantage } = groupAdvantages(c)
        const factor = multipliers(c, advantage)
        const { sequenceStart, mask } = c
        return {
          tokenAdvantage: sequenceExpand({ x: advantage, sequenceStart, mask }).x.data.map((a, t) => a * factor[t]!),
        }
      },
      objective: { ...objective, aggregate: 'sequence_mean' },
      sample: { influence },
    }
  },
)
