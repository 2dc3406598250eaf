import { sequenceSum } from '../../sequence_sum.js'
import { mean, standardDeviation, sum } from '../parts/statistics.js'
import { type Context, groupAdvantages } from '../step/context.js'
import { recipe } from '../step/recipe.js'

/** The probability that |t| is below sqrt(degrees) tan(angle) for Student's t (Abramowitz and Stegun 26.7.3 and 26.7.4). */
function within(angle: number, degrees: number): number {
  const [sine, square] = [Math.sin(angle), Math.cos(angle) ** 2]
  const odd = degrees % 2
  let term = odd ? Math.cos(angle) : 1
  let series = degrees === 1 ? 0 : term
  for (let k = 2 + odd; k < degrees; k += 2) series += term *= ((k - 1) / k) * square
  return odd ? (2 / Math.PI) * (angle + sine * series) : sine * series
}

/** The quantile of Student's t at (1 + confidence) / 2, for a whole number of degrees of freedom. */
function studentT(confidence: number, degrees: number): number {
  let [low, high] = [0, Math.PI / 2]
  for (let middle = high / 2; middle > low && middle < high; middle = (low + high) / 2) {
    if (within(middle, degrees) < confidence) low = middle
    else high = middle
  }
  return Math.sqrt(degrees) * Math.tan(low)
}

export const xrpo = recipe(
  {
    name: 'xrpo',
    paper: {
      title: 'XRPO: Pushing the Limits of GRPO with Targeted Exploration and Exploitation',
      arxiv: '2510.06672',
    },
    source: 'third-party',
    reads: { step: ['mask', 'oldLogp'] },
    unknown: `ddof and eps of the advantages, here those of GRPO in verl; the confidence, explore, the budgets of the phases;
what T counts: here the rollouts of all prompts, with those of the phase that is planned; and whether the mean
log-probability is over all rollouts of the group or over the correct ones: here over all.`,
    equation: `h(n) = t s / sqrt(n),   t the quantile of Student's t at 1 - alpha / 2 with n - 1 degrees, s the rewards' std
priority of a prompt with n rollouts = h(n) - h(n + 1) + explore sqrt(log(1 + T) / n), with the same s
A = (R - mean(g)) / (std(g) + eps)
correct rollouts with A > 0: A + min(max(novelty (1 - exp(s[i] - mean over g of s)), 0), cap A)
s[i] = mean over the tokens of rollout i of oldLogp`,
    options: {
      confidence: ['number = 0.95 >= 0 < 1', '1 - alpha of the interval of a prompt’s mean reward'],
      explore: ['number = 1 >= 0', 'factor of the bonus for prompts with few rollouts'],
      novelty: ['number = 2.5 >= 0', 'factor of the bonus for correct rollouts that were unlikely'],
      cap: ['number = 0.5 >= 0', 'largest bonus, in parts of the advantage'],
      correct: ['number = 1', 'least reward of a correct rollout'],
      over: ['enum all|correct', 'rollouts of the group whose mean log-probability is compared with'],
      eps: ['number = 0.000001 >= 0', 'added to the standard deviation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
    },
  },
  ({ confidence, explore, novelty, cap, correct, over, eps, clipLow, clipHigh }) => {
    /**
     * The priority of a prompt with `n` rollouts, of which `rewards` are known. With fewer than two rewards there is no
     * interval: the reduction is 0. Without any rollout the priority is infinite.
     */
    const priority = (rewards: ArrayLike<number>, total: number, n = rewards.length) => {
      const std = standardDeviation(rewards, 1)
      const half = (count: number) => (std === 0 ? 0 : (studentT(confidence, count - 1) * std) / Math.sqrt(count))
      const bonus = n === 0 ? Infinity : explore * Math.sqrt(Math.log(1 + total) / n)
      const [halfWidth, halfWidthNext] = [half(n), half(n + 1)]
      const reduction = halfWidth - halfWidthNext
      return { std, halfWidth, halfWidthNext, reduction, bonus, priority: reduction + bonus }
    }
    /**
     * How many more rollouts each prompt gets in a phase: one after the other to the highest priority; of equal ones to the
     * prompt with the fewest, then to the first. A first phase without rewards is so uniform.
     */
    const allocate = (rewards: readonly ArrayLike<number>[], budget: number): number[] => {
      const total = sum(rewards.map((list) => list.length)) + budget
      const prompts = rewards.map((list) => ({ list, n: list.length, score: priority(list, total).priority }))
      for (let left = budget; left > 0 && prompts.length > 0; left--) {
        const next = prompts.reduce((a, b) => (b.score > a.score || (b.score === a.score && b.n < a.n) ? b : a))
        next.n += 1
        next.score = priority(next.list, total, next.n).priority
      }
      return prompts.map(({ list, n }) => n - list.length)
    }
    /** The prompts with rollouts whose rewards are all 0: the next ones get solved exemplars in their context. */
    const seeded = (rewards: readonly ArrayLike<number>[]): number[] =>
      rewards.flatMap((list, q) => (list.length > 0 && Array.from(list).every((r) => r === 0) ? [q] : []))
    const known = (c: Context) =>
      c.groups.map(({ begin, end }) =>
        c.rewards.subarray(begin, end).filter((_, k) => c.rolloutMask?.[begin + k] !== 0),
      )
    return {
      advantages(c) {
        const advantage = Float64Array.from(groupAdvantages(c, { eps }).advantage)
        const inputs = { x: c.oldLogp, sequenceStart: c.sequenceStart, mask: c.mask }
        const score = sequenceSum(inputs, { mean: true }).x.data
        const isCorrect = (i: number) => (c.rewards[i] as number) >= correct
        for (const { begin, end } of c.groups) {
          const counts = (i: number) =>
            c.rolloutMask?.[i] !== 0 && (c.length[i] as number) > 0 && (over === 'all' || isCorrect(i))
          const center = mean(score.subarray(begin, end).filter((_, k) => counts(begin + k)))
          for (let i = begin; i < end; i++) {
            const own = advantage[i] as number
            if (!isCorrect(i) || own <= 0) continue
            const bonus = Math.max(novelty * (1 - Math.exp((score[i] as number) - center)), 0)
            advantage[i] = own + Math.min(bonus, cap * own)
          }
        }
        return { advantage }
      },
      objective: { clipLow, clipHigh },
      sample: {
        priority,
        allocate,
        seeded,
        studentT,
        /** For each prompt of the batch, and the rollouts of all of them as T. Nothing without rewards. */
        next(c): { priority?: number[]; seeded?: number[] } {
          if (!c.has('rewards')) return {}
          const rewards = known(c)
          const total = sum(rewards.map((list) => list.length))
          return { priority: rewards.map((list) => priority(list, total).priority), seeded: seeded(rewards) }
        },
      },
    }
  },
)
