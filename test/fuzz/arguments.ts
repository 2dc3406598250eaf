// The arrays and options of a case. What a row of the table does not say, so that a call means something (a forest's
// parents, a logsumexp that belongs to its logits, which choices of an objective go together), stands here.
import { type ArraySpec, signatures } from '../../lib/addon/signatures.js'
import { allocate, type HostArray } from '../../lib/arrays/array.js'
import { array, toBf16, toF16 } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { attentionReference } from '../references/attention.js'
import { layoutReference, randomForest, type Tree, visibility } from '../references/forest.js'
import { linearLogits } from '../references/linear.js'
import { tokenLogprobReference } from '../references/token_logprob.js'
import { values } from '../support/numbers.js'
import { random } from '../support/random.js'
import { setsOf } from '../support/sets_of.js'
import type { OperationCase } from './cases.js'

export type Inputs = Record<string, HostArray>
export interface Arguments {
  inputs: Inputs
  options: Record<string, unknown>
  /** Axes that only outputs have. */
  sizes: Record<string, number>
  /** Of treeLayout and attention. */
  tree?: Tree
  /** Of each token, where the logits are a part of a vocabulary, in float64: those of the whole row. */
  whole?: { logsumexp: number[]; entropy: number[] }
}
type Random = ReturnType<typeof random>

const specials = [Number.NaN, Infinity, -Infinity, -0, 0, 1e38, -3e38, 1e-45, 1e-38, 1]

function drawn(c: OperationCase, n: number, r: Random): Float32Array {
  if (c.contents === 'ties') return Float32Array.from({ length: n }, () => r.integer(5) - 2)
  const x = r.normals(n)
  if (c.contents === 'special') for (let i = 0; i < n; i++) if (r.uniform() < 0.1) x[i] = specials[r.integer(10)]!
  return x
}

export function put(x: HostArray, data: ArrayLike<number>): void {
  const wide = Float32Array.from(data)
  if (x.dtype === 'bf16') x.data.set(toBf16(wide))
  else if (x.dtype === 'f16') x.data.set(toF16(wide))
  else x.data.set(data as never)
}

function fill(c: OperationCase, x: HostArray, spec: ArraySpec, r: Random): void {
  const n = x.data.length
  const end = /(?:below|vocabulary) (\w)/.exec(spec.spec)?.[1]
  if (spec.offsets !== undefined) {
    const total = c.sizes[spec.offsets] as number
    const inner = Array.from({ length: Math.max(0, n - 2) }, () => r.integer(total + 1)).sort((a, b) => a - b)
    put(x, n === 1 ? [0] : [0, ...inner, total])
  } else if (end !== undefined) {
    put(
      x,
      Array.from({ length: n }, () => r.integer(Math.max(1, c.sizes[end] as number))),
    )
  } else if (x.dtype === 'u8') {
    put(x, c.mask === 'some' ? r.mask(n) : new Uint8Array(n).fill(Number(c.mask === 'all')))
  } else if (x.dtype === 'i32') {
    put(
      x,
      Array.from({ length: n }, () => r.integer(7) - 3),
    )
  } else {
    put(x, drawn(c, n, r))
  }
}

/** Choices that do not go together are brought together; what is left is refused, or it computes. */
function objective(given: Record<string, unknown>, inputs: Inputs): Record<string, unknown> {
  const o = { ...given }
  if (o.surrogate === 'vespo') o.ratio = 'sequence_product'
  if (/^d/.test(String(o.surrogate))) delete o.ratio
  if (o.ratio === 'geometric') delete o.surrogate
  if (o.surrogate === 'dro') o.droBeta ??= 0.5
  else delete o.droBeta
  if (!String(o.surrogate).startsWith('dppo')) delete o.ratioCap
  if ((o.surrogate ?? 'clip') !== 'clip' || o.ratio === 'geometric') delete o.dualClip
  if (o.ratio === 'geometric') delete o.klWeight
  if (o.aggregate === 'constant' || o.entropyAggregate === 'constant') o.maxLength ??= 7
  if (inputs.refLogp === undefined) delete o.klCoef
  const token = (o.ratio ?? 'token') === 'token' && !String(o.surrogate).startsWith('dppo')
  if (!token) for (const bound of ['ratioLow', 'ratioHigh']) delete inputs[bound]
  if (inputs.advantage !== undefined && inputs.tokenAdvantage !== undefined) {
    delete inputs[o.ratio === 'geometric' ? 'tokenAdvantage' : inputs.weight ? 'advantage' : 'tokenAdvantage']
  }
  return o
}

