import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>

/** A hint of a level: 1 is the weakest. */
export interface HintLevel {
  readonly level: number
  readonly tier: 'knowledge' | 'planning' | 'solution'
  readonly hint: string
}

/** Which rollout of a group gives way to which hinted one, and whether it is trained under the hinted prompt. */
export interface Replacement {
  readonly rollout: number
  readonly hinted: number
  readonly prompt: 'hinted' | 'original'
}

/** Tokens of rollouts, with any columns that have a value per token. */
export interface Ragged {
  readonly sequenceStart: Numbers
  readonly columns: Readonly<Record<string, Numbers>>
}

/** The batch with other tokens in place of those of rollout i. */
function replaceRollout({ sequenceStart, columns }: Ragged, i: number, tokens: Ragged['columns']) {
  const last = sequenceStart.length - 2
  if (!(Number.isInteger(i) && i >= 0 && i <= last)) {
    throw grpoError('value', 'scafGrpo', 'i', `is ${i}, expected a rollout from 0 to ${last}`)
  }
  const [begin, end] = [sequenceStart[i] as number, sequenceStart[i + 1] as number]
  const length = Object.values(tokens)[0]?.length ?? 0
  const longer = length - (end - begin)
  const entries = Object.entries(columns).map(([name, all]) => {
    if (tokens[name]?.length !== length) {
      throw grpoError('shape', 'scafGrpo', name, `has ${tokens[name]?.length ?? 0} new tokens, expected ${length}`)
    }
    const list = Array.from(all)
    return [name, [...list.slice(0, begin), ...Array.from(tokens[name]), ...list.slice(end)]]
  })
  return {
    sequenceStart: Array.from(sequenceStart, (t, k) => (k > i ? t + longer : t)),
    columns: Object.fromEntries(entries) as Record<string, number[]>,
  }
}

export const scafGrpo = recipe(
  {
    name: 'scafGrpo',
    paper: {
      title: 'Scaf-GRPO: Scaffolded Group Relative Policy Optimization for Enhancing LLM Reasoning',
      arxiv: '2510.19807',
    },
    source: 'code',
    unknown: 'The paper’s length of the warm-up: 50 steps are those of the released script.',
    equation: `after the warm-up, in a group whose rewards are all 0: one response for each hint level, from the weakest;
  the right one of the smallest level replaces the first rollout, with its prompt, so that it stays on-policy
A[i] = (R[i] - mean(g)) / (std(g) + 1e-6): (G - 1) / sqrt(G) for the one, -1 / sqrt(G) for the others; R / (1 + 1e-6) in
  a group of one
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A)`,
    options: {
      warmup: ['integer = 50 >= 0', 'steps without hints'],
      planning: [
        'boolean = true',
        'all three tiers, as in the paper; false: no planning tier, as in the released code',
      ],
      replace: [
        'enum hinted|original|both',
        'prompt of the new rollout; both: the first rollout original, the second hinted',
      ],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy'],
    },
    state: { version: 1, initial: () => ({ step: 0 }), shape: { step: 'integer >= 0' } },
  },
  ({ warmup, planning, replace, ...objective }) => ({
    advantages: { eps: 1e-6, singleton: 'raw' },
    objective,
    update: (c) => ({ step: c.state.step + 1 }),
    sample: {
      /**
       * The groups of this batch that need hints; none in a batch without rewards, which brings its own advantages. A
       * trainer then generates, replaces, and calls the step again with the same state on the batch that it has edited.
       */
      next: (c) => ({
        hint: !(c.state.step > warmup && c.has('rewards'))
          ? []
          : members(c).flatMap((places, g) =>
              places.length > 0 && places.every((i) => c.rewards[i] === 0) ? [g] : [],
            ),
      }),
      /** Hints of each tier build up, and a tier starts anew. */
      levels: (parts: Readonly<Record<HintLevel['tier'], readonly string[]>>): HintLevel[] => {
        const tiers = planning ? (['knowledge', 'planning', 'solution'] as const) : (['knowledge', 'solution'] as const)
        return tiers
          .flatMap((tier) => parts[tier].map((_, k) => ({ tier, hint: parts[tier].slice(0, k + 1).join(' ') })))
          .map((hint, k) => ({ level: k + 1, ...hint }))
      },
      /** From the levels and rewards of a group's hinted responses; none if no response has a reward. */
      replacements: (levels: Numbers, rewards: Numbers): Replacement[] => {
        const right = Array.from(rewards, (_, k) => k).filter((k) => (rewards[k] as number) > 0)
        if (right.length === 0) return []
        const hinted = right.reduce((best, k) => ((levels[k] as number) < (levels[best] as number) ? k : best))
        if (replace !== 'both') return [{ rollout: 0, hinted, prompt: replace }]
        return [
          { rollout: 0, hinted, prompt: 'original' },
          { rollout: 1, hinted, prompt: 'hinted' },
        ]
      },
      replaceRollout,
    },
  }),
)
