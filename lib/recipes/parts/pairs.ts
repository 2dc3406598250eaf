// Losses of preference pairs: which rollouts are compared, and the loss of a difference of their scores.
import { grpoError } from '../../addon/errors.js'
import type { Context } from '../step/context.js'
import { logSigmoid, scoresOf, sigmoid } from './sequence_scores.js'

type Numbers = ArrayLike<number>

/** The columns of a method that learns from pairs. */
export const pairColumns = {
  chosen: 'integer[M] the preferred rollout of each pair, counted through the batch',
  rejected: 'integer[M] the other rollout of each pair',
} as const

export type PairContext = Context<{ readonly chosen: Int32Array; readonly rejected: Int32Array }>

/** Refuses indices that are no rollouts. */
export function checkRollouts(c: Context, name: string, rollouts: Int32Array): Int32Array {
  const wrong = rollouts.findIndex((i) => i < 0 || i >= c.N)
  if (wrong < 0) return rollouts
  throw grpoError(
    'value',
    c.method,
    name,
    `has ${rollouts[wrong]} at ${wrong}, expected a rollout from 0 to ${c.N - 1}`,
  )
}

/** [N] tokens of each rollout that enter the loss: c.length does not know what a selection or a correction has masked. */
export const tokenCounts = (c: Context): Float32Array => scoresOf(c, new Float32Array(c.T).fill(1))

/** Whether all of some rollouts have an unmasked token, and none is rejected. */
export function comparable(c: Context): (rollouts: readonly number[]) => boolean {
  const tokens = tokenCounts(c)
  return (rollouts) => rollouts.every((i) => tokens[i] !== 0 && c.rolloutMask?.[i] !== 0)
}

/** The pairs [chosen, rejected]. One that is not comparable is left out. */
export function pairsOf(c: PairContext): (readonly [chosen: number, rejected: number])[] {
  const chosen = checkRollouts(c, 'chosen', c.columns.chosen)
  const rejected = checkRollouts(c, 'rejected', c.columns.rejected)
  const same = chosen.findIndex((i, m) => i === rejected[m])
  if (same >= 0) {
    throw grpoError(
      'value',
      c.method,
      'rejected',
      `has ${chosen[same]} at ${same}, expected another rollout than chosen`,
    )
  }
  return Array.from(chosen, (i, m) => [i, rejected[m] as number] as const).filter(comparable(c))
}

/** A loss of a number, and its derivative. */
export interface Head {
  readonly loss: number
  readonly slope: number
}

/** -(1 - smoothing) log sigmoid(h) - smoothing log sigmoid(-h) */
export const logisticHead = (h: number, smoothing = 0): Head => ({
  loss: -(1 - smoothing) * logSigmoid(h) - smoothing * logSigmoid(-h),
  slope: -(1 - smoothing) * sigmoid(-h) + smoothing * sigmoid(h),
})

export interface PairLoss {
  readonly loss: number
  readonly gradChosen: Float64Array // [N] with respect to chosenScore
  readonly gradRejected: Float64Array // [N]
  /** How many pairs it is a mean over. */
  readonly count: number
}

/** Mean over pairs of head(chosenScore - rejectedScore); 0 without pairs. A rollout may be in several pairs. */
export function pairLoss(
  pairs: readonly (readonly [number, number])[],
  chosenScore: Numbers,
  rejectedScore: Numbers,
  head: (difference: number) => Head,
): PairLoss {
  let loss = 0
  const gradChosen = new Float64Array(chosenScore.length)
  const gradRejected = new Float64Array(rejectedScore.length)
  for (const [i, j] of pairs) {
    const { loss: value, slope } = head((chosenScore[i] as number) - (rejectedScore[j] as number))
    loss += value / pairs.length
    gradChosen[i] = (gradChosen[i] as number) + slope / pairs.length
    gradRejected[j] = (gradRejected[j] as number) - slope / pairs.length
  }
  return { loss, gradChosen, gradRejected, count: pairs.length }
}
