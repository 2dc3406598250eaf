import { grpoError } from '../../addon/errors.js'
import { standardDeviation } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

/**
 * Dynamic sampling: 1 for the prompts to keep, [G]. One is dropped when the standard deviation of its rollouts is exactly
 * 0; one with a single rollout is kept. Rejected rollouts (rolloutMask 0) do not count.
 */
function keep(metric: ArrayLike<number>, groupStart: ArrayLike<number>, rolloutMask?: ArrayLike<number>): Uint8Array {
  return Uint8Array.from({ length: groupStart.length - 1 }, (_, g) => {
    const values: number[] = []
    for (let i = groupStart[g] as number; i < (groupStart[g + 1] as number); i++) {
      if (rolloutMask?.[i] !== 0) values.push(metric[i] as number)
    }
    return values.length === 1 || standardDeviation(values, 0) > 0 ? 1 : 0
  })
}

export const dapo = recipe(
  {
    name: 'dapo',
    paper: { title: 'DAPO: An Open-Source LLM Reinforcement Learning System at Scale', arxiv: '2503.14476' },
    source: 'code',
    unknown: `The number added to the standard deviation: 1e-6, as in verl. How often prompts are sampled anew is the
trainer's.`,
    equation: `R'[i] = R[i] + factor p(length[i]), p = 0 up to maxLength - buffer, -1 beyond maxLength, linear between
A[i] = (R'[i] - mean(g)) / (std(g) + eps)
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)
the next batch takes the prompts whose rollouts are not all equal, and others in place of the rest`,
    columns: { accuracy: 'number[N]? what dynamic sampling compares; the shaped rewards where it is absent' },
    options: {
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width: clip-higher'],
      maxLength: ['number? = null > 0', 'soft overlong punishment, with buffer; null: none. The paper has 20480'],
      buffer: ['number? = null > 0', 'the tokens before maxLength over which it grows; the paper has 4096'],
      factor: ['number = 1 >= 0', 'of the punishment'],
      floor: ['boolean = true', 'false: it goes on growing beyond maxLength, as in verl'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      singleton: ['enum zero|raw', 'what a group of one gets: 0, or its reward, as in verl'],
    },
    example: { accuracy: [1, 0, 1, 0, 0, 1, 0, 0] },
  },
  ({ clipLow, clipHigh, maxLength, buffer, factor, floor, eps, singleton }) => {
    if ((maxLength === null) !== (buffer === null)) {
      const [absent, given] = maxLength === null ? ['maxLength', 'buffer'] : ['buffer', 'maxLength']
      throw grpoError('missing', 'dapo', absent as string, `is null, expected a number: ${given} is given`)
    }
    return {
      rewards:
        maxLength === null || buffer === null
          ? undefined
          : (c) =>
              c.rewards.map((reward, i) => {
                const exceed = Math.max(0, (c.length[i] as number) - (maxLength - buffer)) / buffer
                return reward - factor * (floor ? Math.min(exceed, 1) : exceed)
              }),
      advantages: { eps, singleton },
      objective: { clipLow, clipHigh, aggregate: 'token_mean' },
      sample: {
        keep,
        /** Which prompts of this batch to keep, and how many to sample in place of the rest; null without rewards. */
        next(c) {
          const metric = c.columns.accuracy ?? (c.has('rewards') ? c.rewards : undefined)
          if (metric === undefined) return null
          const kept = keep(metric, c.groupStart, c.rolloutMask)
          return { keep: kept, missing: kept.filter((k) => k === 0).length }
        },
      },
    }
  },
)
