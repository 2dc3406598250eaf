import { type Head, logisticHead, type PairContext, pairColumns, pairLoss, pairsOf } from '../parts/pairs.js'
import { backToTokens, logRatio, logSigmoid, plus, scoresOf, sigmoid } from '../parts/sequence_scores.js'
import { type OwnLoss, recipe } from '../step/recipe.js'

/** A loss of pairs on h = beta (log-ratio sum of chosen - of rejected), with the log-ratios to `reference`. */
export function dpoLoss(c: PairContext, reference: Float32Array, beta: number, head: (h: number) => Head): OwnLoss {
  const score = scoresOf(c, logRatio(c, reference))
  const { loss, gradChosen, gradRejected, count } = pairLoss(pairsOf(c), score, score, (difference) => {
    const { loss: value, slope } = head(beta * difference)
    return { loss: value, slope: beta * slope }
  })
  return { loss, gradLogp: backToTokens(c, plus(gradChosen, gradRejected)), count }
}

/** Unbiased for labels of which a share of flipRate is wrong. Unbounded from below: its slope tends to e / (2 e - 1). */
export const robustHead = (h: number, flipRate: number): Head => ({
  loss: (-(1 - flipRate) * logSigmoid(h) + flipRate * logSigmoid(-h)) / (1 - 2 * flipRate),
  slope: -(sigmoid(-h) + flipRate / (1 - 2 * flipRate)),
})

export const rdpo = recipe(
  {
    name: 'rdpo',
    paper: { title: 'Provably Robust DPO: Aligning Language Models with Noisy Feedback', arxiv: '2403.00409' },
    source: 'code',
    reads: { update: ['mask', 'refLogp', 'logp'] },
    unknown: 'Read in TRL. A pair with a rollout without tokens is left out, which the sources do not mention.',
    equation: `h = beta (sum over tokens of chosen of (logp - refLogp) - the same of rejected),   e = flipRate
loss = mean over pairs of
  robust:        (-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2 e)
  conservative:  -(1 - e) log sigmoid(h) - e log sigmoid(-h)
  dpo:           -log sigmoid(h)`,
    columns: pairColumns,
    options: {
      form: ['enum robust|conservative|dpo', 'rDPO, cDPO or DPO'],
      beta: ['number = 0.1 > 0', 'scale of the log-ratios'],
      flipRate: ['number = 0.1 >= 0 < 0.5', 'share of the pairs whose labels are wrong'],
    },
    example: { chosen: [0, 5], rejected: [1, 4] },
  },
  ({ form, beta, flipRate }) => {
    const smoothing = form === 'dpo' ? 0 : flipRate
    const head = form === 'robust' ? robustHead : logisticHead
    return {
      advantages: () => null,
      objective: (c) => dpoLoss(c, c.refLogp, beta, (h) => head(h, smoothing)),
    }
  },
)
