import { float32Map } from '../parts/map_tokens.js'
import { members } from '../parts/members.js'
import { oncePerBatch } from '../parts/once_per_batch.js'
import { knownOf, remember } from '../parts/prompts.js'
import { at, centerOf, standardDeviation } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

/** Of a prompt: mean and standard deviation of its rewards over all visits, and how many visits there were. */
export interface Visits {
  mean: number
  std: number
  times: number
}

/**
 * The statistics of all visits, this one included: with ddof 0 and visits of one size those of all rewards together. Where
 * every reward so far is the same, they are exactly that reward and 0: a deviation from rounding would become an advantage.
 */
function merged({ mean: m, std: s, times }: Visits, now: number, spread: number): Visits {
  const i = times + 1
  if (s === 0 && spread === 0 && m === now) return { mean: now, std: 0, times: i }
  const variance = (spread ** 2 + times * s ** 2 + (times / i) * (m - now) ** 2) / i
  return { mean: (now + times * m) / i, std: Math.sqrt(variance), times: i }
}

/** 4 eps / q; a probability q that underflows to 0 with eps 0 leaves no width. */
const width = (eps: number, q: number) => (eps === 0 ? 0 : (4 * eps) / q)

const standardized = (x: number, center: number, spread: number) => (spread === 0 ? 0 : (x - center) / spread)

export const dcpo = recipe(
  {
    name: 'dcpo',
    paper: { title: 'DCPO: Dynamic Clipping Policy Optimization', arxiv: '2509.02333' },
    source: 'paper',
    reads: { update: ['mask', 'oldLogp'] },
    unknown: `How the sum over responses is normalised across the prompts of a mini-batch: here it is not. A group without
rollouts that count is no visit; visits of different sizes weigh the same.`,
    equation: `bounds of a token with old probability q:
  low(q) = (1 + sqrt(max(1 - 4 epsLow / q, 0))) / 2,   high(q) = min((1 + sqrt(1 + 4 epsHigh / q)) / 2, maxRatio)
advantage at the i-th visit of a prompt, A_new and A_tot standardised by this visit and by all visits:
  S_new = ((i - 1) A_new + A_tot) / i,   S_tot = (A_new + (i - 1) A_tot) / i,   A = the smaller of the two in size
loss = sum over rollouts of the mean over tokens of -min(r A, clip(r, low, high) A), at most -maxRatio A where A < 0`,
    columns: { prompt: 'id[G] names the prompt of each group, the same on every visit' },
    options: {
      epsLow: ['number = 0.16 >= 0', 'of the lower bound; the released script has 0.2'],
      epsHigh: ['number = 0.2 >= 0', 'of the upper bound; the released script has 0.28'],
      maxRatio: ['number = 10 > 1', 'largest ratio that counts, for both signs of the advantage'],
      ddof: ['integer = 0 0..1', '0 as in the paper; 1 as in the released code'],
      history: ['boolean = true', 'false: every visit is the first, as in the released scripts'],
      aggregate: [
        'enum sequence_sum_token_mean|token_mean',
        'the paper’s; or the released code’s over the micro-batch, without its factor rows / size of the mini-batch',
      ],
    },
    state: {
      version: 1,
      initial: () => ({ prompts: {} as Record<string, Visits> }),
      shape: { prompts: { '*': { mean: 'f32', std: 'f32 >= 0', times: 'integer >= 1' } } },
    },
    example: { prompt: ['a', 'b'] },
  },
  ({ epsLow, epsHigh, maxRatio, ddof, history, aggregate }) => {
    type C = Context<{ readonly prompt: readonly (string | number)[] }, { prompts: Record<string, Visits> }>
    const none: Visits = { mean: 0, std: 0, times: 0 }
    /** Of each group: this visit alone, and all visits of its prompt. */
    const visits = (c: C) => {
      const seen = { ...c.state.prompts }
      return members(c).flatMap((places, g) => {
        if (places.length === 0) return []
        const key = c.columns.prompt[g]
        const rewards = at(c.rewards, places)
        const [now, spread] = [centerOf(rewards), standardDeviation(rewards, ddof)]
        const all = merged((history && knownOf(seen, key)) || none, now, spread)
        remember(seen, key, all)
        return [{ key, places, now, spread, all }]
      })
    }
    return {
      advantages(c) {
        const advantage = new Float64Array(c.N)
        for (const { places, now, spread, all } of visits(c)) {
          for (const i of places) {
            const fresh = standardized(c.rewards[i] as number, now, spread)
            const total = standardized(c.rewards[i] as number, all.mean, all.std)
            const n = all.times
            const towardsNew = ((n - 1) * fresh + total) / n
            const towardsTotal = (fresh + (n - 1) * total) / n
            advantage[i] = Math.abs(towardsNew) < Math.abs(towardsTotal) ? towardsNew : towardsTotal
          }
        }
        return { advantage }
      },
      weights(c) {
        // A probability that underflows to 0 has the bounds 0.5 and maxRatio: the limits of the two formulas.
        const bounds = (of: (p: number) => number) => float32Map(c.oldLogp, (logp) => of(Math.fround(Math.exp(logp))))
        const low = (p: number) => 0.5 + 0.5 * Math.sqrt(Math.max(1 - width(epsLow, p), 0))
        const high = (p: number) => Math.min(0.5 + 0.5 * Math.sqrt(1 + width(epsHigh, p)), maxRatio)
        return {
          ratioLow: oncePerBatch(c, `dcpo low ${epsLow}`, () => bounds(low)),
          ratioHigh: oncePerBatch(c, `dcpo high ${epsHigh} ${maxRatio}`, () => bounds(high)),
        }
      },
      objective:
        aggregate === 'token_mean'
          ? { dualClip: maxRatio }
          : { dualClip: maxRatio, aggregate: 'sequence_mean', normalizer: 1 },
      // A batch that brings its own advantages may have no rewards: then it is no visit.
      update: (c) =>
        c.has('rewards')
          ? { prompts: { ...c.state.prompts, ...Object.fromEntries(visits(c).map(({ key, all }) => [key, all])) } }
          : c.state,
    }
  },
)