const near = (c: OperationCase, x: HostArray, center: ArrayLike<number>, r: Random): void => {
  if (c.contents !== 'special')
    put(
      x,
      Float32Array.from(center, (v) => v + 0.8 * (2 * r.uniform() - 1)),
    )
}

/** Numbers as a policy has them: log-probabilities that differ by less than 1 from each other, weights above 0. */
function policy(c: OperationCase, inputs: Inputs, logp: ArrayLike<number>, r: Random): void {
  for (const name of ['oldLogp', 'refLogp']) if (inputs[name]) near(c, inputs[name], logp, r)
  if (c.contents === 'special') return
  const uniform = { weight: [0, 2], ratioLow: [0.4, 0.9], ratioHigh: [1.1, 2] } as const
  for (const [name, [low, high]] of Object.entries(uniform)) {
    const x = inputs[name]
    if (x) put(x, r.uniforms(x.data.length, low, high))
  }
}

const forests = ['treeLayout', 'prefixAttention', 'prefixAttentionBackward']

function forest(c: OperationCase, r: Random): Tree {
  const B = c.name === 'treeLayout' ? (c.sizes.B as number) : 1 + ((c.sizes.B as number) % 6)
  return randomForest(r, B, Math.max(1, Math.floor((c.sizes.P as number) / Math.max(1, B)) + 2))
}

/** Calls an operation of the library: what it handed out is handed back to it. */
export type Forward = (name: OperationName, made: Arguments) => Record<string, HostArray>
type Special = (c: OperationCase, made: Arguments, r: Random, forward: Forward) => void
const plainNumbers = (c: OperationCase, x: HostArray | undefined, data: () => ArrayLike<number>) => {
  if (x !== undefined && c.contents !== 'special') put(x, data())
}

function logitsOf({ inputs }: Arguments): ArrayLike<number> {
  if (inputs.logits) return values(inputs.logits)
  const { hidden, head, headBias } = inputs as Record<'hidden' | 'head' | 'headBias', HostArray>
  const D = hidden.shape[1] as number
  const [R, V] = [hidden.shape[0] as number, head.shape[0] as number]
  if (D === 0)
    return Float64Array.from({ length: R * V }, (_, i) => (headBias ? (values(headBias)[i % V] as number) : 0))
  return linearLogits({ hidden: values(hidden), head: values(head), D, headBias: headBias && values(headBias) })
}

/** Forward numbers of tokens, which a backward pass or an old policy starts from. */
function forwardNumbers(c: OperationCase, made: Arguments) {
  const { inputs, options } = made
  return tokenLogprobReference({
    logits: logitsOf(made),
    V: c.sizes.V as number,
    token: values(inputs.token as HostArray),
    row: inputs.row && values(inputs.row),
    mask: inputs.mask && values(inputs.mask),
    temperature: (options.temperature as number) ?? 1,
    softcap: options.softcap as number | undefined,
    rowTemperature: inputs.rowTemperature && values(inputs.rowTemperature),
    validVocab: options.validVocab as number | undefined,
    keptStart: inputs.keptStart && values(inputs.keptStart),
    kept: inputs.kept && values(inputs.kept),
  })
}

/** Ids that rise in the set of each row, as many as it has place for; most of its tokens, for a loss all, are among them. */
function sets(c: OperationCase, { inputs, options }: Arguments, r: Random): void {
  const { keptStart, kept, token, row } = inputs as Record<string, HostArray | undefined>
  if (keptStart === undefined || kept === undefined || c.sizes.V === 0) {
    delete inputs.keptStart
    delete inputs.kept
    return
  }
  const start = (options.vocabStart as number | null | undefined) ?? 0
  const ids = start + ((options.validVocab as number | null | undefined) ?? (c.sizes.V as number))
  const bounds = values(keptStart)
  const lists = Array.from({ length: bounds.length - 1 }, (_, i) => {
    const drawn = Array.from({ length: bounds[i + 1]! - bounds[i]! }, () => r.integer(ids))
    return [...new Set(drawn)].sort((x, y) => x - y)
  })
  for (const [name, data] of Object.entries(setsOf(lists))) inputs[name] = array(data)
  const rows = row && values(row)
  for (let t = 0; t < token!.data.length; t++) {
    const list = lists[rows?.[t] ?? t] ?? []
    if (list.length > 0 && (inputs.sequenceStart || r.uniform() < 0.8)) token!.data[t] = list[r.integer(list.length)]!
  }
}

