import { grpoError } from '../../addon/errors.js'
import type { Objective } from '../../objective.js'
import { sum } from '../parts/statistics.js'
import { whitened } from '../parts/tokens.js'
import { listOf } from '../step/columns.js'
import { type Context, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

/** The logarithm of a bound on probabilities, rounded as log-probabilities are: one that equals the bound is not below. */
const logBound = (p: number) => Math.fround(Math.log(p))

/** [T] 1 = probability below the bound when it was sampled. With the mask of the batch, and without rejected rollouts. */
export function lowProbability(c: Context, maxProbability: number): Uint8Array {
  const bound = logBound(maxProbability)
  const { oldLogp } = c
  return masked(c, c.rolloutMask, undefined).map((counted, t) => ((oldLogp[t] as number) < bound ? counted : 0))
}

export interface SegmentLossOptions {
  readonly clipLow: number
  readonly clipHigh: number
  readonly klCoef: number
}

/** The sizes of the whole batch, for a part of it. */
export const totalColumns = {
  totalTokens: 'integer? loss tokens of the whole batch, where this is a part of it',
  totalRollouts: 'integer? rollouts of the whole batch that the KL is averaged over, where this is a part of it',
} as const
export interface Totals {
  readonly totalTokens?: number | undefined
  readonly totalRollouts?: number | undefined
}

/**
 * The loss of both methods: the policy term averaged over the loss tokens, the KL summed over those of a rollout and then
 * averaged over the rollouts that count, also those without a loss token. In terms of the first mean its factor is
 * klCoef tokens / rollouts. The parts of a batch add up to its loss if each is given the totals; a normalizer alone is that
 * of the tokens, and leaves the mean over rollouts to the part.
 */
export function segmentLoss({ klCoef, ...clip }: SegmentLossOptions, rolloutsOf: (c: Context) => number) {
  return {
    objective(c: Context<Totals>): Objective {
      const { totalTokens, totalRollouts } = c.columns
      const common = { ...clip, logRatioClamp: 10, normalizer: totalTokens ?? null }
      if (klCoef === 0) return common
      if ((totalTokens === undefined) !== (totalRollouts === undefined)) {
        const [name, other] = totalTokens === undefined ? ['totalTokens', 'totalRollouts'] : ['totalRollouts', 'totalTokens'] // biome-ignore format: one table
        throw grpoError('missing', c.method, name, `is missing from the batch, expected it beside ${other} as klCoef is ${klCoef}`) // biome-ignore format: one text
      }
      const tokens = totalTokens ?? sum(c.mask ?? [])
      const rollouts = totalRollouts ?? rolloutsOf(c)
      return { ...common, klCoef: rollouts === 0 ? 0 : (klCoef * tokens) / rollouts }
    },
  }
}

export const segmentLossOptions = {
  maxProbability: ['number = 0.9 > 0', 'only tokens that were less probable enter the loss'],
  whiten: ['boolean = true', 'whether advantages are whitened over the loss tokens of the batch'],
  clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
  clipHigh: ['number = 0.2 >= 0', 'upper width'],
  klCoef: ['number = 0.0001 >= 0', 'factor of the KL, as in the rho-1B configurations; 0 needs no refLogp'],
} as const

export const spoChain = recipe(
  {
    name: 'spoChain',
    paper: { title: 'Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for Large Language Models', arxiv: '2505.23564' }, // biome-ignore format: one title
    source: 'code',
    reads: { step: ['mask', 'oldLogp'] },
    unknown: `The code also skips a batch whose mean ratio is above 10. Here that is left to the trainer, who sees the ratio
in the statistics of the loss.`,
    equation: `U = {t: p[t] < maxProbability};   cutpoints: every interval-th of {t - 1: t in U} from the first; -1 is the prompt
V = mean reward of rollouts continued after a cutpoint; at the last token the reward itself
A[t] = V at the end of the segment of t - V at its beginning;   0 where p[t] > maxProbability
A = (A - mean) / sqrt(var + 1e-8) over U;   loss = mean over U of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)
  + klCoef mean over rollouts of the sum over U of k3;   log r within -10 ... 10
The parts of a batch add up to it if each has totalTokens and totalRollouts; a normalizer alone is not enough for the KL.`,
    columns: {
      cutpoints: 'any of each rollout the list that sample.cutpoints gave for it',
      values: 'any of each rollout the list of mean rewards after its cutpoints',
      ...totalColumns,
    },
    options: {
      interval: ['integer = 5 >= 1', 'every how many low-probability tokens a segment ends'],
      ...segmentLossOptions,
    },
    example: {
      cutpoints: [[-1], [-1], [0], [], [-1], [-1, 0], [-1], [0]],
      values: [[0.5], [0.5], [0.75], [], [0.25], [0.25, 0.5], [0.25], [0.25]],
    },
  },
  ({ interval, maxProbability, whiten, ...loss }) => {
    const bound = logBound(maxProbability)
    const listsOf = (c: Context<{ cutpoints: unknown; values: unknown }>, name: 'cutpoints' | 'values') => {
      const lists = c.columns[name]
      if (!Array.isArray(lists) || lists.length !== c.N) {
        throw grpoError('shape', c.method, name, `is no list of ${c.N} lists, expected one for each rollout`)
      }
      return lists.map((list) => Array.from(listOf(c.method, name, list, 'a list for each rollout'), Number))
    }
    return {
      advantages(c) {
        const [cutpoints, values] = [listsOf(c, 'cutpoints'), listsOf(c, 'values')]
        const low = lowProbability(c, maxProbability)
        const tokenAdvantage = new Float32Array(c.T)
        cutpoints.forEach((cuts, i) => {
          const [begin, end] = [c.sequenceStart[i] as number, c.sequenceStart[i + 1] as number]
          const value = values[i] as readonly number[]
          if (value.length !== cuts.length) {
            throw grpoError('shape', c.method, 'values', `has ${value.length} at ${i}, expected ${cuts.length}: one per cutpoint`) // biome-ignore format: one text
          }
          // Without a cutpoint nothing is known but the reward; before the first one there is no value to start from.
          if (cuts.length === 0) return
          const anchors = [...cuts.map((cut, k) => [cut, value[k] as number] as const), [end - begin - 1, c.rewards[i] as number] as const] // biome-ignore format: one list
          anchors.forEach(([place, here], k) => {
            const [before, start] = anchors[k - 1] ?? [-1, here]
            if (!Number.isInteger(place) || place < before || place >= end - begin || (place === before && k > 0)) {
              throw grpoError('value', c.method, 'cutpoints', `has ${place} at ${i}, expected whole places that rise from -1 and end before the last of ${end - begin} tokens`) // biome-ignore format: one text
            }
            tokenAdvantage.fill(here - start, begin + before + 1, begin + place + 1)
          })
        })
        c.oldLogp.forEach((x, t) => {
          if (x > bound) tokenAdvantage[t] = 0
        })
        return { tokenAdvantage: whiten ? whitened(tokenAdvantage, low) : tokenAdvantage }
      },
      select: (c) => ({ tokens: lowProbability(c, maxProbability) }),
      ...segmentLoss(loss, (c) => (c.rolloutMask === undefined ? c.N : sum(c.rolloutMask))),
      sample: {
        /** Places of one rollout after which to sample continuations, -1 for the prompt, from its log-probabilities. */
        cutpoints: (logp: ArrayLike<number>): number[] =>
          Array.from(logp, (x, t) => (Math.fround(x) < bound ? t - 1 : Number.NaN))
            .filter((place) => !Number.isNaN(place))
            .filter((_, k) => k % interval === 0),
      },
    }
  },
)
