import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { tokenCounts } from '../parts/pairs.js'
import { backToTokens, logRatio, logSigmoid, perToken, scoresOf, sigmoid } from '../parts/sequence_scores.js'
import { at, descending } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

type Numbers = ArrayLike<number>
export type TreeRanking = 'lambda_rank' | 'pairwise' | 'pairwise_diagonal'

/** The loss of one prompt's scores r against their values v, and its gradient; the lambdas are constants. */
export function rankingLoss(r: Numbers, v: Numbers, form: TreeRanking): { loss: number; gradient: Float64Array } {
  const n = r.length
  const gradient = new Float64Array(n)
  const rank = new Float64Array(n)
  for (const [place, i] of descending(r).entries()) rank[i] = place + 1
  const gain = (i: number) => 2 ** (v[i] as number)
  const discount = (i: number) => 1 / Math.log(1 + (rank[i] as number))
  let loss = 0
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const sign = Math.sign((v[i] as number) - (v[j] as number))
      if (form === 'lambda_rank' ? sign <= 0 : i === j && form === 'pairwise') continue
      const lambda = Math.abs(gain(i) - gain(j)) * Math.abs(discount(i) - discount(j))
      const weight = form === 'lambda_rank' ? lambda : 1 / (n * (n - 1))
      const difference = sign * ((r[i] as number) - (r[j] as number))
      const slope = weight * sign * sigmoid(-difference)
      loss -= weight * logSigmoid(difference)
      gradient[i] = (gradient[i] as number) - slope
      gradient[j] = (gradient[j] as number) + slope
    }
  }
  return { loss, gradient }
}

export const tpo = recipe(
  {
    name: 'tpo',
    paper: {
      title: 'TPO: Aligning Large Language Models with Multi-branch & Multi-step Preference Trees',
      arxiv: '2410.12854',
    },
    source: 'inferred',
    reads: { update: ['mask', 'refLogp', 'stepWeight', 'logp'] },
    unknown: `The list-wise loss, the default, is remembered, not read, and so is the sum of step log-ratios, where the code
has means. The pairwise forms were read in the released code, the second one with its pairs i = j, and so was the average
over prompts; beta is a number that the code has at another place. The code's outer -log sigmoid is left out: it inverts the
objective.`,
    equation: `r[i] = beta * sum over the tokens of rollout i of stepWeight (logp - refLogp),   v the rewards
loss = mean over prompts of the sum over pairs with v[i] > v[j] of -lambda log sigmoid(r[i] - r[j])
lambda = |2^v[i] - 2^v[j]| |1 / log(1 + rank[i]) - 1 / log(1 + rank[j])|, a constant; rank from 1, by r from the largest
pairwise: sum over i != j of -log sigmoid((r[i] - r[j]) sign(v[i] - v[j])) / (n (n - 1)); ties add log 2
A prompt with fewer than two rollouts that have a score adds 0 and is counted.`,
    columns: {
      stepWeight: 'f32[T]? the adaptive weight of the step that each token is in: see adaptiveWeight; absent: 1',
    },
    options: {
      form: [
        'enum lambda_rank|pairwise|pairwise_diagonal',
        'the list-wise loss, as remembered; or pairwise as read in the code, without or with the pairs i = j that it has',
      ],
      beta: ['number = 0.5 > 0', 'scale of the log-ratios'],
    },
    example: { stepWeight: [1.5, 1, 2, 1, 0.5, 1, 1, 2, 1, 1.5, 1, 0.5] },
  },
  ({ form, beta }) => ({
    advantages: () => null,
    objective(c) {
      const { stepWeight } = c.columns
      const ratio = logRatio(c, c.refLogp)
      const weight = perToken(c, (t) => beta * (stepWeight?.[t] ?? 1))
      const r = scoresOf(
        c,
        perToken(c, (t) => (weight[t] as number) * (ratio[t] as number)),
      )
      const tokens = tokenCounts(c)
      const gradScore = new Float64Array(c.N)
      let loss = 0
      for (const places of members(c)) {
        // A rollout without a token of the policy has no score.
        const scored = places.filter((i) => tokens[i] !== 0)
        if (scored.length < 2) continue
        const part = rankingLoss(at(r, scored), at(c.rewards, scored), form)
        loss += part.loss / c.G
        for (const [k, i] of scored.entries()) gradScore[i] = (part.gradient[k] as number) / c.G
      }
      const back = backToTokens(c, gradScore)
      return { loss, gradLogp: perToken(c, (t) => (back[t] as number) * (weight[t] as number)), count: c.G }
    },
    sample: {
      /** Of a step: 1 + the cosine of the mean hidden state of its tokens with that of the same step of the first rollout. */
      adaptiveWeight(hidden: Numbers, first: Numbers): number {
        if (hidden.length !== first.length) {
          throw grpoError(
            'shape',
            'tpo',
            'first',
            `has ${first.length} values, expected ${hidden.length} (from hidden)`,
          )
        }
        const dot = (x: Numbers, y: Numbers) =>
          Array.from(x).reduce((total, value, i) => total + value * (y[i] as number), 0)
        const length = Math.sqrt(dot(hidden, hidden) * dot(first, first))
        return length === 0 ? 1 : 1 + dot(hidden, first) / length
      },
    },
  }),
)