/** Temperatures are above 0, tokens are no padding, and what is added to has to be given. */
function besideLogits(c: OperationCase, { inputs, options }: Arguments, r: Random): void {
  const V = c.sizes.V as number
  if (inputs.rowTemperature) put(inputs.rowTemperature, r.uniforms(c.sizes.R as number, 0.5, 2))
  if (inputs.hidden) delete options.vocabStart // a head split over ranks: logits_options.test.ts
  if (options.vocabStart != null || V === 0) delete options.validVocab
  if (options.validVocab != null) {
    const valid = (options.validVocab = 1 + ((options.validVocab as number) % V))
    const token = inputs.token as HostArray
    put(
      token,
      Array.from(values(token), (id) => id % valid),
    )
  }
  sets(c, { inputs, options, sizes: {} }, r)
}

/** The same of a vocabulary of which the logits are the columns `vocabStart`.., and tokens from all of it. */
function wholeNumbers(c: OperationCase, made: Arguments, r: Random) {
  const { inputs, options } = made
  const [V, start, after] = [c.sizes.V as number, options.vocabStart as number, r.integer(4)]
  const [logits, R, wide] = [values(inputs.logits as HostArray), c.sizes.R as number, start + V + after]
  const all = Array.from({ length: R }, (_, i) => [
    ...drawn(c, start, r),
    ...Array.from({ length: V }, (_, v) => logits[i * V + v] as number),
    ...drawn(c, after, r),
  ]).flat()
  const token = inputs.token as HostArray
  put(
    token,
    Array.from({ length: token.data.length }, () => r.integer(wide)),
  )
  sets(c, made, r)
  const whole = { ...c, sizes: { ...c.sizes, V: wide } }
  const forward = forwardNumbers(whole, {
    ...made,
    inputs: { ...inputs, logits: array(Float32Array.from(all), [R, wide]) },
  })
  made.whole = forward
  return forward
}

const withLogits: Special = (c, made, r) => {
  const { inputs, options } = made
  if (inputs.row === undefined) delete inputs.row
  besideLogits(c, made, r)
  if (c.contents === 'special' || (c.sizes.V as number) === 0) return
  const forward = options.vocabStart == null ? forwardNumbers(c, made) : wholeNumbers(c, made, r)
  for (const name of ['logsumexp', 'entropy'] as const) if (inputs[name]) put(inputs[name], forward[name])
  policy(c, inputs, forward.logp, r)
}

/**
 * The backward pass of logits that are formed again takes their own logsumexp, not one that is more exact: of float32
 * logits of 6 at a temperature of 1e-4 the two are 4e-3 apart, and so is every p.
 */
const withOwnForward: Special = (c, made, r, forward) => {
  withLogits(c, made, r, forward)
  // Kept logits of other hidden states have another logsumexp; the operation's own test has those that belong together.
  delete made.inputs.logits
  if (c.contents === 'special') return
  const { hidden, head, headBias, token, row, rowTemperature, keptStart, kept, mask } = made.inputs
  const inputs = {
    hidden,
    head,
    token,
    ...(headBias && { headBias }),
    ...(row && { row }),
    ...(rowTemperature && { rowTemperature }),
    ...(keptStart && { keptStart, kept }),
    ...(mask && { mask }),
  } as Inputs
  const { temperature, softcap = null, validVocab = null } = made.options
  const own = forward('linearTokenLogprob', {
    inputs,
    options: { softcap, validVocab, ...(temperature !== undefined && { temperature }) },
    sizes: {},
  })
  for (const name of ['logsumexp', 'entropy'] as const)
    if (made.inputs[name]) made.inputs[name] = own[name] as HostArray
}

