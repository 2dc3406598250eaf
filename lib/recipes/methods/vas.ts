import { grpoError } from '../../addon/errors.js'
import { repeatedDraws } from '../parts/draws.js'
import { knownOf, remember } from '../parts/prompts.js'
import { sum } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

export interface VasState {
  step: number
  /** Of each prompt what it is drawn by: its score, or in the form `code` the average of its normalised scores. */
  scores: Record<string, number>
  /** Of the form `code`: the score of each prompt as it was last measured. */
  measured?: Record<string, number>
}

export const vas = recipe(
  {
    name: 'vas',
    paper: {
      title: 'MMR1: Enhancing Multimodal Reasoning with Variance-Aware Sampling and Open Resources',
      arxiv: '2509.21268',
    },
    source: 'paper',
    unknown: `Whether the uniform part of a batch may hold a prompt twice: here it may. A prompt without a score counts as 0,
and before the first scores all prompts are equal. The code walks through one random order, from where it stopped; here the
order is the caller's, and the place follows from the step: exact while batches and prompts keep their number.`,
    equation: `score = accuracyWeight P (1 - P) + diversityWeight diversity,   P the mean correctness of a prompt's rollouts
of a batch of B, floor(mix B) prompts are drawn with replacement in proportion to their scores, the others uniformly
at a refreshment: score <- momentum score + (1 - momentum) its new value, or that value where there was none
released code: that average is of (score - min) / (max - min + 1e-8) over all prompts that have a score, and the weights of
the draw are these averages; the others walk through the prompts in order`,
    columns: {
      scored: 'id[Q]? the prompts whose scores are refreshed at this step',
      correctness: 'number[Q]? the share of correct rollouts of each of them',
      diversity: 'number[Q]? how different its rollouts are: distinct n-grams, inverse self-BLEU; 0 without it',
    },
    options: {
      mix: ['number = 0.5 0..1', 'share of a batch that is drawn by score'],
      accuracyWeight: ['number = 0.8 >= 0', 'factor of the variance of the outcome; 1 in the released code'],
      diversityWeight: ['number = 0.2 >= 0', 'factor of the diversity; 0 in the released code'],
      every: ['integer = 35 >= 1', 'steps between two refreshments; 4 in the released code'],
      momentum: ['number = 0 0..1', 'share of the old score, or normalised score, that is kept at a refreshment'],
      form: ['enum paper|code', 'the published sampler, or that of the released code'],
    },
    state: {
      version: 1,
      initial: (): VasState => ({ step: 0, scores: {} }),
      shape: { step: 'integer >= 0', scores: { '*': 'f32 >= 0' }, 'measured?': { '*': 'f32 >= 0' } },
    },
    example: { scored: ['a', 'b', 'c'], correctness: [0.5, 0.25, 1], diversity: [0.4, 0.3, 0.1] },
  },
  ({ mix, accuracyWeight, diversityWeight, every, momentum, form }) => {
    /** The variance promotion score of a prompt. */
    const score = (correctness: number, diversity = 0) =>
      accuracyWeight * correctness * (1 - correctness) + diversityWeight * diversity
    /** Scores as the form counts them. */
    const weights = (scores: ArrayLike<number>): number[] => {
      const list = Array.from(scores)
      if (form === 'paper') return list
      const low = list.reduce((a, b) => Math.min(a, b), Infinity)
      const range = list.reduce((a, b) => Math.max(a, b), -Infinity) - low + 1e-8
      return list.map((x) => (x - low) / range)
    }
    const shares = (list: readonly number[]): number[] => {
      const total = sum(list)
      return list.map((w) => (total > 0 ? w / total : 1 / list.length))
    }
    const probabilities = (scores: ArrayLike<number>): number[] => shares(weights(scores))
    const weighted = (scores: Readonly<Record<string, number>>): Record<string, number> => {
      const values = weights(Object.values(scores))
      const record: Record<string, number> = {}
      for (const [k, name] of Object.keys(scores).entries()) remember(record, name, values[k] as number)
      return record
    }
    /** What the prompts of a state are drawn by. A state without measured scores has them as its scores. */
    const weightsOf = (state: VasState): Record<string, number> =>
      form === 'paper' || state.measured !== undefined ? state.scores : weighted(state.scores)
    /** Each the old one with the new one; a new one where there is none. */
    const averaged = (old: Readonly<Record<string, number>>, fresh: Readonly<Record<string, number>>) => {
      const result = { ...old }
      for (const [prompt, now] of Object.entries(fresh)) {
        remember(result, prompt, momentum * (knownOf(old, prompt) ?? now) + (1 - momentum) * now)
      }
      return result
    }
    return {
      update(c): VasState {
        const { scored, correctness, diversity } = c.columns
        const fresh: Record<string, number> = {}
        if (scored !== undefined && correctness === undefined) {
          throw grpoError('missing', c.method, 'correctness', 'is missing from the batch, expected number[Q]: the share of correct rollouts of each prompt in scored') // biome-ignore format: one text
        }
        scored?.forEach((prompt, q) => {
          const share = correctness?.[q] as number
          if (!(share >= 0 && share <= 1)) {
            throw grpoError('value', c.method, 'correctness', `has ${share} at ${q}, expected a share, 0 to 1`)
          }
          const difference = diversity?.[q] ?? 0
          if (!(difference >= 0)) {
            throw grpoError('value', c.method, 'diversity', `has ${difference} at ${q}, expected at least 0`)
          }
          remember(fresh, prompt, score(share, difference))
        })
        const step = c.state.step + 1
        if (form === 'paper') return { step, scores: averaged(c.state.scores, fresh) }
        if (scored === undefined) return { ...c.state, step }
        const measured = { ...(c.state.measured ?? c.state.scores), ...fresh }
        return { step, scores: averaged(weightsOf(c.state), weighted(measured)), measured }
      },
      sample: {
        score,
        weights,
        probabilities,
        /** Indices of the prompts of the next batch. */
        draw(state: VasState, prompts: readonly (string | number)[], count: number, random: () => number): number[] {
          if (prompts.length === 0 && count > 0) {
            throw grpoError('value', 'vas', 'prompts', `is empty, expected some to draw ${count} from`)
          }
          const byScore = Math.floor(mix * count)
          const known = weightsOf(state)
          const scores = prompts.map((prompt) => knownOf(known, prompt) ?? 0)
          const others =
            form === 'paper'
              ? repeatedDraws(prompts.map(() => 1), count - byScore, random) // biome-ignore format: one draw
              : Array.from({ length: count - byScore }, (_, k) => (state.step * (count - byScore) + k) % prompts.length)
          return [...repeatedDraws(scores, byScore, random), ...others]
        },
        /** Whether the next step needs fresh scores, and how likely each prompt is in the part drawn by score. */
        next(c) {
          const drawnBy = weightsOf(c.state)
          const known = Object.keys(drawnBy)
          const p = shares(Object.values(drawnBy))
          return {
            refresh: c.state.step % every === 0,
            probability: Object.fromEntries(known.map((x, k) => [x, p[k] as number])),
          }
        },
      },
    }
  },
)
