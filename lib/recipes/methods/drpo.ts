import { backToTokens, perToken, scoresOf, softmax } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'
import { constraintOptions, discrimination, klConstraint, questionsOf } from './disco.js'

export const drpo = recipe(
  {
    name: 'drpo',
    paper: { title: 'DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization', arxiv: '2510.04474' },
    source: 'code',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown: `The code's log-mean-exp has the right gradient and another value; here the value is the objective's. Its C is
the padded width of the responses; rollouts without tokens of the policy are left out. A group without rollouts is counted
among the prompts, and tokens of rejected rollouts in K.`,
    equation: `s[i] = mean over the tokens of rollout i of logp;   P, N: rollouts of a prompt with reward 1, 0
w[i] = exp((1 - length[i] / C) / lambda) / their sum over P
J = mean over prompts of (sum over P of w[i] s[i] - tau log mean over N of exp(s[j] / tau))
loss = -J + (beta / 2) max(K - delta, 0)^2,   K = mean over all tokens of oldLogp - logp
A prompt without P or N adds 0 to J and is counted; without any other, the constraint is the loss.`,
    options: {
      lambda: ['number = 0.1 > 0', 'how little length matters; a large one gives DisCO'],
      maxLength: ['number = 8192 > 0', 'C, the largest length of a response'],
      tau: ['number = 10 > 0', 'temperature of the negatives'],
      ...constraintOptions,
    },
  },
  ({ lambda, maxLength, tau, ...constraint }) => ({
    advantages: () => null,
    objective(c) {
      const s = scoresOf(c, c.logp, { mean: true })
      const byLength = (positive: readonly number[]) =>
        softmax(positive.map((i) => (1 - (c.length[i] as number) / maxLength) / lambda))
      const { objective, gradient } = discrimination(questionsOf(c), s, tau, byLength)
      const constrained = klConstraint(c, constraint)
      const back = backToTokens(c, gradient, { mean: true })
      const gradLogp = perToken(c, (t) => (constrained.gradLogp[t] as number) - (back[t] as number))
      return { loss: constrained.loss - objective, gradLogp }
    },
  }),
)
