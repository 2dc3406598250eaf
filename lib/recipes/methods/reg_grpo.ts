import { grpoError } from '../../addon/errors.js'
import { policyLoss } from '../../policy_loss.js'
import { members } from '../parts/members.js'
import { backToTokens, logRatio, perToken, scoresOf, zScore } from '../parts/sequence_scores.js'
import { at, mean } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>

/** How the prediction is made comparable with the target. */
export interface Prediction {
  readonly form: 'normalized' | 'stop_gradient' | 'centered'
  readonly lambda: number
  readonly ddof: number
  readonly eps: number
}

/** Mean of (target - prediction)^2 over a group, and its gradient with respect to rho. */
export function regression(
  target: Numbers,
  rho: Numbers,
  { form, lambda, ddof, eps }: Prediction,
): { loss: number; gradient: Float64Array } {
  // Linear and symmetric: its own way back.
  const centered = (x: Numbers) => {
    const center = mean(x)
    return Float64Array.from(x, (value) => (value - center) / lambda)
  }
  const score = zScore(rho, { ddof, eps, stopGradient: form === 'stop_gradient' })
  const { z, backward } = form === 'centered' ? { z: centered(rho), backward: centered } : score
  const miss = z.map((value, i) => (target[i] as number) - value)
  return { loss: mean(miss.map((x) => x * x)), gradient: backward(miss.map((x) => (-2 * x) / z.length)) }
}

/** What a prompt needs to be neither too hard nor too easy. */
export interface Difficulty {
  /** Above 0: harder than the prompts before. */
  readonly difficulty: number
  /** Part of the reference reasoning as a hint, noise on the input, or neither. */
  readonly augmentation: 'hint' | 'noise' | 'none'
  readonly strength: number
}

/** mean of the replay window - mean of the prompt's rewards; 0 where either has none. */
export function difficultyOf(window: Numbers, rewards: Numbers): Difficulty {
  const difficulty = window.length === 0 || rewards.length === 0 ? 0 : mean(window) - mean(rewards)
  const augmentation = difficulty > 0 ? 'hint' : difficulty < 0 ? 'noise' : 'none'
  return { difficulty, augmentation, strength: Math.abs(difficulty) }
}

/** The rewards of each prompt that count; none in a batch that brings its own advantages and no rewards. */
const rewardsOf = (c: Context): number[][] =>
  c.has('rewards') ? members(c).map((places) => at(c.rewards, places)) : c.groups.map(() => [])

export const regGrpo = recipe(
  {
    name: 'regGrpo',
    paper: {
      title: 'DeepVideo-R1: Video Reinforcement Fine-Tuning via Difficulty-aware Regressive GRPO',
      arxiv: '2506.07464',
    },
    source: 'paper',
    reads: ({ klCoef }: { klCoef: number }) => ({
      update: ['mask', 'oldLogp', 'logp', ...(klCoef === 0 ? [] : ['refLogp'])],
    }),
    unknown: `The definitions were read in prose: the copy at hand has lost its equations. Not stated: eps, the divisor of std, sums or means of logp, how the KL is averaged, and the start, where rho is
0 everywhere: eps decides how large the first gradient is (of the order 1 / eps). Our window holds one mean per prompt.
The target is that of all rollouts of a prompt; a rollout without tokens has no rho, and is left out of the regression.`,
    equation: `rho[i] = sum over the tokens of rollout i of (logp - oldLogp)
target = (R - mean(g)) / std(g),   prediction = (rho - mean(g)) / (std(g) + eps), with gradient through both
loss = mean over groups of the mean over rollouts of (target - prediction)^2 + klCoef k3, averaged as GRPO does
A group with equal rewards adds 0 and is counted. Difficulty of a prompt = mean of the replay window - mean of its rewards.`,
    options: {
      form: [
        'enum normalized|stop_gradient|centered',
        'normalized: the paper’s; inferred, for the start: stop_gradient: std is a constant; centered: (rho - mean) / lambda',
      ],
      lambda: ['number = 1 > 0', 'for the form centered: the strength of the KL that the regression stands for'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation of rho; 0: no gradient where all rho are equal'],
      ddof: ['integer = 1 0..1', 'the standard deviations divide by n - ddof'],
      score: ['enum sum|mean', 'rho as a sum over tokens, or their mean'],
      klCoef: ['number = 0.1 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
      window: ['integer = 100 >= 1', 'prompts in the replay window'],
    },
    state: { version: 1, initial: () => ({ window: [] as number[] }), shape: { window: ['f32'] } },
  },
  ({ form, lambda, eps, ddof, score, klCoef, window }) => ({
    advantages: { eps: 0, ddof },
    objective(c) {
      const target = c.advantage
      if (target === undefined) {
        throw grpoError('value', c.method, 'tokenAdvantage', 'is given, expected one advantage per rollout: the target')
      }
      const options = { mean: score === 'mean' }
      const rho = scoresOf(c, logRatio(c, c.oldLogp), options)
      const gradient = new Float64Array(c.N)
      let loss = 0
      for (const places of members(c)) {
        const scored = places.filter((i) => c.length[i])
        const targets = at(target, scored)
        if (targets.every((x) => x === 0)) continue
        const part = regression(targets, at(rho, scored), { form, lambda, ddof, eps })
        loss += part.loss / c.G
        for (const [k, i] of scored.entries()) gradient[i] = (part.gradient[k] as number) / c.G
      }
      const gradLogp = backToTokens(c, gradient, options)
      if (klCoef === 0) return { loss, gradLogp, count: c.G }
      const { logp, refLogp, sequenceStart, mask } = c
      const inputs = { logp, refLogp, advantage: new Float32Array(c.N), sequenceStart, mask }
      const kl = policyLoss(inputs, { klCoef, aggregate: 'sequence_mean' })
      const klGradient = kl.gradLogp.data
      return {
        loss: loss + (kl.loss.data[0] as number),
        gradLogp: perToken(c, (t) => (gradLogp[t] as number) + (klGradient[t] as number)),
      }
    },
    update: (c) => ({
      window: [
        ...c.state.window,
        ...rewardsOf(c)
          .filter((rewards) => rewards.length > 0)
          .map(mean),
      ].slice(-window),
    }),
    sample: {
      difficulty: difficultyOf,
      /** Of each prompt, against a window that holds this step's prompts too. */
      next: (c) => rewardsOf(c).map((rewards) => difficultyOf(c.state.window, rewards)),
    },
  }),
)
