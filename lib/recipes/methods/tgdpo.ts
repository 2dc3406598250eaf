import { logisticHead, pairColumns, pairLoss, pairsOf } from '../parts/pairs.js'
import { backToTokens, logRatio, perToken, scoresOf } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'

export const tgdpo = recipe(
  {
    name: 'tgdpo',
    paper: {
      title: 'TGDPO: Harnessing Token-Level Reward Guidance for Enhancing Direct Preference Optimization',
      arxiv: '2506.14574',
    },
    source: 'code',
    reads: { update: ['mask', 'refLogp', 'rewardLogp', 'logp'] },
    unknown: 'A pair with a rollout without tokens is left out, which the sources do not mention.',
    equation: `u[t] = beta (rewardLogp - refLogp);   weights are not clamped: below 0 where alpha u leaves [-1, 1]
h = sum over tokens of chosen of beta (1 + alpha u) (logp - refLogp) - the same of rejected with beta (1 - alpha u)
loss = mean over pairs of -log sigmoid(h)`,
    columns: {
      ...pairColumns,
      rewardLogp: 'f32[T] log-probabilities under the frozen token-level reward model, itself trained by DPO or SimPO',
    },
    options: {
      beta: ['number = 0.1 > 0', 'scale of the log-ratios'],
      alpha: ['number = 0.5 >= 0', 'strength of the guidance; 0 gives DPO'],
    },
    example: {
      chosen: [0, 5],
      rejected: [1, 4],
      rewardLogp: [-0.7, -1.4, -1.2, -1.1, -0.4, -1.2, -0.6, -1.9, -0.8, -1.1, -0.9, -1.6].map(Math.fround),
    },
  },
  ({ beta, alpha }) => ({
    advantages: () => null,
    objective(c) {
      const { rewardLogp } = c.columns
      const { refLogp } = c
      const ratio = logRatio(c, refLogp)
      const guided = (sign: number) =>
        perToken(c, (t) => beta * (1 + sign * alpha * beta * ((rewardLogp[t] as number) - (refLogp[t] as number))))
      const weightsOf = { chosen: guided(1), rejected: guided(-1) }
      const score = (weight: Float32Array) =>
        scoresOf(
          c,
          perToken(c, (t) => (weight[t] as number) * (ratio[t] as number)),
        )
      const scores = [score(weightsOf.chosen), score(weightsOf.rejected)] as const
      const { loss, gradChosen, gradRejected, count } = pairLoss(pairsOf(c), ...scores, logisticHead)
      const [up, down] = [backToTokens(c, gradChosen), backToTokens(c, gradRejected)]
      const gradient = (t: number) =>
        (up[t] as number) * (weightsOf.chosen[t] as number) + (down[t] as number) * (weightsOf.rejected[t] as number)
      return { loss, gradLogp: perToken(c, gradient), count }
    },
  }),
)
