import { sequenceSum } from '../../sequence_sum.js'
import { members } from '../parts/members.js'
import { at, centerOf, mean } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface GtpoState {
  /** Mean token entropy of the first batch; null before it. */
  initialEntropy: number | null
}

/**
 * R - mean(g) of each rollout, 0 where it is rejected. What the rounding of the mean leaves is 0, so that a reward that is
 * the mean has no sign.
 */
function centered(c: Context): Float64Array {
  const advantage = new Float64Array(c.N)
  for (const places of members(c)) {
    const rewards = at(c.rewards, places)
    const center = centerOf(rewards)
    const rounding = rewards.reduce((total, r) => total + Math.abs(r), 0) * Number.EPSILON
    for (const i of places) {
      const excess = (c.rewards[i] as number) - center
      advantage[i] = Math.abs(excess) <= rounding ? 0 : excess
    }
  }
  return advantage
}

/**
 * How many first tokens of each rollout are in conflict: some rollout with A > 0 and some rollout with A < 0 have that
 * token at that place. The first one that is not ends the run.
 */
function leadingRuns(rollouts: readonly (readonly number[])[], sign: readonly number[]): number[] {
  const run = rollouts.map(() => 0)
  for (let place = 0; ; place++) {
    const tokensOf = (wanted: number) =>
      new Set(rollouts.flatMap((ids, k) => (sign[k] === wanted && place < ids.length ? [ids[place]] : [])))
    const [above, below] = [tokensOf(1), tokensOf(-1)]
    let running = false
    for (const [k, ids] of rollouts.entries()) {
      if (run[k] !== place || sign[k] === 0 || !above.has(ids[place]) || !below.has(ids[place])) continue
      run[k] = place + 1
      running = true
    }
    if (!running) return run
  }
}

export const gtpo = recipe(
  {
    name: 'gtpo',
    paper: { title: 'GTPO: Trajectory-Based Policy Optimization in LLMs', arxiv: '2508.03772' },
    source: 'code',
    reads: ({ form }: { form: string }) => ({
      step: ['mask', 'token', 'entropy'],
      update: form === 'code' ? ['logp'] : [],
    }),
    unknown: `The mean of the initial entropy, here over the rollouts of the first batch, and places beside masked tokens:
here only unmasked tokens have a place. In the released code a trailing run is counted from the wrong end, so that n is the
longer of the two runs, not the size of their union. H is that of the policy at prepareStep, also in later updates.`,
    equation: `A = R - mean(g),   H = mean over the tokens of a rollout of the entropy
a token is in conflict if it lies in the run of tokens at the beginning of its rollout, or at the end, each of which some
rollout of the group with A > 0 and one with A < 0 have at the same place, counted from that side
lambda = product over the two runs that it lies in of conflictWeight where A > 0, of 0 where A < 0
delta = 0 if the initial entropy < threshold < H, else 1
loss = mean over rollouts of -delta (A - gamma H) mean over tokens of r lambda
released code: loss = sum over rollouts of the same with r = 1, divided by n; delta = 0 if H > threshold`,
    columns: {
      initialEntropy: 'number? mean token entropy of the model before training; without it that of the first batch',
    },
    options: {
      conflictWeight: [
        'number = 2 >= 0',
        'factor of a conflict token of a rollout with A > 0, for each of the two runs',
      ],
      gamma: ['number = 0.1 >= 0', 'factor of the entropy in the advantage'],
      threshold: [
        'number = 0.6931471805599453 >= 0',
        'largest mean entropy: ln 2, also with form code; the released code has 0.7',
      ],
      form: ['enum paper|code', 'the published objective, or what the released code computes'],
    },
    state: {
      version: 1,
      initial: (): GtpoState => ({ initialEntropy: null }),
      shape: { initialEntropy: 'f32?' },
    },
  },
  ({ conflictWeight, gamma, threshold, form }) => {
    type C = Context<{ readonly initialEntropy?: number | undefined }, GtpoState>
    const entropies = (c: C) =>
      sequenceSum({ x: c.entropy, sequenceStart: c.sequenceStart, mask: c.mask }, { mean: true }).x.data
    const initialEntropy = (c: C, H: Float32Array) =>
      c.columns.initialEntropy ?? c.state.initialEntropy ?? mean(H.filter((_, i) => (c.length[i] as number) > 0))
    return {
      advantages(c) {
        const advantage = centered(c)
        const H = entropies(c)
        const filtered = form === 'code' || initialEntropy(c, H) < threshold
        const tokenAdvantage = new Float32Array(c.T)
        for (const { begin, end } of c.groups) {
          const places = Array.from({ length: end - begin }, (_, k) => {
            const [first, last] = [c.sequenceStart[begin + k] as number, c.sequenceStart[begin + k + 1] as number]
            return Array.from({ length: last - first }, (_, t) => first + t).filter((t) => c.mask?.[t] !== 0)
          })
          const tokens = places.map((list) => list.map((t) => c.token[t] as number))
          const sign = Array.from(advantage.subarray(begin, end), Math.sign)
          const lead = leadingRuns(tokens, sign)
          const trail = leadingRuns(tokens.map((list) => list.toReversed()), sign) // biome-ignore format: beside lead
          for (const [k, list] of places.entries()) {
            const [i, leading, trailing] = [begin + k, lead[k] as number, trail[k] as number]
            const spread = H[i] as number
            if (c.rolloutMask?.[i] === 0 || (filtered && spread > threshold)) continue
            const n = form === 'code' ? Math.max(1, leading, trailing) : 1
            const shaped = ((advantage[i] as number) - gamma * spread) / n
            const inRun = sign[k] === 1 ? conflictWeight : 0
            for (const [place, t] of list.entries()) {
              const forward = place < leading ? inRun : 1
              const backward = place >= list.length - trailing ? inRun : 1
              tokenAdvantage[t] = shaped * forward * backward
            }
          }
        }
        return { tokenAdvantage }
      },
      // The released code differentiates exp(logp - sg[logp]).
      weights: (c) => (form === 'code' && c.has('oldLogp') ? { oldLogp: c.logp } : {}),
      objective: {
        clipLow: null,
        clipHigh: null,
        aggregate: 'sequence_mean',
        ...(form === 'code' ? { normalizer: 1 } : { countEmpty: true }),
      },
      update(c): GtpoState {
        return {
          initialEntropy: c.length.some((n) => n > 0) ? initialEntropy(c, entropies(c)) : c.state.initialEntropy,
        }
      },
    }
  },
)