const withDeviations: Special = (c, { inputs }, r) => {
  plainNumbers(c, inputs.std, () => r.uniforms(c.sizes.T as number, 0.3, 2))
  if (inputs.oldMean === undefined) delete inputs.gradLogRatio
}

const special: Partial<Record<OperationCase['name'], Special>> = {
  groupAdvantage: (_, { options }) => {
    if (options.virtualCount) options.virtualReward ??= 1
  },
  standardize: (_, { inputs }, r) => put(inputs.moments as HostArray, [r.integer(9), r.normal(), r.uniform()]),
  gaussianLogprob: withDeviations,
  gaussianLogprobBackward: withDeviations,
  gaussianKl: withDeviations,
  gaussianKlBackward: withDeviations,
  mergeTokenLogprob: (c, { inputs }, r) => {
    if (c.contents === 'special') return
    // A token belongs to one of the parts.
    const [first, others] = [inputs.logp as HostArray, inputs.otherLogp as HostArray]
    const [N, T] = others.shape as [number, number]
    for (let t = 0; t < T; t++) {
      const own = r.integer(N + 1)
      if (own > 0) first.data[t] = -Infinity
      for (let i = 1; i <= N; i++) if (i !== own) others.data[(i - 1) * T + t] = -Infinity
    }
  },
  policyLoss: (c, made, r) => {
    plainNumbers(c, made.inputs.logp, () => r.uniforms(c.sizes.T as number, -4, -0.05))
    policy(c, made.inputs, (made.inputs.logp as HostArray).data as Float32Array, r)
    plainNumbers(c, made.inputs.entropy, () => r.uniforms(c.sizes.T as number, 0, 3))
    if (made.inputs.entropy === undefined) delete made.options.entropyCoef
  },
  tokenLogprob: withLogits,
  tokenLogprobBackward: withLogits,
  linearTokenLogprob: withLogits,
  linearTokenLogprobBackward: withOwnForward,
  policyLossFromLogits: withLogits,
  linearPolicyLoss: withLogits,
  linearPolicyLossPlan: (_, { options }) => {
    options.threads ||= 1
  },
  selectRollouts: (c, { inputs, options }, r) => {
    if (options.count == null && options.fraction == null) options.fraction = 0.4
    if (options.count != null) delete options.fraction
    // Whole numbers: of their subsets the variance is known exactly.
    const score = inputs.score as HostArray
    if (c.contents !== 'special')
      put(
        score,
        Array.from({ length: score.data.length }, () => r.integer(19) - 9),
      )
  },
  selectTokens: (_, { inputs, options }) => {
    if (options.count == null && options.fraction == null) options.fraction = 0.4
    if (options.count != null) delete options.fraction
    if (inputs.advantage && inputs.tokenAdvantage) delete inputs.advantage
    if (!inputs.entropy) options.rule = 'advantage'
    else if (!inputs.advantage && !inputs.tokenAdvantage) options.rule = 'entropy'
  },
  // Bounds in their order; a statistic of rejection with its upper one.
  importanceWeight: (_, { options }, r) => {
    for (const [low, high] of [
      ['low', 'high'],
      ['gateLow', 'gateHigh'],
      ['rejectLow', 'rejectHigh'],
    ] as const) {
      if ((options[low] as number) > ((options[high] as number | undefined) ?? 3)) delete options[low]
    }
    if (options.reject == null) return
    if (String(options.reject).endsWith('k1')) options.rejectHigh = 1 + 2 * r.uniform()
    else {
      options.rejectHigh ??= r.uniform()
      delete options.rejectLow
    }
  },
  maskIndex: (_, made) => {
    made.sizes = { M: ((made.inputs.mask as HostArray).data as Uint8Array).filter(Boolean).length }
  },
  groupBy: (_, made) => {
    made.sizes = { G: new Set(made.inputs.ids?.data as Int32Array).size }
  },
  scatterRows: (c, { options }) => {
    options.rows = c.sizes.R
  },
  treeLayout: (c, made, r) => {
    const tree = (made.tree = forest(c, r))
    const layout = layoutReference(tree)
    made.inputs = { length: array(Int32Array.from(tree.length)), parent: array(Int32Array.from(tree.parent)) }
    made.sizes = {
      N: layout.sequenceStart.length - 1, G: layout.groupStart.length - 1, P: layout.position.length,
      T: layout.row.length,
    } // biome-ignore format: a line
  },
}

