// How far results lie from the equation in float64: this package's, those of the plain float32 formula, and those of the
// arithmetic that trainers have where they keep logits, log-probabilities or gradients of logits in the dtype of the model.
import {
  array,
  fromBf16,
  groupAdvantage,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  mergeTokenLogprob,
  policyLoss,
  policyLossFromLogits,
  toBf16,
  tokenLogprob,
  tokenLogprobBackward,
} from '../../lib/index.js'
import { groupReference } from '../references/group_advantage.js'
import { linearGradients, linearLogits } from '../references/linear.js'
import { reference as merged, names } from '../references/merge_token_logprob.js'
import { policyObjective } from '../references/policy_objective.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from '../references/token_logprob.js'
import { values } from '../support/numbers.js'
import { random } from '../support/random.js'

type Numbers = ArrayLike<number>
type Round = (x: number) => number
type Dtype = 'f32' | 'bf16'
type Gradients = { gradHidden: HostArray; gradHead: HostArray }
/** An operation as it is, or on device arrays. */
type Run = <F>(operation: F) => F

/** Errors as root mean squares, relative to that of the exact result. */
export interface AccuracyRow {
  operation: string
  size: string
  output: string
  ours: number
  plain: number
  /** Of the arithmetic that `others` names. */
  rounded?: number
  others?: string
}

const numbersOf = (x: HostArray | Numbers): Numbers => ('data' in x ? values(x as HostArray) : x)

export function relativeError(actual: HostArray | Numbers, exact: Numbers): number {
  const own = numbersOf(actual)
  let [errors, squares] = [0, 0]
  for (let i = 0; i < exact.length; i++) {
    errors += ((own[i] as number) - (exact[i] as number)) ** 2
    squares += (exact[i] as number) ** 2
  }
  return Math.sqrt(errors / squares)
}

/** Rounds once to a dtype. */
const rounding = (dtype: Dtype) => (x: Numbers) =>
  dtype === 'bf16' ? fromBf16(toBf16(Float32Array.from(x))) : Float32Array.from(x)
const halves = rounding('bf16')

const floats = (dtype: Dtype, data: Float32Array, shape: number[]) =>
  dtype === 'f32' ? array(data, shape) : array(toBf16(data), shape, 'bf16')

const objective = { clipLow: 0.2, clipHigh: 0.2 } as const

/** T tokens of sequences of 8, sampled by a policy near `logp`. */
function policyOf(T: number, logp: Numbers, r: ReturnType<typeof random>) {
  const oldLogp = Float32Array.from(logp, (x) => x + 0.1 * r.normal())
  const sequenceStart = Int32Array.from({ length: T / 8 + 1 }, (_, s) => 8 * s)
  return { oldLogp, advantage: r.normals(T / 8), sequenceStart }
}

const row = (
  operation: string,
  size: string,
  output: string,
  [ours, plain, exact]: readonly [HostArray | Numbers, Numbers, Numbers],
  others?: readonly [string, Numbers],
): AccuracyRow => ({
  operation,
  size,
  output,
  ours: relativeError(ours, exact),
  plain: relativeError(plain, exact),
  ...(others && { others: others[0], rounded: relativeError(others[1], exact) }),
})

/** The gradient of logits from the output of a log-softmax in bf16: g (onehot - exp(output)), rounded once. */
function fromHalves(logits: Numbers, V: number, token: Numbers, logsumexp: Numbers, gradLogp: Numbers) {
  const result = new Float64Array(logits.length)
  for (let t = 0; t < token.length; t++) {
    const logp = Float64Array.from({ length: V }, (_, v) => (logits[t * V + v] as number) - (logsumexp[t] as number))
    halves(logp).forEach((x, v) => {
      const onehot = v === token[t] ? 1 : 0
      result[t * V + v] = Math.fround((gradLogp[t] as number) * Math.fround(onehot - Math.fround(Math.exp(x))))
    })
  }
  return halves(result)
}

/** Logits of which those of the tokens stand out: a model is surer of what it has sampled. */
function likely(r: ReturnType<typeof random>, T: number, V: number) {
  const token = Int32Array.from({ length: T }, () => r.integer(V))
  const logits = r.normals(T * V, 2)
  token.forEach((v, t) => {
    logits[t * V + v] = (logits[t * V + v] as number) + 8
  })
  return { token, logits }
}

