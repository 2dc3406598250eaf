// THE TABLE: one row per operation of the C interface. From it come the TypeScript types of inputs, options and
// outputs, the defaults, the check of kinds and names, the allocation of outputs, the sweep of the tests, the bytes of the
// benchmark and the table in docs/. native/<operation>.cc carries the same specs in its descriptor, and loading the addon
// compares the two (native.ts), so that they cannot drift apart.
//
// An array:    dtypes[axes] rules
//   f32|bf16|f16[R,V]   one of these dtypes; `any` takes all; `=q` has the dtype of q; `~logits` too, or f32 on request
//   axes                N rollouts (or parts of a vocabulary beside the first), G groups, T loss tokens, S sequences,
//                       R rows (of logits, or any), V vocabulary, P packed tokens, H query heads, K key/value heads,
//                       D and E head or hidden sizes, B segments, M selected or kept; G+1 is one more than G; D? may be
//                       missing. The first array that mentions an axis gives it its size.
//   ?                   may be absent                  strided      its rows may lie apart (`stride`)
//   offsets N           rises from 0 to N              below R      values from 0 to R - 1, where unmasked
//   vocabulary V        below V, or any part of it     over logits  this output may be that input
//   if entropy          this output exists when that input does, or that option is true
//   asked               this output exists where `out` has it
//   accumulates         with the option of that name the caller gives it, and the gradient is added to what it holds
// An option:   kind = default range
//   number = 0.0001 >= 0     number? = null > 1 (null allowed)     integer = 1 0..1     boolean = false
//   enum a|b|c (the first is the default; enum? a|b: null is)      integer 0..9 axis R (no default; it sizes an axis)
//   f32                 float32 holds it        inverse     float32 holds its inverse, or it is 0

/** The options of every policy objective: see `Objective` in objective.ts. */
const objective = {
  surrogate: 'enum clip|cispo|sapo|reinforce|vespo|dro|dppo_tv|dppo_kl',
  ratio: 'enum token|sequence|sequence_token|sequence_product|geometric',
  clipLow: 'number? = 0.2',
  clipHigh: 'number? = 0.2',
  dualClip: 'number? = null > 1',
  logRatioClamp: 'number? = null > 0',
  klCoef: 'number = 0 f32',
  kl: 'enum k3|k1|k2|abs',
  klGradient: 'enum exact|k2',
  klWeight: 'enum none|ratio|token_ratio',
  klClamp: 'number? = null > 0',
  klValueClamp: 'number? = null > 0',
  entropyCoef: 'number = 0 f32',
  entropyAggregate: 'enum? token_mean|sequence_mean|sequence_sum|constant|token_sum',
  tauPositive: 'number = 1 > 0 inverse',
  tauNegative: 'number = 1.05 > 0 inverse',
  aggregate: 'enum token_mean|sequence_mean|sequence_sum|constant|token_sum',
  maxLength: 'number? = null > 0 inverse',
  countEmpty: 'boolean = false',
  normalizer: 'number? = null >= 0 inverse',
  powerPositive: 'number = 2 >= 0',
  decayPositive: 'number = 3 >= 0.0001',
  powerNegative: 'number = 3 >= 0',
  decayNegative: 'number = 2 >= 0.0001',
  droBeta: 'number? = null > 0 f32',
  ratioCap: 'number? = null > 0',
  klWeightClamp: 'number? = null > 0',
  klTermClamp: 'number? = null > 0',
} as const

/** What a loss needs besides the log-probabilities themselves. */
const policyInputs = {
  oldLogp: 'f32[T] ?',
  refLogp: 'f32[T] ?',
  advantage: 'f32[S] ?',
  tokenAdvantage: 'f32[T] ?',
  sequenceStart: 'i32[S+1] offsets T',
  mask: 'u8[T] ?',
  weight: 'f32[T] ?',
} as const

