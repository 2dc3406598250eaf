import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { backToTokens, logMeanExp, logRatio, perToken, scoresOf, tokenMean } from '../parts/sequence_scores.js'
import { mean } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { type OwnLoss, recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>

/** The rollouts of a prompt by their outcome. */
export interface Question {
  readonly positive: readonly number[]
  readonly negative: readonly number[]
}

/** The rollouts of each prompt. One that is rejected, or has no unmasked token, has no score: it is in neither list. */
export function questionsOf(c: Context): Question[] {
  const wrong = c.rewards.findIndex((r, i) => c.rolloutMask?.[i] !== 0 && r !== 0 && r !== 1)
  if (wrong >= 0) throw grpoError('value', c.method, 'rewards', `has ${c.rewards[wrong]} at ${wrong}, expected 0 or 1`)
  return members(c).map((places) => {
    const scored = places.filter((i) => c.length[i])
    return { positive: scored.filter((i) => c.rewards[i] === 1), negative: scored.filter((i) => c.rewards[i] === 0) }
  })
}

/**
 * J = mean over prompts of (sum over positives of weight score - tau log mean exp(score / tau) over negatives), and its
 * gradient. A prompt without both outcomes adds 0 and is counted. tau null: the mean over negatives, the limit of a
 * large tau. `weightsOf` gives the weights of the positives, which sum to 1.
 */
export function discrimination(
  questions: readonly Question[],
  score: Numbers,
  tau: number | null,
  weightsOf: (positive: readonly number[]) => Numbers,
): { objective: number; gradient: Float64Array } {
  let objective = 0
  const gradient = new Float64Array(score.length)
  for (const { positive, negative } of questions) {
    if (positive.length === 0 || negative.length === 0) continue
    const weights = weightsOf(positive)
    for (const [k, i] of positive.entries()) {
      objective += ((weights[k] as number) * (score[i] as number)) / questions.length
      gradient[i] = (weights[k] as number) / questions.length
    }
    const scores = negative.map((j) => score[j] as number)
    const even = { value: mean(scores), gradient: scores.map(() => 1 / scores.length) }
    const against = tau === null ? even : logMeanExp(scores, tau)
    objective -= against.value / questions.length
    for (const [k, j] of negative.entries()) gradient[j] = -(against.gradient[k] as number) / questions.length
  }
  return { objective, gradient }
}

/** The options of the constraint, for the methods that have it. */
export const constraintOptions = {
  kl: ['enum k1|k3', 'K, the mean over all tokens of: k1: oldLogp - logp, as shipped; k3: that plus ratio - 1'],
  beta: ['number = 1000 >= 0', 'factor of the squared hinge'],
  delta: ['number = 0.0001 >= 0', 'K that is free'],
  value: [
    'enum square|product',
    'of the loss: (beta / 2) max(K - delta, 0)^2; or the code’s sg[beta max(K - delta, 0)] K',
  ],
} as const

export interface Constraint {
  readonly kl: 'k1' | 'k3'
  readonly beta: number
  readonly delta: number
  readonly value: 'square' | 'product'
}

/** The squared hinge on K, and its gradient at the tokens. Without unmasked tokens K is 0. */
export function klConstraint(c: Context, { kl, beta, delta, value }: Constraint): OwnLoss {
  const d = logRatio(c, c.oldLogp)
  const k3 = kl === 'k3'
  const K = tokenMean(c, d.map((x) => (k3 ? Math.expm1(x) - x : -x))) // biome-ignore format: one expression
  const excess = Math.max(K - delta, 0)
  const tokens = c.length.reduce((a, b) => a + b, 0)
  const gradLogp = perToken(c, (t) => (beta * excess * (k3 ? Math.expm1(d[t] as number) : -1)) / tokens)
  return { loss: value === 'square' ? (beta / 2) * excess ** 2 : beta * excess * K, gradLogp }
}

export const disco = recipe(
  {
    name: 'disco',
    paper: {
      title: 'DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained Optimization',
      arxiv: '2505.12366',
    },
    source: 'code',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown: `The code's log-mean-exp has the right gradient and another value; here the value is the objective's. Rollouts
without tokens of the policy are left out, which the sources do not mention.`,
    equation: `s[i] = mean over tokens of logp, or of exp(logp - oldLogp);   P, N: rollouts of a prompt with reward 1, 0
J = mean over prompts of mean over P of (s[i] - tau log mean over N of exp(s[j] / tau)); DisCO-b: s[i] - mean over N of s[j]
loss = -J + (beta / 2) max(K - delta, 0)^2,   K = mean over all tokens of oldLogp - logp
A prompt without P or N adds 0 to J and is counted; without any other, the constraint is the loss.`,
    options: {
      score: ['enum log_likelihood|likelihood_ratio', 'log-L or L-ratio'],
      negatives: ['enum log_mean_exp|mean', 'DisCO, which looks at the worst negatives; or DisCO-b'],
      tau: ['number? = null > 0', 'temperature of the negatives; null: 10 for log_likelihood, 1 for likelihood_ratio'],
      ...constraintOptions,
    },
  },
  ({ score, negatives, tau, ...constraint }) => ({
    advantages: () => null,
    objective(c) {
      const byRatio = score === 'likelihood_ratio'
      const x = byRatio ? logRatio(c, c.oldLogp).map(Math.exp) : c.logp
      const s = scoresOf(c, x, { mean: true })
      const temperature = negatives === 'mean' ? null : (tau ?? (byRatio ? 1 : 10))
      const even = (positive: readonly number[]) => positive.map(() => 1 / positive.length)
      const { objective, gradient } = discrimination(questionsOf(c), s, temperature, even)
      const constrained = klConstraint(c, constraint)
      const back = backToTokens(c, gradient, { mean: true })
      const slope = (t: number) => (back[t] as number) * (byRatio ? (x[t] as number) : 1)
      const gradLogp = perToken(c, (t) => (constrained.gradLogp[t] as number) - slope(t))
      return { loss: constrained.loss - objective, gradLogp }
    },
  }),
)
