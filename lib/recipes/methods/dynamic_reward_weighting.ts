import { grpoError } from '../../addon/errors.js'
import { hypervolume } from '../parts/hypervolume.js'
import { sum } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface RewardWeighting {
  /** Of the objectives; empty before the first step. */
  weights: number[]
  /** The reference point, then every measurement that enlarged the dominated volume. */
  front: number[][]
  /** What the front dominates beyond the reference point. */
  hypervolume: number
  /** Factor of all rewards. */
  meta: number
  /** Influences of the objectives added up since the weights last changed, and over how many batches. */
  influence: number[]
  batches: number
}
interface Columns {
  readonly scores: Float64Array
  readonly weights?: Float64Array | undefined
  readonly validation?: Float64Array | undefined
  readonly gradients?: Float32Array | undefined
}

/** The inner product of each of the K gradients with the sum of all. */
function influences(gradients: Float32Array, K: number): number[] {
  const D = gradients.length / K
  const influence = new Array<number>(K).fill(0)
  for (let d = 0; d < D; d++) {
    let total = 0
    for (let k = 0; k < K; k++) total += gradients[k * D + d] as number
    for (let k = 0; k < K; k++) influence[k] = (influence[k] as number) + (gradients[k * D + d] as number) * total
  }
  return influence
}

// The factor of the rewards is 1, or 0.5 + 1.5 tanh(gain).
const [list, size, factor] = [['f32'] as const, 'number >= 0', 'number 0.5..2']

