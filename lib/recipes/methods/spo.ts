import { grpoError } from '../../addon/errors.js'
import { moments } from '../../moments.js'
import { standardize } from '../../standardize.js'
import { distinctDraws, repeatedDraws } from '../parts/draws.js'
import { knownOf, remember } from '../parts/prompts.js'
import { at, sum } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'
import type { SavedState } from '../step/state.js'

/** What is believed of a prompt: how many successes and failures were seen, in discounted counts. */
export interface Belief {
  alpha: number
  beta: number
}
export interface SpoState {
  prompts: Record<string, Belief>
}

const unseen: Belief = { alpha: 0.5, beta: 0.5 }
const beliefOf = (state: SpoState, prompt: string | number | undefined): Belief =>
  knownOf(state.prompts, prompt) ?? unseen
const expected = ({ alpha, beta }: Belief) => alpha / (alpha + beta)

export const spo = recipe(
  {
    name: 'spo',
    paper: { title: 'Single-stream Policy Optimization', arxiv: '2509.13232' },
    source: 'code',
    unknown: `The sampling weight for rewards outside 0 to 1, which are refused here, and the paper's gamma. From the code:
gamma 0, eps, the divisor B - 1, and drift as an absolute log-ratio, where the paper speaks of a KL; from the paper: first
beliefs without smoothing. A prompt that occurs twice in a batch is tracked in the order of the batch.`,
    equation: `v = alpha / (alpha + beta) of the prompt, before this step
A = (a - mean(a)) / (std(a) + eps),   a = R - v over the whole batch; 0 where the standard deviation is 0
alpha <- rho alpha + R,   beta <- rho beta + 1 - R,   rho = clip(2^(-drift / halfDrift), rhoMin, rhoMax)
sampling weight of a prompt = sqrt(v (1 - v)) / (alpha + beta)^gamma + floor
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A), at most -dualClip A where A < 0`,
    columns: {
      prompt: 'id[N] names the prompt of each rollout, the same on every visit',
      drift:
        'number[N] mean over the tokens of the prompt’s previous response of |its log-probability then - now|; 0 on the first visit',
    },
    options: {
      rhoMin: [
        'number = 0.875 >= 0 < 1',
        'least discount of the old counts; new prompts begin with 1 / (1 - rhoMin) counts',
      ],
      rhoMax: ['number = 0.96 > 0', 'largest discount; equal to rhoMin it is constant'],
      halfDrift: ['number = 0.06 > 0', 'drift that halves the counts, but for the bounds'],
      firstRollouts: ['integer = 8 >= 1', 'how many first scores of a prompt `sample.start` looks at'],
      smoothing: ['boolean = false', 'true: a half is added to first successes and failures, as in the released code'],
      gamma: ['number = 0 0..1', 'how much less often prompts with many counts are sampled'],
      floor: ['number = 0.05 >= 0', 'added to every sampling weight'],
      eps: ['number = 1e-8 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
      dualClip: ['number? = 10 > 1', 'largest ratio that counts where A < 0'],
    },
    state: {
      version: 1,
      initial: (): SpoState => ({ prompts: {} }),
      shape: { prompts: { '*': { alpha: 'f32 >= 0', beta: 'f32 >= 0' } } },
      check({ prompts }: SpoState) {
        const empty = Object.entries(prompts).find(([, { alpha, beta }]) => alpha + beta === 0)
        return empty && `has no counts at data.prompts.${empty[0]}, expected alpha + beta > 0`
      },
    },
    example: { prompt: ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], drift: [0, 0.01, 0.02, 0, 0.05, 0.1, 0, 0.3] },
  },
  (options) => {
    const { rhoMin, rhoMax, halfDrift, firstRollouts, smoothing, gamma, floor, eps, clipLow, clipHigh, dualClip } =
      options
    if (rhoMin > rhoMax) {
      throw grpoError('option', 'spo', 'rhoMin', `is ${rhoMin}, expected at most rhoMax, which is ${rhoMax}`)
    }
    const first = (scores: ArrayLike<number>, random: () => number): Belief => {
      const n = Math.min(scores.length, firstRollouts)
      if (n === 0) return { ...unseen }
      const all = Array.from(scores)
      const some = all.length > n ? at(all, distinctDraws(all.map(() => 1), n, random)) : all // biome-ignore format: one rule
      const successes = some.filter((score) => score > 0).length
      const half = smoothing ? 0.5 : 0
      const scale = 1 / (1 - rhoMin) / (n + 2 * half)
      return { alpha: scale * (successes + half), beta: scale * (n - successes + half) }
    }
    const weight = (belief: Belief) => {
      const v = expected(belief)
      return Math.sqrt(v * (1 - v)) / (belief.alpha + belief.beta) ** gamma + floor
    }
    return {
      advantages(c) {
        const { prompt } = c.columns
        const x = Float32Array.from(c.rewards, (reward, i) => reward - expected(beliefOf(c.state, prompt[i])))
        const inputs = { x, mask: c.rolloutMask }
        return { advantage: standardize(inputs, { moments: moments(inputs), eps }).x.data }
      },
      objective: { clipLow, clipHigh, dualClip },
      update(c) {
        // A batch that brings its own advantages may have no rewards: then it is no visit.
        if (!c.has('rewards')) return c.state
        const prompts = { ...c.state.prompts }
        c.rewards.forEach((reward, i) => {
          if (c.rolloutMask?.[i] === 0) return
          const drift = c.columns.drift[i] as number
          const wrong = (name: string, x: number, expected: string) =>
            grpoError('value', c.method, name, `has ${x} at ${i}, expected ${expected}`)
          if (!(reward >= 0 && reward <= 1)) throw wrong('rewards', reward, '0 to 1: successes are counted')
          if (!(drift >= 0)) throw wrong('drift', drift, 'a mean of absolute differences')
          const { alpha, beta } = beliefOf({ prompts }, c.columns.prompt[i])
          const rho = Math.min(Math.max(2 ** (-drift / halfDrift), rhoMin), rhoMax)
          remember(prompts, c.columns.prompt[i], { alpha: rho * alpha + reward, beta: rho * beta + 1 - reward })
        })
        return { prompts }
      },
      sample: {
        /** The state to begin with, from scores of a few rollouts of each prompt; above 0 is a success. */
        start(scores: Readonly<Record<string, ArrayLike<number>>>, random: () => number): SavedState<SpoState> {
          const prompts = Object.fromEntries(Object.entries(scores).map(([key, list]) => [key, first(list, random)]))
          return { method: 'spo', version: 1, options, data: { prompts } }
        },
        /** Sampling weights of prompts, from what a step or `start` returned as the state, or its data. */
        weights(state: SpoState | SavedState<SpoState>, prompts: readonly (string | number)[]): number[] {
          const data = 'data' in state ? state.data : state
          return prompts.map((prompt) => weight(beliefOf(data, prompt)))
        },
        /** Indices of the prompts to sample next: without replacement, unless more are wanted than there are. */
        draw(weights: ArrayLike<number>, count: number, random: () => number): number[] {
          if (count <= weights.length) return distinctDraws(weights, count, random)
          if (weights.length > 0) return repeatedDraws(weights, count, random)
          throw grpoError('value', 'spo', 'weights', 'is empty, expected one for each prompt to draw from')
        },
        /** The probability of each prompt that was seen so far. */
        next(c) {
          const known = Object.entries(c.state.prompts)
          const total = sum(known.map(([, belief]) => weight(belief)))
          return Object.fromEntries(known.map(([key, belief]) => [key, weight(belief) / total]))
        },
      },
    }
  },
)