function rowsOfLogits(run: Run, dtype: Dtype, T: number, V: number): AccuracyRow[] {
  const r = random(1)
  const drawn = likely(r, T, V)
  const { token } = drawn
  const logits = floats(dtype, drawn.logits, [T, V])
  const given = { logits: values(logits), V, token }
  const size = `${T} x ${V.toLocaleString('en')} logits, ${dtype}`
  const [exact, plain] = [tokenLogprobReference(given), tokenLogprobReference(given, Math.fround)]
  const policy = policyOf(T, exact.logp, r)
  const coefficients = (logp: Numbers, round?: Round) => policyObjective({ ...policy, logp }, objective, round).gradLogp
  const gradient = (of: Numbers, round?: Round) => tokenLogprobBackwardReference(given, of, undefined, round)
  const gradLogp = r.normals(T)
  const ofHalves = (of: Numbers) => fromHalves(given.logits, V, token, plain.logsumexp, of)
  const ifHalf = (name: string, x: () => Numbers) => (dtype === 'bf16' ? ([name, x()] as const) : undefined)
  const forward = run(tokenLogprob)({ logits, token })
  return [
    ...(['logp', 'entropy'] as const).map((output) =>
      row(
        'tokenLogprob',
        size,
        output,
        [forward[output], plain[output], exact[output]],
        ifHalf('its log-softmax in bf16', () => halves(plain[output])),
      ),
    ),
    row(
      'tokenLogprobBackward',
      size,
      'gradLogits',
      [
        run(tokenLogprobBackward)({ logits, token, gradLogp, logsumexp: forward.logsumexp }).gradLogits,
        rounding(dtype)(gradient(gradLogp, Math.fround)),
        gradient(gradLogp),
      ],
      ifHalf('from a log-softmax in bf16', () => ofHalves(gradLogp)),
    ),
    row(
      'policyLossFromLogits',
      size,
      'gradLogits',
      [
        run(policyLossFromLogits)({ logits, token, ...policy }, objective).gradLogits,
        rounding(dtype)(gradient(coefficients(plain.logp, Math.fround), Math.fround)),
        gradient(coefficients(exact.logp)),
      ],
      ifHalf('from a log-softmax in bf16', () => ofHalves(coefficients(halves(plain.logp), Math.fround))),
    ),
  ]
}

function rowsOfLinear(run: Run, dtype: Dtype, T: number, D: number, V: number): AccuracyRow[] {
  const r = random(2)
  const token = Int32Array.from({ length: T }, () => r.integer(V))
  const hidden = floats(dtype, r.normals(T * D), [T, D])
  const head = floats(dtype, r.normals(V * D, 2 / Math.sqrt(D)), [V, D])
  const matrices = { hidden: values(hidden), head: values(head), D }
  const size = `${T} tokens, ${D} x ${V.toLocaleString('en')}, ${dtype}`
  /** `logitsTo` rounds logits and their gradient, between the products and the softmax. */
  const whole = (round?: Round, logitsTo: (x: Numbers) => Numbers = (x) => x) => {
    const given = { logits: logitsTo(linearLogits(matrices, round)), V, token }
    const gradients = (of: Numbers) =>
      linearGradients(matrices, logitsTo(tokenLogprobBackwardReference(given, of, undefined, round)), round)
    return { ...tokenLogprobReference(given, round), gradients }
  }
  const [exact, plain] = [whole(), whole(Math.fround)]
  const low = dtype === 'bf16' ? whole(Math.fround, halves) : undefined
  const policy = policyOf(T, exact.logp, r)
  const coefficients = ({ logp }: { logp: Numbers }, round?: Round) =>
    policyObjective({ ...policy, logp }, objective, round).gradLogp
  const gradLogp = r.normals(T)
  const forward = run(linearTokenLogprob)({ hidden, head, token })
  const backward = run(linearTokenLogprobBackward)({ hidden, head, token, gradLogp, logsumexp: forward.logsumexp })
  const loss = run(linearPolicyLoss)({ hidden, head, token, ...policy }, objective)
  const others = 'logits and their gradient in bf16'
  const gradientRows = (operation: string, ours: Gradients, of: (x: typeof exact, round?: Round) => Numbers) => {
    const [e, p] = [exact.gradients(of(exact)), plain.gradients(of(plain, Math.fround))]
    const o = low?.gradients(of(low, Math.fround))
    return (['gradHidden', 'gradHead'] as const).map((output) =>
      row(
        operation,
        size,
        output,
        [ours[output], rounding(dtype)(p[output]), e[output]],
        o && [others, halves(o[output])],
      ),
    )
  }
  return [
    ...(['logp', 'entropy'] as const).map((output) =>
      row(
        'linearTokenLogprob',
        size,
        output,
        [forward[output], plain[output], exact[output]],
        low && [others, low[output]],
      ),
    ),
    ...gradientRows('linearTokenLogprobBackward', backward, () => gradLogp),
    ...gradientRows('linearPolicyLoss', loss, coefficients),
  ]
}