const ratioBounds = { ratioLow: 'f32[T] ?', ratioHigh: 'f32[T] ?' } as const
const logits = 'f32|bf16|f16[R,V] strided'
const tokens = {
  token: 'i32[T] vocabulary V',
  row: 'i32[T] ? below R',
  rowTemperature: 'f32[R] ?',
  keptStart: 'i32[R+1] ? offsets M',
  kept: 'i32[M] ?',
} as const
const linear = {
  hidden: 'f32|bf16|f16[R,D] strided',
  head: 'f32|bf16|f16[V,D] strided',
  headBias: 'f32|bf16|f16[V] ?',
} as const
const temperature = 'number = 1 > 0 f32 inverse'
const softcap = 'number? = null > 0 f32 inverse'
const validVocab = 'integer? = null >= 0'
const vocabStart = 'integer? = null 0..2147483647'
const gradScale = 'number = 1 f32'
const tokenOutputs = {
  logp: 'f32[T]',
  entropy: 'f32[T]',
  logsumexp: 'f32[T]',
  fullLogp: 'f32[T] if full',
  fullLogsumexp: 'f32[T] if full',
} as const
const full = 'boolean = false'
const accumulate = 'boolean = false'
const chunkRows = 'integer? = null >= 1'
const precision = 'enum high|standard'
const heads = {
  q: 'f32|bf16|f16[P,H,D] strided',
  k: '=q[P,K,D] strided',
  v: '=q[P,K,E] strided',
} as const
const attentionOptions = {
  scale: 'number? = null f32 inverse',
  window: 'integer? = null >= 1',
  softcap,
  precision,
} as const
const segments = {
  segmentStart: 'i32[B+1] offsets P',
  segmentParent: 'i32[B]',
  segmentEnd: 'i32[B]',
} as const
const linearGradients = {
  gradHidden: '~hidden[R,D] strided',
  gradHead: '~head[V,D] strided accumulates',
  gradHeadBias: '~headBias[V] accumulates if headBias',
} as const
const gaussian = {
  x: 'f32[T,D]',
  mean: 'f32[T,D]',
  std: 'f32[T]',
  oldMean: 'f32[T,D] ?',
  mask: 'u8[T] ?',
} as const
const gaussianKl = { mean: 'f32[T,D]', refMean: 'f32[T,D]', std: 'f32[T]', mask: 'u8[T] ?' } as const
const rejections =
  'token_k1|token_k2|token_k3|seq_sum_k1|seq_sum_k2|seq_sum_k3|seq_mean_k1|seq_mean_k2|seq_mean_k3|seq_max_k2|seq_max_k3'
const selection = { count: 'integer? = null >= 0', fraction: 'number? = null 0..1' } as const

