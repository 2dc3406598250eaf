import { type Head, logisticHead, pairColumns, pairLoss, pairsOf, tokenCounts } from '../parts/pairs.js'
import { backToTokens, plus, scoresOf } from '../parts/sequence_scores.js'
import { recipe } from '../step/recipe.js'

/** max(0, 1 - h); at the kink the gradient is 0. */
const hingeHead = (h: number): Head => ({ loss: Math.max(0, 1 - h), slope: h < 1 ? -1 : 0 })

export const simpo = recipe(
  {
    name: 'simpo',
    paper: { title: 'SimPO: Simple Preference Optimization with a Reference-Free Reward', arxiv: '2405.14734' },
    source: 'code',
    reads: { update: ['mask', 'logp'] },
    unknown: `The published beta and margin differ from model to model: the defaults are those of the configuration class. A
pair with a rollout without tokens is left out, where the code divides by 0.`,
    equation: `a[i] = mean over the tokens of rollout i of logp;   h = beta (a[chosen] - a[rejected]) - gamma
loss = mean over pairs of -(1 - smoothing) log sigmoid(h) - smoothing log sigmoid(-h), or of max(0, 1 - h)
       - nllCoef (mean over the tokens of all chosen rollouts of logp)`,
    columns: pairColumns,
    options: {
      defaults: [
        'enum simpo|trl',
        'whose defaults the options that are null have: the official code’s, or TRL’s CPO trainer’s',
      ],
      beta: ['number? = null > 0', 'scale of the scores; null: 2, for TRL 0.1'],
      gamma: ['number? = null', 'margin of h; null: beta / 4 (gamma_beta_ratio 0.25), for TRL 0.5 whatever beta is'],
      nllCoef: ['number? = null >= 0', 'factor of the log-likelihood of the chosen; null: 0, for TRL 1'],
      smoothing: ['number = 0 0..1', 'label smoothing, for the loss sigmoid'],
      loss: ['enum sigmoid|hinge', 'of h'],
    },
    example: { chosen: [0, 5], rejected: [1, 4] },
  },
  ({ defaults, smoothing, loss, ...given }) => {
    const trl = defaults === 'trl'
    const beta = given.beta ?? (trl ? 0.1 : 2)
    const gamma = given.gamma ?? (trl ? 0.5 : beta / 4)
    const nllCoef = given.nllCoef ?? (trl ? 1 : 0)
    const head = (difference: number): Head => {
      const h = beta * difference - gamma
      const { loss: value, slope } = loss === 'hinge' ? hingeHead(h) : logisticHead(h, smoothing)
      return { loss: value, slope: beta * slope }
    }
    return {
      advantages: () => null,
      objective(c) {
        const score = scoresOf(c, c.logp, { mean: true })
        const pairs = pairsOf(c)
        const { loss: preference, gradChosen, gradRejected } = pairLoss(pairs, score, score, head)
        const count = tokenCounts(c)
        const tokens = pairs.reduce((total, [i]) => total + (count[i] as number), 0)
        let total = preference
        for (const [i] of pairs) {
          const share = (nllCoef * (count[i] as number)) / tokens
          total -= share * (score[i] as number)
          gradChosen[i] = (gradChosen[i] as number) - share
        }
        const gradLogp = backToTokens(c, plus(gradChosen, gradRejected), { mean: true })
        return nllCoef === 0 ? { loss: total, gradLogp, count: pairs.length } : { loss: total, gradLogp }
      },
    }
  },
)