/** The arguments, the same each time. */
export function argumentsOf(c: OperationCase, forward: Forward): Arguments {
  const r = random(c.seed)
  const made: Arguments = { inputs: {}, options: { ...c.options }, sizes: {} }
  delete made.options.accumulate // gradient_options.test.ts, gaussian_kl.test.ts
  const sizes = { ...c.sizes }
  if (forests.includes(c.name) && c.name !== 'treeLayout') {
    const tree = (made.tree = forest(c, r))
    const layout = layoutReference(tree)
    // Query heads are a multiple of the key heads; none without one.
    Object.assign(sizes, { P: layout.position.length, B: tree.length.length, K: 1 + (sizes.K as number) })
    sizes.H = (sizes.K as number) * (1 + ((sizes.H as number) % 3))
    sizes.D = 1 + (sizes.D as number)
    sizes.E = 1 + (sizes.E as number)
  }
  if (sizes.R !== undefined && sizes.T !== undefined && sizes.R === 0) sizes.T = 0
  if (sizes.V === 0 && c.name !== 'linearPolicyLossPlan') sizes.V = 1
  if (c.without.includes('row')) sizes.R = sizes.T as number
  for (const [size, of] of [['T', 'S'], ['N', 'G']] as const) if (sizes[of] === 0 && sizes[size]) sizes[of] = 1 // biome-ignore format: a line
  if (['gatherRows', 'scatterRows'].includes(c.name) && sizes.R === 0) sizes.M = 0
  if (c.name === 'sequenceExpand' && sizes.S === 0) sizes.T = 0
  const known = { ...c, sizes }
  for (const spec of signatures[c.name].inputs) {
    if (spec.optional && c.without.includes(spec.name)) continue
    const own = spec.dtypes.length > 1 || spec.dtypes.length === 0 ? c.dtype : spec.dtypes[0]!
    const shape = spec.axes.map(({ letter, plus }) => (letter === '' ? plus : (sizes[letter] as number) + plus))
    const x = allocate('fuzz', spec.name, own, shape)
    fill(known, x, spec, r)
    made.inputs[spec.name] = x
  }
  if (signatures[c.name].options.some(({ name }) => name === 'surrogate')) {
    if (!made.inputs.advantage && !made.inputs.tokenAdvantage) {
      made.inputs.advantage = array(drawn(known, sizes.S as number, r))
    }
    made.options = objective(made.options, made.inputs)
  }
  if (made.tree && c.name !== 'treeLayout') attention(known, made)
  special[c.name]?.(known, made, r, forward)
  return made
}

function attention(c: OperationCase, made: Arguments): void {
  if (c.dtype === 'f32') delete made.inputs.outLow
  const layout = layoutReference(made.tree as Tree)
  for (const name of ['segmentStart', 'segmentParent', 'segmentEnd'] as const) put(made.inputs[name]!, layout[name])
  const { out, outLow, logsumexp, q, k, v } = made.inputs as Record<string, HostArray>
  if (out === undefined || c.contents === 'special') return
  const { s, sees } = attentionOf(made)
  const forward = attentionReference({ q: values(q!), k: values(k!), v: values(v!) }, sees, s)
  put(out, forward.out)
  const high = values(out)
  const rest = forward.out.map((x, i) => x - high[i]!)
  if (outLow) put(outLow, rest)
  put(logsumexp!, forward.logsumexp)
}

/** Who sees whom, and what the references take of the options. */
export function attentionOf({ inputs, options, tree }: Arguments) {
  const size = (x: HostArray | undefined, axis: number) => x!.shape[axis] as number
  const { scale, softcap, window } = options as Record<string, number | null | undefined>
  const { q, k, v, sink } = inputs
  const shape = { P: size(q, 0), H: size(q, 1), K: size(k, 1), D: size(q, 2), E: size(v, 2) }
  const s = { ...shape, softcap, ...(typeof scale === 'number' && { scale }), ...(sink && { sink: values(sink) }) }
  return { s, sees: visibility(tree as Tree, window) }
}

export const copyOf = (x: HostArray): HostArray => ({ ...x, data: x.data.slice() }) as HostArray
