import { grpoError } from '../../addon/errors.js'
import { correctedWeights } from '../parts/corrections.js'
import { recipe } from '../step/recipe.js'

const modes = { tis: 'token_truncate', icepop: 'token_mask', 'seq-mask-tis': 'token_gate' } as const

export const nemo = recipe(
  {
    name: 'nemo',
    paper: { title: 'NeMo-RL, clipped policy gradient loss of 0.7.0' },
    source: 'code',
    reads: ({ klType, klCoef }: { klType: string; klCoef: number }) => ({
      update: [...(klType === 'k3' || klCoef === 0 ? [] : ['mask', 'oldLogp', 'refLogp', 'logp', 'entropy'])],
    }),
    unknown: `The bounds of its corrections have no default, and are asked for. Logs of importance weights are within ±20 here;
a weight that is no finite float32 counts as 0 there.`,
    equation: `A[i] = (R[i] - mean of the others) / (std of the others + 1e-6), not divided where that is 0
loss = mean over tokens of PPO's clipped surrogate + klCoef w KL, w = 1 with the gradient of an importance ratio: with
x = logp - refLogp that of w KL is x for k3, x + x^2 / 2 for k2, 1 + x for k1, and 0 beyond the clamps`,
    options: {
      useLeaveOneOutBaseline: ['boolean = true', 'mean and standard deviation of the others; false: of the group'],
      normalizeRewards: ['boolean = true', 'whether advantages are divided by the standard deviation'],
      tokenLevelLoss: [
        'boolean = true',
        'the mean over tokens; false: over rollouts with tokens (countEmpty in the step’s objective: all) of the mean over tokens',
      ],
      loss: ['enum clip|cispo', 'the clipped surrogate; or CISPO with the same interval'],
      ratioClipMin: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      ratioClipMax: ['number = 0.2 >= 0', 'upper width'],
      ratioClipC: ['number? = null > 1', 'dual clip'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy: reference_policy_kl_penalty'],
      klType: ['enum k3|k2|k1', 'its estimator: log-ratios within ±20, the value within ±10'],
      correction: ['enum? tis|icepop|seq-mask-tis', 'correction for the inference engine; null: none'],
      correctionMin: ['number? = null >= 0', 'smallest weight of that correction'],
      correctionMax: ['number? = null > 0', 'largest; needed by it'],
    },
  },
  (options) => {
    const { correction, correctionMin: low, correctionMax: high, klType } = options
    if (correction !== null && high === null) {
      throw grpoError('option', 'nemo', 'correctionMax', `is null, but correction is ${correction}`)
    }
    if (options.loss === 'cispo' && (options.ratioClipC !== null || !options.tokenLevelLoss)) {
      const [name, value] = options.tokenLevelLoss
        ? (['ratioClipC', 'null'] as const)
        : (['tokenLevelLoss', 'true'] as const)
      throw grpoError('option', 'nemo', name, `is ${options[name]}, expected ${value} for cispo`)
    }
    // The gradient of w k3 is that of k2; for the others the KL has a ratio of its own, to the current policy.
    const closed = klType === 'k3'
    const others = options.useLeaveOneOutBaseline
    const scale = others ? 'leave_one_out_std' : 'group_std'
    const center = others ? 'leave_one_out' : 'mean'
    return {
      advantages: { center, scale: options.normalizeRewards ? scale : 'none', eps: 1e-6 },
      weights(c) {
        const own = closed || options.klCoef === 0 ? {} : { klOldLogp: c.logp }
        if (correction === null) return own
        return correctedWeights(c, { importance: { mode: modes[correction], low, high } }, own)
      },
      objective: {
        surrogate: options.loss,
        clipLow: options.ratioClipMin,
        clipHigh: options.ratioClipMax,
        dualClip: options.ratioClipC,
        klCoef: options.klCoef,
        kl: klType,
        klGradient: closed ? 'k2' : 'exact',
        klWeight: closed ? 'none' : 'token_ratio',
        klClamp: 20,
        klTermClamp: 10,
        aggregate: options.tokenLevelLoss ? 'token_mean' : 'sequence_mean',
      },
    }
  },
)
