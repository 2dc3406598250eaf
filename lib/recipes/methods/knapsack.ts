import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { knownOf } from '../parts/prompts.js'
import { descending, mean } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface KnapsackState {
  /** The success rate of each prompt at its last visit. */
  prompts: Record<string, number>
}

/** What n rollouts of a prompt with success rate p are worth. */
const value = (n: number, p: number) => (1 - p ** n - (1 - p) ** n) * p * (1 - p) ** 2
/**
 * log of value(n + 1, p) - value(n, p) = (p^n (1 - p) + (1 - p)^n p) p (1 - p)^2, which falls with n: a gain of many
 * rollouts is 0 as a number, but still larger than none. -Infinity for p = 0 or 1.
 */
const logGain = (n: number, p: number) => {
  if (p === 0 || p === 1) return -Infinity
  const [success, failure] = [Math.log(p), Math.log1p(-p)]
  const [a, b] = [n * success + failure, n * failure + success]
  const larger = Math.max(a, b)
  return larger + Math.log(Math.exp(a - larger) + Math.exp(b - larger)) + success + 2 * failure
}

export const knapsack = recipe(
  {
    name: 'knapsack',
    paper: {
      title: 'Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation',
      arxiv: '2509.25849',
    },
    source: 'third-party',
    unknown: `How prompts are weighted in the loss, here by their tokens. Rollouts that no prompt gains from go to prompts
without success, one each in turn, then to those without failure; a prompt that was not seen yet gets \`uniform\`.
Two groups of a prompt are one visit.`,
    equation: `value(n, p) = (1 - p^n - (1 - p)^n) p (1 - p)^2
the n of all prompts maximise the sum of value(n, p) with their sum given and low <= n <= high
value is concave in n >= 1, so that taking the largest gain again and again is exact`,
    columns: { prompt: 'id[G] names the prompt of each group, the same on every visit' },
    options: {
      low: ['integer = 2 >= 1', 'fewest rollouts of a prompt; without any, value is not concave'],
      high: ['integer = 128 >= 1', 'most rollouts of a prompt'],
      uniform: ['integer = 8 >= 1', 'rollouts per prompt that there are on average, low to high'],
      success: ['number = 1', 'least reward of a success'],
    },
    state: {
      version: 1,
      initial: (): KnapsackState => ({ prompts: {} }),
      shape: { prompts: { '*': 'number 0..1' } },
    },
    example: { prompt: ['a', 'b'] },
  },
  ({ low, high, uniform, success }) => {
    if (!(low <= uniform && uniform <= high)) {
      const [name, x, range] = low > high ? ['low', low, `at most high, ${high}`] : ['uniform', uniform, `${low} to ${high}, low to high`] // biome-ignore format: one text
      throw grpoError('option', 'knapsack', name as string, `is ${x}, expected ${range}`)
    }
    /** Rollouts for each prompt, by its success rate; `total` of them. */
    const allocate = (rates: ArrayLike<number>, total: number): number[] => {
      const p = Array.from(rates)
      const wrong = p.findIndex((rate) => !(rate >= 0 && rate <= 1))
      const refuse = (name: string, problem: string) => grpoError('value', 'knapsack', name, problem)
      if (wrong !== -1) throw refuse('rates', `has ${p[wrong]} at ${wrong}, expected a share, 0 to 1`)
      if (!Number.isInteger(total) || total < low * p.length || total > high * p.length) {
        const range = `${low * p.length} to ${high * p.length}`
        throw refuse(
          'total',
          `is ${total}, expected a whole number, ${range}: ${p.length} prompts with ${low} to ${high}`,
        )
      }
      const count = p.map(() => low)
      let rest = total - low * p.length
      // The gains of a prompt fall with n, so that any number of the largest takes its first ones.
      const steps = p.flatMap((rate, q) =>
        Array.from({ length: high - low }, (_, k) => ({ q, gain: logGain(low + k, rate) })).filter(
          (step) => step.gain > -Infinity,
        ),
      )
      const largest = descending(steps.map((step) => step.gain)).slice(0, rest)
      for (const k of largest) count[steps[k]?.q as number]! += 1
      rest -= largest.length
      for (const rate of [0, 1]) {
        const open = () => p.flatMap((x, q) => (x === rate && (count[q] as number) < high ? [q] : []))
        for (let turn = open(); rest > 0 && turn.length > 0; turn = open()) {
          for (const q of turn.slice(0, rest)) count[q]! += 1
          rest -= Math.min(rest, turn.length)
        }
      }
      return count
    }
    /** Rollouts for each prompt of the next batch, `uniform` times their number in all. */
    const rollouts = (state: KnapsackState, prompts: readonly (string | number)[]): number[] => {
      const rates = prompts.map((prompt) => knownOf(state.prompts, prompt))
      const known = rates.filter((rate) => rate !== undefined)
      const counts = allocate(known, uniform * known.length)
      return rates.map((rate) => (rate === undefined ? uniform : (counts.shift() as number)))
    }
    type C = Context<{ readonly prompt: readonly (string | number)[] }, KnapsackState>
    return {
      update(c: C): KnapsackState {
        // A batch that brings its own advantages may have no rewards: then it is no visit.
        if (!c.has('rewards')) return c.state
        const seen = new Map<string, number[]>()
        for (const [g, places] of members(c).entries()) {
          const prompt = String(c.columns.prompt[g])
          const outcomes = places.map((i) => Number((c.rewards[i] as number) >= success))
          if (outcomes.length > 0) seen.set(prompt, [...(seen.get(prompt) ?? []), ...outcomes])
        }
        const rates = Object.fromEntries(Array.from(seen, ([prompt, outcomes]) => [prompt, mean(outcomes)]))
        return { prompts: { ...c.state.prompts, ...rates } }
      },
      sample: {
        value,
        allocate,
        rollouts,
        /** Rollouts for each prompt of this batch at its next visit. */
        next: (c: C) => rollouts(c.state, c.columns.prompt),
      },
    }
  },
)
