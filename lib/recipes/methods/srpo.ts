import { checkRollouts, comparable } from '../parts/pairs.js'
import { backToTokens, logRatio, scoresOf } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'

/** The sequences of a pair: the names of the columns. */
const roles = ['chosen', 'rejected', 'chosenFromRejected', 'rejectedFromRejected', 'chosenFromChosen', 'rejectedFromChosen'] as const // biome-ignore format: one list
export type Role = (typeof roles)[number]
type OfEach = Readonly<Record<Role, number>>

/** The loss of a pair from the sums of its sequences, and its gradient with respect to them. */
export function selfImprovement(s: OfEach, beta: number, alpha: number): { loss: number; gradient: OfEach } {
  const generation = beta * (s.chosenFromRejected + s.chosen - s.rejectedFromChosen - s.rejected) - 1
  const first = 0.5 - beta * (s.chosenFromRejected - s.rejectedFromRejected)
  const second = 0.5 - beta * (s.chosenFromChosen - s.rejectedFromChosen)
  const g = 2 * (1 - alpha) * beta * generation
  const [e1, e2] = [2 * alpha * beta * first, 2 * alpha * beta * second]
  return {
    loss: (1 - alpha) * generation ** 2 + alpha * (first ** 2 + second ** 2),
    gradient: {
      chosen: g,
      rejected: -g,
      chosenFromRejected: g - e1,
      rejectedFromRejected: e1,
      chosenFromChosen: -e2,
      rejectedFromChosen: e2 - g,
    },
  }
}

export const srpo = recipe(
  {
    name: 'srpo',
    paper: { title: 'Self-Improving Robust Preference Optimization', arxiv: '2406.01660' },
    source: 'third-party',
    reads: { update: ['mask', 'refLogp', 'logp'] },
    unknown: `Read in a trainer that was written for TRL and not merged; it agrees with the objective's derivation. The paper's
alpha was not found: 0.5 is ours.`,
    equation: `s = sum over the tokens of a sequence of (logp - refLogp);   (y|z): y written to improve on z, which is in its prompt
generation  = (beta (s(w|l) + s(w) - s(l|w) - s(l)) - 1)^2
improvement = (1/2 - beta (s(w|l) - s(l|l)))^2 + (1/2 - beta (s(w|w) - s(l|w)))^2
loss = mean over pairs (w chosen, l rejected) of (1 - alpha) generation + alpha improvement`,
    columns: {
      chosen: 'integer[M] for each pair the sequence with w after the prompt: a rollout, counted through the batch',
      rejected: 'integer[M] the sequence with l after the prompt',
      chosenFromRejected: 'integer[M] the sequence with w after the prompt and l',
      rejectedFromRejected: 'integer[M] the sequence with l after the prompt and l',
      chosenFromChosen: 'integer[M] the sequence with w after the prompt and w',
      rejectedFromChosen: 'integer[M] the sequence with l after the prompt and w',
    },
    options: {
      beta: ['number = 0.1 > 0', 'strength of the KL to the reference'],
      alpha: ['number = 0.5 0..1', 'share of the improvement'],
    },
    example: {
      chosen: [0],
      rejected: [1],
      chosenFromRejected: [2],
      rejectedFromRejected: [3],
      chosenFromChosen: [4],
      rejectedFromChosen: [5],
    },
  },
  ({ beta, alpha }) => ({
    advantages: () => null,
    objective(c) {
      const score = scoresOf(c, logRatio(c, c.refLogp))
      for (const role of roles) checkRollouts(c, role, c.columns[role])
      // A pair of which one sequence has no token of the policy compares nothing.
      const sequences = (m: number) => roles.map((role) => c.columns[role][m] as number)
      const counts = comparable(c)
      const pairs = Array.from(c.columns.chosen.keys()).filter((m) => counts(sequences(m)))
      const gradScore = new Float64Array(c.N)
      let loss = 0
      for (const m of pairs) {
        const place = (role: Role) => c.columns[role][m] as number
        const sums = Object.fromEntries(roles.map((role) => [role, score[place(role)]])) as Record<Role, number>
        const part = selfImprovement(sums, beta, alpha)
        loss += part.loss / pairs.length
        for (const role of roles) {
          const i = place(role)
          gradScore[i] = (gradScore[i] as number) + part.gradient[role] / pairs.length
        }
      }
      return { loss, gradLogp: backToTokens(c, gradScore), count: pairs.length }
    },
  }),
)
