import { grpoError } from '../../addon/errors.js'
import { selectRollouts } from '../../select_rollouts.js'
import { selectTokens } from '../../select_tokens.js'
import { sum } from '../parts/statistics.js'
import { type Context, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const d3s = recipe(
  {
    name: 'd3s',
    paper: { title: 'Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework', arxiv: '2509.22115' },
    source: 'third-party',
    reads: { step: ['mask', 'entropy'] },
    unknown: `The four ends of the schedule, the denominator of the loss, and whose entropy it is. Here 2 to 8 rollouts of
each group and 0.2 to 1 of the tokens, our choice; the kept tokens; the entropy that the batch has.
That N of a batch is N per group times the groups is inferred, and so is the rounding of N.`,
    equation: `[N, K] = (1 - p) [rolloutsStart, tokensStart] + p [rolloutsEnd, tokensEnd],   p the progress of training
A[i] = (R[i] - mean(g)) / (std(g) + eps) of all rollouts, before the selection
S = argmax Var({A[i]: i in S}) with |S| = N times the groups over the batch; or N of each group
tokens = the share K of the tokens of S with the largest |A| entropy; none if all are 0
loss = mean over these tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)`,
    columns: { progress: 'number? how far training is, from 0 to 1; without it the steps so far count, of `steps`' },
    options: {
      rolloutsStart: ['integer = 2 >= 1', 'rollouts per group that are kept at the beginning'],
      rolloutsEnd: ['integer = 8 >= 1', 'and at the end; between them rounded to whole rollouts'],
      tokensStart: ['number = 0.2 0..1', 'share of their tokens that is kept at the beginning, rounded up'],
      tokensEnd: ['number = 1 0..1', 'and at the end'],
      steps: ['integer? = null >= 1', 'steps of the whole training, for batches without progress'],
      rolloutScope: ['enum batch|group', 'whether rollouts compete across the groups, or within each'],
      rule: ['enum max_variance|top_bottom', 'top_bottom: the largest and the smallest advantages, half each'],
      tokenScope: ['enum batch|sequence', 'whether tokens compete across the rollouts, or within each'],
      denominator: ['enum kept|all', 'tokens that the loss divides by: those that are kept, or all of the batch'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
    state: { version: 1, initial: () => ({ step: 0 }), shape: { step: 'integer >= 0' } },
    example: { progress: 0 },
  },
  (options) => {
    const { steps, rolloutScope, tokenScope, rule, denominator, eps, clipLow, clipHigh } = options
    const progressOf = (c: Context<{ readonly progress?: number | undefined }, { step: number }>) => {
      const progress = c.columns.progress ?? (steps === null ? undefined : Math.min(c.state.step / steps, 1))
      const meaning = 'how far training is, from 0 to 1, unless the option steps is given'
      if (progress === undefined) {
        throw grpoError('missing', c.method, 'progress', `is missing from the batch, expected number: ${meaning}`)
      }
      if (progress >= 0 && progress <= 1) return progress
      throw grpoError('value', c.method, 'progress', `is ${progress}, expected 0 to 1: ${meaning}`)
    }
    /** How many rollouts of a group and what share of the tokens are kept. */
    const schedule = (progress: number) => {
      const between = (from: number, to: number) => (1 - progress) * from + progress * to
      return {
        rollouts: Math.round(between(options.rolloutsStart, options.rolloutsEnd)),
        tokens: between(options.tokensStart, options.tokensEnd),
      }
    }
    return {
      advantages: { eps },
      select(c) {
        if (c.advantage === undefined) {
          throw grpoError(
            'kind',
            c.method,
            'tokenAdvantage',
            'is given, expected advantage: rollouts are selected by it',
          )
        }
        const keep = schedule(progressOf(c))
        const advantage = Float32Array.from(c.advantage)
        const { mask: rollouts } = selectRollouts(
          { score: advantage, groupStart: c.groupStart, mask: c.rolloutMask },
          { count: keep.rollouts * (rolloutScope === 'batch' ? c.G : 1), scope: rolloutScope, rule },
        )
        const tokens = selectTokens(
          {
            advantage,
            entropy: c.entropy,
            sequenceStart: c.sequenceStart,
            mask: masked(c, rollouts.data, undefined),
          },
          { fraction: keep.tokens, scope: tokenScope },
        )
        return { rollouts: rollouts.data, tokens: tokens.mask.data }
      },
      // c.length are the tokens before the selection.
      objective: (c) => ({ clipLow, clipHigh, normalizer: denominator === 'all' ? sum(c.length) : null }),
      update: (c) => ({ step: c.state.step + 1 }),
      sample: { schedule },
    }
  },
)