export const ops = {
  groupAdvantage: {
    inputs: { rewards: 'f32[N]', groupStart: 'i32[G+1] offsets N', mask: 'u8[N] ?' },
    outputs: { advantage: 'f32[N]', mean: 'f32[G]', std: 'f32[G]' },
    options: {
      center: 'enum mean|leave_one_out|none',
      scale: 'enum group_std|batch_std|leave_one_out_std|mean|none',
      ddof: 'integer = 1 0..1',
      eps: 'number = 0.0001 >= 0',
      epsUnderRoot: 'boolean = false',
      virtualCount: 'integer = 0 >= 0',
      virtualReward: 'number? = null f32',
      singleton: 'enum zero|raw',
    },
    paper: 'DeepSeekMath, arXiv:2402.03300',
  },
  moments: {
    inputs: { x: 'f32[N]', mask: 'u8[N] ?' },
    outputs: { moments: 'f64[3]' },
    options: {},
    paper: 'Chan, Golub and LeVeque 1983',
  },
  standardize: {
    inputs: { x: 'f32[N]', mask: 'u8[N] ?', moments: 'f64[3]' },
    outputs: { x: 'f32[N]' },
    options: {
      ddof: 'integer = 1 0..1',
      eps: 'number = 1e-8 >= 0',
      epsUnderRoot: 'boolean = false',
      center: 'boolean = true',
    },
    paper: 'REINFORCE++, arXiv:2501.03262',
  },
  tokenLogprob: {
    inputs: { logits, ...tokens, mask: 'u8[T] ?' },
    outputs: tokenOutputs,
    options: { temperature, softcap, validVocab, vocabStart, full },
    paper: 'Milakov and Gimelshein, arXiv:1805.02867',
  },
  tokenLogprobBackward: {
    inputs: {
      logits,
      ...tokens,
      mask: 'u8[T] ?',
      logsumexp: 'f32[T]',
      entropy: 'f32[T] ?',
      gradLogp: 'f32[T]',
      gradEntropy: 'f32[T] ?',
    },
    outputs: { gradLogits: '~logits[R,V] strided over logits' },
    options: { temperature, softcap, validVocab, vocabStart, gradScale },
    paper: 'Milakov and Gimelshein, arXiv:1805.02867',
  },
  mergeTokenLogprob: {
    inputs: {
      logp: 'f32[T]',
      entropy: 'f32[T]',
      logsumexp: 'f32[T]',
      otherLogp: 'f32[N,T]',
      otherEntropy: 'f32[N,T]',
      otherLogsumexp: 'f32[N,T]',
    },
    outputs: { logp: 'f32[T]', entropy: 'f32[T]', logsumexp: 'f32[T]' },
    options: {},
    paper: 'Megatron-LM, arXiv:1909.08053',
  },
  gaussianLogprob: {
    inputs: gaussian,
    outputs: { logp: 'f32[T]', logRatio: 'f32[T] if oldMean' },
    options: {},
    paper: 'GRPO-Guard, arXiv:2510.22319',
  },
  gaussianLogprobBackward: {
    inputs: { ...gaussian, gradLogp: 'f32[T] ?', gradLogRatio: 'f32[T] ?' },
    outputs: { gradMean: 'f32[T,D]' },
    options: { gradScale },
    paper: 'GRPO-Guard, arXiv:2510.22319',
  },
  gaussianKl: {
    inputs: gaussianKl,
    outputs: { kl: 'f32[T]' },
    options: {},
    paper: 'Flow-GRPO, arXiv:2505.05470',
  },
  gaussianKlBackward: {
    inputs: { ...gaussianKl, gradKl: 'f32[T]' },
    outputs: { gradMean: 'f32[T,D] accumulates' },
    options: { gradScale, accumulate },
    paper: 'Flow-GRPO, arXiv:2505.05470',
  },
  logRatio: {
    inputs: { x: 'f32[T]', y: 'f32[T]', mask: 'u8[T] ?' },
    outputs: { logRatio: 'f32[T]' },
    options: {},
    paper: '',
  },
  policyLoss: {
    inputs: { logp: 'f32[T]', ...policyInputs, entropy: 'f32[T] ?', ...ratioBounds },
    outputs: { loss: 'f32[1]', gradLogp: 'f32[T]', gradEntropy: 'f32[T] if entropy', stats: 'f64[15]' },
    options: { gradScale, ...objective },
    paper: 'DeepSeekMath, arXiv:2402.03300; PPO, arXiv:1707.06347',
  },
  policyLossFromLogits: {
    inputs: { logits, ...tokens, ...policyInputs, ...ratioBounds },
    outputs: {
      loss: 'f32[1]',
      gradLogits: '~logits[R,V] strided over logits',
      logp: 'f32[T]',
      entropy: 'f32[T]',
      stats: 'f64[15]',
    },
    options: { temperature, softcap, validVocab, gradScale, ...objective },
    paper: 'DeepSeekMath, arXiv:2402.03300',
  },
  linearPolicyLoss: {
    inputs: { ...linear, ...tokens, ...policyInputs, ...ratioBounds },
    outputs: { loss: 'f32[1]', ...linearGradients, logp: 'f32[T]', entropy: 'f32[T]', stats: 'f64[15]' },
    options: { temperature, softcap, validVocab, gradScale, accumulate, chunkRows, precision, ...objective },
    paper: 'Cut Your Losses, arXiv:2411.09009',
  },
  linearPolicyLossPlan: {
    inputs: {},
    outputs: { peakBytes: 'f64[1]' },
    options: {
      rows: 'integer 0..2147483647',
      tokens: 'integer 0..2147483647',
      hiddenSize: 'integer 0..2147483647',
      vocabulary: 'integer 0..2147483647',
      dtype: 'enum f32|bf16|f16',
      threads: 'integer 1..1024',
      chunkRows,
      sequences: 'integer? = null 0..2147483647',
      ratio: objective.ratio,
      kept: 'integer? = null 0..2147483647',
    },
    paper: 'Cut Your Losses, arXiv:2411.09009',
  },
  linearTokenLogprob: {
    inputs: { ...linear, ...tokens, mask: 'u8[T] ?' },
    outputs: { ...tokenOutputs, logits: 'f32[R,V] asked' },
    options: { temperature, softcap, validVocab, vocabStart, chunkRows, full },
    paper: 'Cut Your Losses, arXiv:2411.09009',
  },
  linearTokenLogprobBackward: {
    inputs: {
      ...linear,
      ...tokens,
      mask: 'u8[T] ?',
      logsumexp: 'f32[T]',
      entropy: 'f32[T] ?',
      gradLogp: 'f32[T]',
      gradEntropy: 'f32[T] ?',
      logits: 'f32[R,V] ?',
    },
    outputs: linearGradients,
    options: { temperature, softcap, validVocab, vocabStart, gradScale, accumulate, chunkRows, precision },
    paper: 'Cut Your Losses, arXiv:2411.09009',
  },
  treeLayout: {
    inputs: { length: 'i32[B]', parent: 'i32[B]', end: 'i32[N] ?' },
    outputs: {
      sizes: 'i32[4]',
      segmentStart: 'i32[B+1]',
      segmentEnd: 'i32[B]',
      position: 'i32[P]',
      groupStart: 'i32[G+1]',
      sequenceStart: 'i32[N+1]',
      row: 'i32[T]',
      place: 'i32[T]',
    },
    options: {},
    paper: 'Prefix Grouper, arXiv:2506.05433',
  },
  prefixAttention: {
    inputs: { ...heads, ...segments, sink: 'f32[H] ?' },
    outputs: { out: '=q[P,H,E]', logsumexp: 'f32[P,H]', outLow: '=q[P,H,E] asked' },
    options: attentionOptions,
    paper: 'Prefix Grouper, arXiv:2506.05433; FlashAttention, arXiv:2205.14135',
  },
  prefixAttentionBackward: {
    inputs: {
      ...heads,
      gradOut: '=q[P,H,E]',
      out: '=q[P,H,E]',
      outLow: '=q[P,H,E] ?',
      logsumexp: 'f32[P,H]',
      ...segments,
      sink: 'f32[H] ?',
    },
    outputs: {
      gradQ: '~q[P,H,D] strided',
      gradK: '~k[P,K,D] strided',
      gradV: '~v[P,K,E] strided',
      gradSink: 'f32[H] if sink',
    },
    options: { ...attentionOptions, gradScale },
    paper: 'Prefix Grouper, arXiv:2506.05433; FlashAttention, arXiv:2205.14135',
  },
  selectRollouts: {
    inputs: { score: 'f32[N]', groupStart: 'i32[G+1] offsets N', mask: 'u8[N] ?' },
    outputs: { mask: 'u8[N]' },
    options: { ...selection, scope: 'enum group|batch', rule: 'enum max_variance|top|top_bottom' },
    paper: 'PODS, arXiv:2504.13818; D3S, arXiv:2509.22115',
  },
  selectTokens: {
    inputs: {
      advantage: 'f32[S] ?',
      tokenAdvantage: 'f32[T] ?',
      entropy: 'f32[T] ?',
      sequenceStart: 'i32[S+1] offsets T',
      mask: 'u8[T] ?',
    },
    outputs: { mask: 'u8[T]' },
    options: { ...selection, scope: 'enum batch|sequence', rule: 'enum advantage_entropy|entropy|advantage' },
    paper: 'D3S, arXiv:2509.22115',
  },
  maskIndex: {
    inputs: { mask: 'u8[N]' },
    outputs: { count: 'f64[1]', index: 'i32[M]' },
    options: {},
    paper: '',
  },
  gatherRows: {
    inputs: { x: 'any[R,D?]', index: 'i32[M] below R' },
    outputs: { x: '=x[M,D?]' },
    options: {},
    paper: '',
  },
  scatterRows: {
    inputs: { x: 'any[M,D?]', index: 'i32[M] below R' },
    outputs: { x: '=x[R,D?]' },
    options: { rows: 'integer 0..2147483647 axis R' },
    paper: '',
  },
  sequenceSum: {
    inputs: { x: 'f32[T]', sequenceStart: 'i32[S+1] offsets T', mask: 'u8[T] ?' },
    outputs: { x: 'f32[S]' },
    options: { mean: 'boolean = false' },
    paper: '',
  },
  sequenceExpand: {
    inputs: { x: 'f32[S]', sequenceStart: 'i32[S+1] offsets T', mask: 'u8[T] ?' },
    outputs: { x: 'f32[T]' },
    options: { mean: 'boolean = false' },
    paper: '',
  },
  discountedSum: {
    inputs: { x: 'f32[T]', sequenceStart: 'i32[S+1] offsets T', mask: 'u8[T] ?' },
    outputs: { x: 'f32[T]' },
    options: { decay: 'number = 1 0..1' },
    paper: 'GAE, arXiv:1506.02438',
  },
  importanceWeight: {
    inputs: { oldLogp: 'f32[T]', rolloutLogp: 'f32[T]', sequenceStart: 'i32[S+1] offsets T', mask: 'u8[T] ?' },
    outputs: { weight: 'f32[T]', mask: 'u8[T]', stats: 'f64[14]' },
    options: {
      level: 'enum token|sequence|sequence_mean',
      outside: 'enum bound|zero|none',
      low: 'number? = null >= 0',
      high: 'number? = 3 > 0',
      gate: 'enum? token|sequence|sequence_mean',
      gateLow: 'number? = null >= 0',
      gateHigh: 'number? = null > 0',
      normalize: 'boolean = false',
      reject: `enum? ${rejections}`,
      rejectLow: 'number? = null >= 0',
      rejectHigh: 'number? = null > 0',
    },
    paper: 'TIS, fengyao.notion.site/off-policy-rl',
  },
  groupBy: {
    inputs: { ids: 'i32[N]' },
    outputs: { count: 'f64[1]', order: 'i32[N]', groupStart: 'i32[G+1]' },
    options: {},
    paper: '',
  },
  convert: {
    inputs: { x: 'f32|bf16|f16[N]' },
    outputs: { x: 'f32|bf16|f16[N]' },
    options: {},
    paper: '',
  },
} as const satisfies Record<string, Row>

export interface Row {
  readonly inputs: Record<string, string>
  readonly outputs: Record<string, string>
  readonly options: Record<string, string>
  readonly paper: string
}

export type OperationName = keyof typeof ops