function rowsOfParts(run: Run, T: number, V: number, n: number): AccuracyRow[] {
  const { token, logits } = likely(random(3), T, V)
  const parts = Array.from({ length: n }, (_, i) => {
    const own = Float32Array.from({ length: (T * V) / n }, (_, j) => {
      const [t, v] = [Math.floor(j / (V / n)), j % (V / n)]
      return logits[t * V + (i * V) / n + v] as number
    })
    return run(tokenLogprob)({ logits: array(own, [T, V / n]), token }, { vocabStart: (i * V) / n })
  })
  const ours = run(mergeTokenLogprob)(parts)
  const at = (round?: Round) => Array.from({ length: T }, (_, t) => merged(parts, t, round))
  const [exact, plain] = [at(), at(Math.fround)]
  return names.map((output) =>
    row('mergeTokenLogprob', `${T} tokens, ${n} parts`, output, [
      ours[output],
      plain.map((x) => x[output]),
      exact.map((x) => x[output]),
    ]),
  )
}

function rowsOfSequences(run: Run, T: number): AccuracyRow[] {
  const r = random(4)
  const logp = r.uniforms(T, -8, -0.01)
  const policy = { logp, ...policyOf(T, logp, r), refLogp: logp.map((x) => x + 0.1 * r.normal()) }
  const options = { ...objective, klCoef: 0.04 } as const
  const ours = run(policyLoss)(policy, options)
  const [exact, plain] = [policyObjective(policy, options), policyObjective(policy, options, Math.fround)]
  const size = `${T.toLocaleString('en')} tokens, clip and k3`
  const [rewards, start] = [r.uniforms(T), Int32Array.from({ length: T / 16 + 1 }, (_, g) => 16 * g)]
  return [
    row('policyLoss', size, 'loss', [ours.loss, [plain.loss], [exact.loss]]),
    row('policyLoss', size, 'gradLogp', [ours.gradLogp, plain.gradLogp, exact.gradLogp]),
    row('groupAdvantage', `${T.toLocaleString('en')} rollouts in groups of 16`, 'advantage', [
      run(groupAdvantage)({ rewards, groupStart: start }).advantage,
      groupReference(rewards, start, undefined, {}, Math.fround).advantage,
      groupReference(rewards, start, undefined).advantage,
    ]),
  ]
}

interface Sizes {
  T: number
  V: number
  /** T, D, V. */
  linear: [number, number, number]
  /** T, V and the number of parts. */
  parts: [number, number, number]
  tokens: number
}
const whole: Sizes = { T: 16, V: 32_768, linear: [64, 128, 4096], parts: [1024, 256, 8], tokens: 4096 }
/** Small enough for a test. */
export const few: Sizes = { T: 8, V: 2048, linear: [16, 32, 512], parts: [64, 64, 4], tokens: 512 }

export const rows = (run: Run, { T, V, linear, parts, tokens } = whole): AccuracyRow[] => [
  ...rowsOfLogits(run, 'f32', T, V),
  ...rowsOfLogits(run, 'bf16', T, V),
  ...rowsOfLinear(run, 'f32', ...linear),
  ...rowsOfLinear(run, 'bf16', ...linear),
  ...rowsOfParts(run, ...parts),
  ...rowsOfSequences(run, tokens),
]
