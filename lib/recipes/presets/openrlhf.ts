import { discountedSum } from '../../discounted_sum.js'
import type { Objective } from '../../objective.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { correctedWeights } from '../parts/corrections.js'
import { groupAdvantages, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

const estimators = {
  group_norm: { eps: 1e-9 },
  dr_grpo: { scale: 'none' },
  rloo: { center: 'leave_one_out', scale: 'none' },
} as const
const modes = { tis: 'token_truncate', icepop: 'token_mask', 'seq-mask-tis': 'token_gate' } as const

export const openrlhf = recipe(
  {
    name: 'openrlhf',
    paper: { title: 'OpenRLHF of 3c3be62', arxiv: '2405.11143' },
    source: 'code',
    unknown:
      'Its default estimator, gae, needs a critic: here group_norm. The KL in the reward is taken to be a return.',
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-9), and by default
A[i,t] = A[i] - klCoef times the sum over t and the tokens after it of (oldLogp - refLogp), each within ±10
loss: PPO, averaged over tokens, log-ratios within ±20; or GSPO, averaged over the rollouts that have tokens (all with
countEmpty in the step's objective). A rejected rollout has advantage 0, without the KL.`,
    options: {
      advantageEstimator: ['enum group_norm|dr_grpo|rloo', 'advantage_estimator; dr_grpo changes the advantage alone'],
      policyLossType: ['enum ppo|gspo', 'policy_loss_type'],
      epsClipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsClipHigh: ['number = 0.2 >= 0', 'upper width'],
      dualClip: ['number? = null > 1', 'largest ratio that counts where A < 0'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy: init_kl_coef'],
      useKlLoss: ['boolean = false', 'true: the KL is in the loss; false: in the reward'],
      klEstimator: ['enum k1|k2|k3', 'of the KL in the loss, k1 and k3 within ±10; in the reward it is k1'],
      entropyCoef: ['number = 0 >= 0', 'factor of the entropy'],
      isCorrection: ['enum? tis|icepop|seq-mask-tis', 'correction for the inference engine; null: none'],
      isLow: ['number = 0.5 >= 0', 'smallest weight of that correction'],
      isHigh: ['number = 5 > 0', 'largest'],
    },
  },
  (options) => {
    const { advantageEstimator, policyLossType, klCoef, useKlLoss, klEstimator, isCorrection } = options
    const { isLow: low, isHigh: high, epsClipLow: clipLow, epsClipHigh: clipHigh, dualClip, entropyCoef } = options
    const clamp = klEstimator === 'k2' ? {} : { klValueClamp: 10 }
    const objective: Objective = {
      clipLow,
      clipHigh,
      dualClip,
      entropyCoef,
      ...(useKlLoss && { klCoef, kl: klEstimator, ...clamp }),
      ...(policyLossType === 'gspo' ? { ratio: 'sequence', aggregate: 'sequence_mean' } : { logRatioClamp: 20 }),
    }
    return {
      advantages(c) {
        const { advantage } = groupAdvantages(c, estimators[advantageEstimator])
        if (useKlLoss || klCoef === 0) return { advantage }
        const { oldLogp, refLogp, sequenceStart } = c
        const mask = masked(c, c.rolloutMask, undefined)
        const kl = oldLogp.map((x, t) => Math.min(Math.max(x - (refLogp[t] as number), -10), 10))
        const later = discountedSum({ x: kl, sequenceStart, mask }).x.data
        const tokens = sequenceExpand({ x: advantage, sequenceStart, mask }).x.data
        return { tokenAdvantage: tokens.map((a, t) => a - klCoef * (later[t] as number)) }
      },
      weights(c) {
        if (isCorrection === null) return {}
        // GSPO is not weighted: its ratio is then that to the inference engine.
        if (policyLossType === 'gspo') return { oldLogp: c.rolloutLogp }
        return correctedWeights(c, { importance: { mode: modes[isCorrection], low, high } })
      },
      objective,
    }
  },
)
