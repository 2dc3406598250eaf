import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { at, mean, quantile, standardDeviation, sum } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface RiskPoState {
  /** The tracked quantiles of the scores; null before the first batch. */
  quantiles: { low: number; high: number } | null
}

export const riskPo = recipe(
  {
    name: 'riskPo',
    paper: { title: 'RiskPO: Risk-based Policy Optimization via Verifiable Reward', arxiv: '2510.00911' },
    source: 'code',
    reads: { step: ['mask'] },
    unknown: `A last bundle with fewer questions is kept as it is; where papers of a bundle score all the same, std(X) is 1. A
question without rollouts leaves its bundle without papers: nothing of it is learned.
The released trainer seems to lose its tracked quantiles, and so to use those of each bundle.`,
    equation: `X[k] = sum over the questions of a bundle of R of their k-th rollouts: the score of paper k
rvar = (max(X - a, 0) - max(X - b, 0) + [a - b with naturalBaseline]) / (upper - lower + eps),   a, b the quantiles
cvar = -max(a - X, 0) / (lower + eps),   tail = max(X - b, 0) / (1 - upper + eps)
A[k] = (omega cvar + rvar) / (omega + 1), or with riskSeeking (omega tail + rvar) / (omega + 1); divided by std(X) + eps
credit of a member of the paper: uniform A; std A / (std(question) + eps), std at most 1e-3 counting as 1; score A / 2 where
R > 0, else 3 A / 2; sum-mean A (R - mean(question)) / sum over the members of the same, A / members if that is 0
quantiles: q <- q + trackingRate (level - share of X below q), from those of the first batch`,
    options: {
      bundle: ['integer = 5 >= 1', 'how many questions, one after the other, make a bundle'],
      lower: ['number = 0.2 0..1', 'level of the lower quantile'],
      upper: ['number = 0.8 0..1', 'level of the upper quantile; 0.9 in the easy-math script'],
      omega: ['number = 1.5 >= 0', 'weight of the tail beside the range'],
      credit: ['enum sum-mean|std|uniform|score', 'std in the easy-math script'],
      naturalBaseline: ['boolean = false', 'true in the easy-math script: no advantage of a paper is above 0'],
      riskSeeking: ['boolean = false', 'true: the upper tail in place of the lower one'],
      normalize: ['boolean = true', 'false: not divided by the standard deviation of the papers of the bundle'],
      quantiles: ['enum tracked|bundle|mix', 'of the steps before, of each bundle’s papers, or the mean of the two'],
      trackingRate: ['number = 0.1 >= 0', 'step of the tracked quantiles'],
      eps: ['number = 0.000001 >= 0', 'added to divisors'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
    state: {
      version: 1,
      initial: (): RiskPoState => ({ quantiles: null }),
      shape: { quantiles: { '?': { low: 'f32', high: 'f32' } } },
    },
  },
  (options) => {
    const { lower, upper, omega, credit, naturalBaseline, riskSeeking, normalize, eps, trackingRate } = options
    if (lower > upper) {
      throw grpoError('option', 'riskPo', 'lower', `is ${lower}, expected at most upper, which is ${upper}`)
    }
    // Each of these divides: a level of 0, or two equal ones, leave 0 / 0 without eps.
    const divisors = [upper - lower, riskSeeking ? 1 - upper : lower]
    if (eps === 0 && divisors.includes(0)) {
      const which =
        upper === lower ? 'upper and lower are equal' : `the ${riskSeeking ? 'upper tail' : 'lower tail'} has level 0`
      throw grpoError('option', 'riskPo', 'eps', `is 0, expected a number > 0: ${which}`)
    }
    const levels = (x: ArrayLike<number>) => ({ low: quantile(x, lower), high: quantile(x, upper) })
    /** Of each bundle the papers: their members, and what they score. Rejected rollouts are in none. */
    const bundles = (c: Context) => {
      const all = members(c)
      return Array.from({ length: Math.ceil(all.length / options.bundle) }, (_, b) => {
        const questions = all.slice(b * options.bundle, (b + 1) * options.bundle)
        const papers = Array.from({ length: Math.min(...questions.map((list) => list.length)) }, (_, k) =>
          questions.map((list) => list[k] as number),
        )
        return { questions, papers }
      })
    }
    const scoresOf = (c: Context, papers: number[][]) => papers.map((paper) => sum(at(c.rewards, paper)))
    const risk = (x: number, low: number, high: number) => {
      const above = (q: number) => Math.max(x - q, 0)
      const range = (above(low) - above(high) + (naturalBaseline ? low - high : 0)) / (upper - lower + eps)
      const tail = riskSeeking ? above(high) / (1 - upper + eps) : -Math.max(low - x, 0) / (lower + eps)
      return (omega * tail + range) / (omega + 1)
    }
    return {
      advantages(c) {
        const advantage = new Float64Array(c.N)
        const list = bundles(c).map((bundle) => ({ ...bundle, score: scoresOf(c, bundle.papers) }))
        const tracked = c.state.quantiles ?? levels(list.flatMap(({ score }) => score))
        for (const { questions, papers, score } of list) {
          const own = levels(score)
          const share = { tracked: 1, bundle: 0, mix: 0.5 }[options.quantiles]
          const low = share * tracked.low + (1 - share) * own.low
          const high = share * tracked.high + (1 - share) * own.high
          const spread = normalize ? standardDeviation(score, 1) : 0
          papers.forEach((paper, k) => {
            const whole = risk(score[k] as number, low, high) / (spread === 0 ? 1 : spread + eps)
            const excess = paper.map((i, q) => (c.rewards[i] as number) - mean(at(c.rewards, questions[q] as number[])))
            const total = sum(excess)
            paper.forEach((i, q) => {
              const std = standardDeviation(at(c.rewards, questions[q] as number[]), 1)
              const part = {
                uniform: 1,
                std: 1 / ((std > 1e-3 ? std : 1) + eps),
                score: (c.rewards[i] as number) > 0 ? 0.5 : 1.5,
                'sum-mean': Math.abs(total) > 1e-6 ? (excess[q] as number) / total : 1 / paper.length,
              }[credit]
              advantage[i] = whole * part
            })
          })
        }
        return { advantage }
      },
      /** Rollouts that are in no paper do not enter the loss. */
      select(c) {
        const rollouts = new Uint8Array(c.N)
        for (const i of bundles(c).flatMap(({ papers }) => papers.flat())) rollouts[i] = 1
        return { rollouts }
      },
      objective: { clipLow: options.clipLow, clipHigh: options.clipHigh },
      update(c): RiskPoState {
        // A batch that brings its own advantages may have no rewards.
        const scores = c.has('rewards') ? bundles(c).flatMap(({ papers }) => scoresOf(c, papers)) : []
        if (scores.length === 0) return c.state
        const { quantiles } = c.state
        if (quantiles === null) return { quantiles: levels(scores) }
        const tracked = (q: number, level: number) =>
          q + trackingRate * (level - scores.filter((x) => x < q).length / scores.length)
        return { quantiles: { low: tracked(quantiles.low, lower), high: tracked(quantiles.high, upper) } }
      },
    }
  },
)
