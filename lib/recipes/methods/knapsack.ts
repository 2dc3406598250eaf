import { grpoError } from '../../addon/errors.js'
import { logGain, shareOut, takeGains, value } from '../parts/budget.js'
import { members } from '../parts/members.js'
import { knownOf } from '../parts/prompts.js'
import { mean, sum } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export interface KnapsackState {
  /** The success rate of each prompt at its last visit. */
  prompts: Record<string, number>
}

export const knapsack = recipe(
  {
    name: 'knapsack',
    paper: {
      title: 'Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation',
      arxiv: '2509.25849',
    },
    source: 'code',
    unknown: `How prompts are weighted in the loss, here by their tokens. Of the exact optimum, rollouts that no prompt gains
from go to prompts without success, one each in turn, then to those without failure: that is ours. A prompt that was not seen
yet gets \`uniform\`; two groups of a prompt are one visit. The code has no rule for what is left over where every rate is
between 0 and 1: here it goes to the gains.`,
    equation: `value(n, p) = (1 - p^n - (1 - p)^n) p (1 - p)^2
the n of all prompts maximise the sum of value(n, p) with their sum given and low <= n <= high
value is concave in n >= 1, so that taking the largest gain again and again is exact
solver 'code': every prompt gets low; if the rest is more than the sum of the costs
  cost(p) = floor(min(log(1 - confidence) / log(max(p, 1 - p)), high)) over 0 < p < 1,
  what is more goes in equal shares to prompts with p = 0, or without any to those with p = 1, beyond high if need be;
  the others then share the rest by value, where the first rollout above low counts value(low + 1, p) whole`,
    columns: { prompt: 'id[G] names the prompt of each group, the same on every visit' },
    options: {
      low: ['integer = 2 >= 1', 'fewest rollouts of a prompt; without any, value is not concave'],
      high: ['integer = 128 >= 1', 'most rollouts of a prompt'],
      uniform: ['integer = 8 >= 1', 'rollouts per prompt that there are on average, low to high'],
      success: ['number = 1', 'least reward of a success'],
      solver: ['enum exact|code', 'the optimum of the whole budget; or as the released code, which caps the cost of a prompt'], // biome-ignore format: one text
      confidence: ['number = 0.9 > 0 < 1', 'of the solver code: to see a success and a failure at that cost'],
    },
    state: {
      version: 1,
      initial: (): KnapsackState => ({ prompts: {} }),
      shape: { prompts: { '*': 'number 0..1' } },
    },
    example: { prompt: ['a', 'b'] },
  },
  ({ low, high, uniform, success, solver, confidence }) => {
    if (!(low <= uniform && uniform <= high)) {
      const [name, x, range] = low > high ? ['low', low, `at most high, ${high}`] : ['uniform', uniform, `${low} to ${high}, low to high`] // biome-ignore format: one text
      throw grpoError('option', 'knapsack', name as string, `is ${x}, expected ${range}`)
    }
    /** Hands out `rest` as the released code does; `between` are the places of the rates that are neither 0 nor 1. */
    const allocateAsCode = (p: readonly number[], between: readonly number[], count: number[], rest: number): void => {
      const of = (rate: number) => p.flatMap((x, q) => (x === rate ? [q] : []))
      const others = of(0).length > 0 ? of(0) : of(1)
      const cost = (rate: number) => Math.log(1 - confidence) / Math.log(Math.max(rate, 1 - rate))
      // The code holds costs in float32.
      const costs = sum(between.map((q) => Math.floor(Math.min(high, Math.fround(cost(p[q] as number))))))
      const surplus = others.length > 0 ? Math.max(0, rest - costs) : 0
      shareOut(count, others, surplus)
      const gains = between.flatMap((q) => {
        const rate = p[q] as number
        const first = Math.log(value(low + 1, rate))
        return Array.from({ length: Math.min(high - low, rest) }, (_, k) => ({
          q,
          gain: k === 0 ? first : logGain(low + k, rate),
        }))
      })
      const taken = takeGains(count, gains, rest - surplus)
      shareOut(count, between, rest - surplus - taken)
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
      const places = Array.from(p.keys())
      const between = places.filter((q) => (p[q] as number) > 0 && (p[q] as number) < 1)
      let rest = total - low * p.length
      if (solver === 'code') {
        allocateAsCode(p, between, count, rest)
        return count
      }
      // The gains of a prompt fall with n, so that any number of the largest takes its first ones: no more than there are.
      const gains = between.flatMap((q) =>
        Array.from({ length: Math.min(high - low, rest) }, (_, k) => ({ q, gain: logGain(low + k, p[q] as number) })),
      )
      rest -= takeGains(count, gains, rest)
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