export const dynamicRewardWeighting = recipe(
  {
    name: 'dynamicRewardWeighting',
    paper: {
      title: 'Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting',
      arxiv: '2509.11452',
    },
    source: 'code',
    unknown: `The factor before the first gain (1), the KL factor (verl's 0.001), and whether new weights serve the
batch whose gradients changed them (the next one). A measurement not above the reference point everywhere gains 0.`,
    equation: `R[i] = meta sum_k w[k] scores[k,i]
hypervolume: gain = volume dominated with the new measurement - volume without it, beyond the first measurement
             meta = 0.5 + 1.5 tanh(gain); the measurement is kept if gain > 0
gradient:    influence[k] = <g[k], sum_j g[j]>, the mean over \`accumulate\` batches
             w = softmax(log w + learningRate / regularization influence)
A[i] = (R[i] - mean(g)) / (std(g) + eps), in which meta cancels but for eps; R / (1 + eps) in a group of one`,
    columns: {
      scores: 'number[K,N] the rewards of each objective, a row of N for each',
      weights:
        'number[K]? of the objectives at the first step; 1 / K each if absent, 0.334, 0.333, 0.333 in the scripts',
      validation: 'number[K]? hypervolume: the objectives on a validation set before this step, more is better',
      gradients: 'f32[K,D]? gradient: of the loss of each objective alone on this batch, clipped to norm 1',
    },
    options: {
      form: ['enum hypervolume|gradient', 'what changes: the factor of all rewards, or their weights'],
      learningRate: ['number = 1e-6 >= 0', 'gradient: that of the policy'],
      regularization: ['number = 1e-5 > 0', 'gradient: divides the learning rate'],
      accumulate: ['integer = 1 >= 1', 'gradient: batches between two changes of the weights'],
      eps: ['number = 1e-6 >= 0', 'added to the standard deviation'],
      clip: ['number = 100 >= 0', 'half width of the clip interval; 100, as in the scripts, clips nothing'],
      klCoef: ['number = 0.001 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    state: {
      version: 1,
      initial: (): RewardWeighting => ({ weights: [], front: [], hypervolume: 0, meta: 1, influence: [], batches: 0 }),
      shape: { weights: list, front: [list], hypervolume: size, meta: factor, influence: list, batches: 'integer >= 0' }, // biome-ignore format: one shape
      check({ weights, front, influence, batches }: RewardWeighting) {
        // Weights are empty until rollouts or a column say how many objectives there are.
        const lists = [...[weights, influence].filter((list) => list.length > 0), ...front]
        const sizes = new Set(lists.map((list) => list.length))
        if (sizes.size > 1)
          return `has ${[...sizes].join(' and ')} objectives at data.weights, data.front and data.influence`
        const [reference, ...kept] = front
        const below = kept.findIndex((point) => point.some((v, k) => v <= (reference?.[k] as number)))
        if (below >= 0) return `has a point at data.front[${below + 1}] that is not above data.front[0] everywhere`
        return influence.length > 0 === batches > 0 ? undefined : `has ${influence.length} values at data.influence, and ${batches} at data.batches` // biome-ignore format: one choice
      },
    },
    example: {
      scores: [1, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1],
      weights: [0.334, 0.333, 0.333],
      validation: [0.4, 0.5, 0.9],
    },
  },
  ({ form, learningRate, regularization, accumulate, eps, clip, klCoef }) => {
    type C = Context<Columns, RewardWeighting>
    /** The state with what was measured before this step: what this step's rewards are made with. */
    function measured({ method, N, columns, state }: C): RewardWeighting {
      const K = N === 0 ? (columns.weights?.length ?? state.weights.length) : columns.scores.length / N
      const first = Array.from(columns.weights ?? new Array<number>(K).fill(1 / K))
      const weights = state.weights.length === 0 ? first : state.weights
      if (weights.length !== K) {
        throw grpoError('value', method, 'state', `has ${weights.length} objectives, expected ${K} as in scores`)
      }
      const usable = (w: number) => Number.isFinite(Math.fround(w)) && (form === 'hypervolume' || w >= 0)
      if (!weights.every(usable) || (form === 'gradient' && K > 0 && sum(weights) === 0)) {
        const expected = `expected float32 numbers${form === 'gradient' ? ', none below 0, one above' : ''}`
        throw grpoError('value', method, weights === first ? 'weights' : 'state', `has the weights ${weights.join(', ')}, ${expected}`) // biome-ignore format: one text
      }
      if (form !== 'hypervolume' || columns.validation === undefined) return { ...state, weights }
      const now = Array.from(columns.validation)
      const [reference, ...kept] = state.front
      if (reference === undefined) return { ...state, weights, front: [now] }
      // Decided by comparison: the difference of two volumes that are equal can be a rounding error above 0.
      const inside = now.some((v, k) => v <= (reference[k] as number))
      const dominated = kept.some((point) => now.every((v, k) => v <= (point[k] as number)))
      if (inside || dominated) return { ...state, weights, meta: 0.5 }
      const volume = hypervolume([...kept, now].map((point) => point.map((v, k) => v - (reference[k] as number))))
      const meta = 0.5 + 1.5 * Math.tanh(Math.max(0, volume - state.hypervolume))
      return { ...state, weights, meta, hypervolume: volume, front: [...state.front, now] }
    }
    return {
      rewards(c) {
        const { weights, meta } = measured(c)
        const { scores } = c.columns
        const total = (i: number) => sum(weights.map((w, k) => w * (scores[k * c.N + i] as number)))
        return Float64Array.from({ length: c.N }, (_, i) => meta * total(i))
      },
      advantages: { eps, singleton: 'raw' },
      objective: { clipLow: clip, clipHigh: clip, klCoef },
      update(c) {
        const state = measured(c)
        // Without rollouts and without weights it is not yet known how many objectives there are.
        const known = state.weights.length > 0
        if (form !== 'gradient' || c.columns.gradients === undefined || !known) return state
        const batches = state.batches + 1
        const influence = influences(c.columns.gradients, state.weights.length).map(
          (x, k) => x + (state.influence[k] ?? 0),
        )
        if (batches < accumulate) return { ...state, influence, batches }
        const exponent = influence.map((x) => (learningRate / regularization) * (x / batches))
        // A weight of 0, whose logarithm is -infinity, stays 0, and is no measure for the others.
        const largest = Math.max(...exponent.filter((_, k) => state.weights[k] !== 0))
        const grown = state.weights.map((w, k) => w && w * Math.exp((exponent[k] as number) - largest))
        return { ...state, weights: grown.map((w) => w / sum(grown)), influence: [], batches: 0 }
      },
    }
  },
)
