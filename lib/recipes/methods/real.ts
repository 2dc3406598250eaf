import { grpoError } from '../../addon/errors.js'
import { policyLoss } from '../../policy_loss.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { sequenceSum } from '../../sequence_sum.js'
import { tokenCounts } from '../parts/pairs.js'
import { recipe } from '../step/recipe.js'

/** log(1 + sum exp(x)), and its derivatives: e^x / (1 + sum e^x). */
function logOnePlus(x: readonly number[]): { value: number; slopes: number[] } {
  const top = Math.max(0, ...x)
  const terms = x.map((value) => Math.exp(value - top))
  const total = terms.reduce((sum, term) => sum + term, Math.exp(-top))
  return { value: top + Math.log(total), slopes: terms.map((term) => term / total) }
}

export const real = recipe(
  {
    name: 'real',
    paper: { title: 'Rewards as Labels: Revisiting RLVR from a Classification Perspective', arxiv: '2602.05630' },
    source: 'code',
    reads: ({ klCoef }: { klCoef: number }) => ({
      update: ['mask', 'oldLogp', 'logp', ...(klCoef === 0 ? [] : ['refLogp'])],
    }),
    unknown: 'Read in ms-swift. Rollouts that are rejected or have no tokens are in no set, which it does not mention.',
    equation: `s[i] = mean over the tokens of rollout i of (logp - oldLogp), P = {A > 0}, N = {A <= 0}
loss = sum over groups of log(1 + sum_P exp(-s / tau)) + log(1 + sum_N exp(s / tau)), over the number of all groups;
a group without P or without N adds nothing. Plus klCoef k3, averaged over all tokens.`,
    options: {
      tau: ['number = 0.5 > 0', 'temperature of the scores'],
      klCoef: ['number = 0 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
  },
  ({ tau, klCoef }) => ({
    objective(c) {
      const { logp, oldLogp, advantage, sequenceStart, mask, N, G } = c
      if (advantage === undefined) {
        throw grpoError(
          'value',
          'real',
          'tokenAdvantage',
          'is given, expected one advantage per rollout: its sign is a label',
        )
      }
      const sequences = { sequenceStart, mask }
      const ratio = logp.map((x, t) => x - (oldLogp[t] as number))
      const score = sequenceSum({ x: ratio, ...sequences }, { mean: true }).x.data
      const tokens = tokenCounts(c)

      const takesPart = (i: number) => tokens[i] !== 0 && c.rolloutMask?.[i] !== 0
      let total = 0
      const gradient = new Float32Array(N)
      for (const { begin, end } of c.groups) {
        const rollouts = Array.from({ length: end - begin }, (_, i) => begin + i).filter(takesPart)
        const positive = rollouts.filter((i) => (advantage[i] as number) > 0)
        const negative = rollouts.filter((i) => (advantage[i] as number) <= 0)
        if (positive.length === 0 || negative.length === 0) continue
        for (const [set, sign] of [
          [positive, -1],
          [negative, 1],
        ] as const) {
          const { value, slopes } = logOnePlus(set.map((i) => (sign * (score[i] as number)) / tau))
          total += value
          for (const [k, i] of set.entries()) gradient[i] = (sign * (slopes[k] as number)) / tau / G
        }
      }
      const loss = G === 0 ? 0 : total / G
      const gradLogp = sequenceExpand({ x: gradient, ...sequences }, { mean: true }).x.data
      if (klCoef === 0) return { loss, gradLogp, count: G }
      const kl = policyLoss({ logp, refLogp: c.refLogp, advantage: new Float32Array(N), ...sequences }, { klCoef })
      const klGradient = kl.gradLogp.data
      return {
        loss: loss + (kl.loss.data[0] as number),
        gradLogp: gradLogp.map((x, t) => x + (klGradient[t] as number)),
      }
    },
  }),
)
