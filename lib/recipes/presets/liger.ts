import { grpoError } from '../../addon/errors.js'
import { recipe } from '../step/recipe.js'
import { constants, type TrlContext, trlPoints } from './trl_points.js'

export const liger = recipe(
  {
    name: 'liger',
    paper: { title: 'Liger-Kernel, GRPO losses of 0.8.2', arxiv: '2410.10989' },
    source: 'code',
    unknown: `It takes advantages: here TRL’s, unless the batch has its own. Neither is copied: with sequence ratios and
useBiasCorrectionKl the triton function’s gradient of the KL holds the ratio fixed; luspo with beta averages over padding.
The weights of an inference engine, which both take, are not an option here.`,
    equation: `TRL's losses with other defaults: beta 0.04, and in the triton function the upper width 0.4
That function also has the temperature 0.9, which is an option of the step.
dapo is a mean over the tokens of each micro-batch. The gradient of a KL times a sequence ratio is exact here.`,
    options: {
      form: ['enum class|triton', 'the fused linear class, or the triton function'],
      lossType: ['enum dapo|grpo|bnpo|dr_grpo|cispo|sapo|luspo|vespo', 'loss_type'],
      importanceSamplingLevel: ['enum token|sequence', 'whose ratio'],
      epsilonLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      epsilonHigh: ['number? = null >= 0', 'upper width; null: 0.2 for the class, 0.4 for the triton function'],
      delta: ['number? = null > 1', 'cap of the ratio where A < 0, above the interval'],
      beta: ['number = 0.04 >= 0', 'factor of the KL to the reference policy'],
      useBiasCorrectionKl: ['boolean = false', 'whether the KL is multiplied by the ratio'],
      maxCompletionLength: [
        'number? = null > 0',
        'constant of dr_grpo, needed by the class; null: the longest rollout of the batch (triton)',
      ],
      ...constants,
    },
  },
  ({ form, epsilonLow, epsilonHigh, ...options }) => {
    if (options.importanceSamplingLevel === 'sequence' && /cispo|sapo|vespo/.test(options.lossType)) {
      throw grpoError(
        'option',
        'liger',
        'importanceSamplingLevel',
        `is sequence, expected token for ${options.lossType}`,
      )
    }
    if (form === 'class' && options.lossType === 'dr_grpo' && options.maxCompletionLength === null) {
      throw grpoError('option', 'liger', 'maxCompletionLength', 'is null, but lossType is dr_grpo and form is class')
    }
    const points = trlPoints('liger', {
      ...options,
      epsilon: epsilonLow,
      epsilonHigh: epsilonHigh ?? (form === 'triton' ? 0.4 : 0.2),
      scaleRewards: 'group',
      entropyCoef: 0,
      importanceSamplingMode: 'none',
      importanceSamplingMin: null,
      importanceSamplingMax: 3,
      offPolicyMaskThreshold: null,
      topEntropyQuantile: 1,
      maskTruncated: false,
    })
    const { advantages, objective } = points
    return { advantages: (c) => advantages(c as TrlContext), objective: (c) => objective(c as TrlContext) }
  },
)
