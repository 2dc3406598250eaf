import { grpoError } from '../../addon/errors.js'
import { discountedSum } from '../../discounted_sum.js'
import type { Objective } from '../../objective.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { correctedWeights } from '../parts/corrections.js'
import { float32Map } from '../parts/map_tokens.js'
import { within } from '../parts/rejection.js'
import { groupAdvantages, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'
import { sequenceTerm } from './sequence_term.js'

const estimators = {
  group_norm: { eps: 1e-9 },
  dr_grpo: { scale: 'none' },
  rloo: { center: 'leave_one_out', scale: 'none' },
} as const
/** Of x = logp - refLogp, each within ±10. */
const kl = { k1: (x: number) => x, k2: (x: number) => x ** 2 / 2, k3: (x: number) => Math.expm1(-x) + x } as const
const modes = { tis: 'token_truncate', icepop: 'token_mask', 'seq-mask-tis': 'token_gate' } as const

export const openrlhf = recipe(
  {
    name: 'openrlhf',
    paper: { title: 'OpenRLHF 0.11.0', arxiv: '2405.11143' },
    source: 'code',
    reads: ({ useKlLoss, klCoef, policyLossType }: { useKlLoss: boolean; klCoef: number; policyLossType: string }) => ({
      step: useKlLoss || klCoef === 0 ? [] : ['mask', 'oldLogp', 'refLogp'],
      update: policyLossType === 'gspo' && useKlLoss ? ['mask'] : [],
    }),
    unknown: `Its default estimator, gae, needs a critic: here group_norm. gspo with a KL in the loss: a normalizer is that of the
KL, and scales the policy term with it. Logs of importance weights are within ±20 here.`,
    equation: `A[i] = (R[i] - mean(g)) / (std(g) + 1e-9), within the bounds of rewards, and by default
A[i,t] = A[i] - klCoef times the sum over t and the tokens after it of the KL of oldLogp to refLogp, each within ±10
loss: PPO, averaged over tokens, log-ratios within ±20; or GSPO, averaged over the rollouts that have tokens (all with
countEmpty in the step's objective), its KL and entropy over tokens. A rejected rollout has advantage 0, without the KL.`,
    options: {
      advantageEstimator: ['enum group_norm|dr_grpo|rloo', 'advantage_estimator; dr_grpo changes the advantage alone'],
      policyLossType: ['enum ppo|gspo', 'policy_loss_type'],
      epsClipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsClipHigh: ['number = 0.2 >= 0', 'upper width'],
      dualClip: ['number? = null > 1', 'largest ratio that counts where A < 0'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy: init_kl_coef'],
      useKlLoss: ['boolean = false', 'true: the KL is in the loss; false: in the reward'],
      klEstimator: ['enum k1|k2|k3', 'of the KL in the loss, or in the reward'],
      rewardClipLow: ['number = -10', 'smallest A of a rollout, before the KL: reward.clip_range'],
      rewardClipHigh: ['number = 10', 'largest'],
      entropyCoef: ['number = 0 >= 0', 'factor of the entropy'],
      isCorrection: ['enum? tis|icepop|seq-mask-tis', 'correction for the inference engine; null: none'],
      isLow: ['number = 0.5 >= 0', 'smallest weight of that correction'],
      isHigh: ['number = 5 > 0', 'largest'],
    },
  },
  (options) => {
    const { advantageEstimator, policyLossType, klCoef, useKlLoss, klEstimator, isCorrection } = options
    const { isLow: low, isHigh: high, epsClipLow: clipLow, epsClipHigh: clipHigh, dualClip, entropyCoef } = options
    const { rewardClipLow, rewardClipHigh } = options
    if (rewardClipLow > rewardClipHigh) {
      const expected = `at most rewardClipHigh, which is ${rewardClipHigh}`
      throw grpoError('option', 'openrlhf', 'rewardClipLow', `is ${rewardClipLow}, expected ${expected}`)
    }
    const sequences = policyLossType === 'gspo'
    const estimate = kl[klEstimator]
    /** gspo's term is then one of rollouts, and its KL one of tokens. */
    const turned = sequences && useKlLoss
    const objective: Objective = {
      clipLow,
      clipHigh,
      dualClip,
      entropyCoef,
      entropyAggregate: sequences && !turned ? 'token_mean' : null,
      ...(useKlLoss && { klCoef, kl: klEstimator, klValueClamp: 10 }),
      ...(sequences
        ? { ratio: 'sequence', aggregate: turned ? 'token_mean' : 'sequence_mean' }
        : { logRatioClamp: 20 }),
    }
    return {
      advantages(c) {
        const found = groupAdvantages(c, estimators[advantageEstimator]).advantage
        const advantage = float32Map(found, (a) => within(a, rewardClipLow, rewardClipHigh))
        if (useKlLoss || klCoef === 0) return { advantage }
        const { oldLogp, refLogp, sequenceStart } = c
        const mask = masked(c, c.rolloutMask, undefined)
        const x = float32Map(oldLogp, (old, t) => within(estimate(old - (refLogp[t] as number)), -10, 10))
        const later = discountedSum({ x, sequenceStart, mask }).x.data
        const tokens = sequenceExpand({ x: advantage, sequenceStart, mask }).x.data
        return { tokenAdvantage: float32Map(tokens, (a, t) => a - klCoef * (later[t] as number)) }
      },
      weights(c) {
        const weight = turned ? sequenceTerm(c, { aggregate: 'token_mean', countEmpty: false }) : undefined
        if (isCorrection === null) return { weight }
        // GSPO is not weighted: its ratio is then that to the inference engine.
        if (sequences) return { oldLogp: c.at('rolloutLogp'), weight }
        return correctedWeights(c, { importance: { mode: modes[isCorrection], low, high } })
      },
      objective,
    }
  },
)
