// Valid inputs for any operation, made from its row of the table, for the sweep. What a row cannot say (a forest's
// parents, which of two inputs to give) stands in `special`.

import type { DType } from '../../lib/addon/dtypes.js'
import { type ArraySpec, operationNames, signatures } from '../../lib/addon/signatures.js'
import { allocate, type HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import { toBf16, toF16 } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { random } from './random.js'

export type Inputs = Record<string, HostArray>
export interface Sample {
  inputs: Inputs
  options: Record<string, unknown>
  /** Axes that only outputs have. */
  sizes: Record<string, number>
}

const axisSizes: Record<string, number> = {
  N: 12, G: 3, T: 20, S: 4, R: 9, V: 37, P: 16, H: 4, K: 2, D: 8, E: 6, B: 4, M: 5,
} // biome-ignore format: a line

/** Inputs to leave out, options to give and arrays to set, where the row alone does not make a valid call. */
const special: Partial<
  Record<
    OperationName,
    {
      without?: string[]
      options?: Record<string, unknown>
      set?: Record<string, number[]>
      sizes?: Record<string, number>
    }
  >
> = {
  groupAdvantage: { options: { virtualCount: 1, virtualReward: 1 } },
  standardize: { set: { moments: [12, 0.5, 9] } },
  // Every other token lies in one of the twelve other parts.
  mergeTokenLogprob: {
    set: {
      logp: Array.from({ length: 20 }, (_, t) => (t % 2 ? -Infinity : -1 - t / 9)),
      otherLogp: Array.from({ length: 240 }, (_, i) => (i % 2 && (i % 20) % 12 === Math.floor(i / 20) ? -2 - i / 90 : -Infinity)), // biome-ignore format: a line
    },
  },
  gaussianLogprob: { set: { std: Array.from({ length: 20 }, (_, t) => 0.3 + t / 10) } },
  gaussianLogprobBackward: { set: { std: Array.from({ length: 20 }, (_, t) => 0.3 + t / 10) } },
  gaussianKl: { set: { std: Array.from({ length: 20 }, (_, t) => 0.3 + t / 10) } },
  gaussianKlBackward: { set: { std: Array.from({ length: 20 }, (_, t) => 0.3 + t / 10) } },
  policyLoss: { without: ['tokenAdvantage'], options: { klCoef: 0.1, entropyCoef: 0.01 } },
  policyLossFromLogits: { without: ['tokenAdvantage'], options: { klCoef: 0.1, entropyCoef: 0.01 } },
  linearPolicyLoss: { without: ['tokenAdvantage'], options: { klCoef: 0.1, entropyCoef: 0.01 } },
  linearPolicyLossPlan: { options: { rows: 9, tokens: 20, hiddenSize: 8, vocabulary: 37, threads: 2 } },
  treeLayout: {
    set: { length: [2, 3, 1, 2], parent: [-1, 0, 1, 0], end: [2, 3] },
    sizes: { N: 2, G: 1, P: 8, T: 6 },
  },
  prefixAttention: {
    set: { segmentStart: [0, 5, 9, 12, 16], segmentParent: [-1, 0, 0, -1], segmentEnd: [3, 2, 3, 4] },
  },
  prefixAttentionBackward: {
    without: ['outLow'],
    set: {
      segmentStart: [0, 5, 9, 12, 16],
      segmentParent: [-1, 0, 0, -1],
      segmentEnd: [3, 2, 3, 4],
      logsumexp: Array(64).fill(4),
    },
  },
  importanceWeight: {
    options: {
      gate: 'sequence_mean',
      gateLow: 0.5,
      gateHigh: 2,
      normalize: true,
      reject: 'seq_mean_k2',
      rejectHigh: 0.5,
    },
  },
  selectRollouts: { options: { count: 2 } },
  selectTokens: { without: ['tokenAdvantage'], options: { fraction: 0.4 } },
  maskIndex: { set: { mask: [1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0] } },
  scatterRows: { options: { rows: 9 } },
  groupBy: { set: { ids: [7, 7, -2, 5, 5, 5, -2, 7, 7, -2, 5, 7] } },
}

function fill(x: HostArray, spec: ArraySpec, sizes: Record<string, number>, r: ReturnType<typeof random>): void {
  const n = x.data.length
  const end = /(?:below|vocabulary) (\w)/.exec(spec.spec)?.[1]
  if (spec.offsets !== undefined) {
    const total = sizes[spec.offsets] as number
    const inner = Array.from({ length: Math.max(0, n - 2) }, () => r.integer(total + 1)).sort((a, b) => a - b)
    ;(x.data as Int32Array).set(n === 1 ? [0] : [0, ...inner, total])
  } else if (end !== undefined) {
    ;(x.data as Int32Array).set(Array.from({ length: n }, () => r.integer(Math.max(1, sizes[end] as number))))
  } else if (x.dtype === 'u8') {
    x.data.set(r.mask(n))
  } else if (spec.name === 'rowTemperature') {
    x.data.set(r.uniforms(n, 0.5, 2))
  } else if (x.dtype === 'bf16') {
    x.data.set(toBf16(r.normals(n)))
  } else if (x.dtype === 'f16') {
    x.data.set(toF16(r.normals(n)))
  } else {
    x.data.set(r.normals(n, x.dtype === 'i32' ? 5 : 1))
  }
}

/** Every third id or so for each row that has a set, and its tokens among them. */
function setIds({ keptStart, kept, token, row }: Inputs, V: number): void {
  const [start, ids, tokens] = [keptStart, kept, token].map((x) => (x as HostArray).data as Int32Array) as [
    Int32Array,
    Int32Array,
    Int32Array,
  ]
  for (let r = 0; r + 1 < start.length; r++) {
    const [begin, end] = [start[r] as number, start[r + 1] as number]
    const step = Math.max(1, Math.min(3, Math.floor(V / Math.max(1, end - begin))))
    for (let j = begin; j < end; j++) ids[j] = (r % step) + (j - begin) * step
  }
  tokens.forEach((_, t) => {
    const r = (row?.data[t] as number | undefined) ?? t
    const [begin, end] = [start[r] as number, start[r + 1] as number]
    if (end > begin) tokens[t] = ids[begin + (t % (end - begin))] as number
  })
}

/**
 * @param dtype  for arrays that may have several dtypes
 * @param empty  every axis has size 0
 */
export function sample(name: OperationName, dtype: DType = 'f32', empty = false, seed = 1): Sample {
  const { without = [], options = {}, set = {}, sizes: extra = {} } = special[name] ?? {}
  const sizes = Object.fromEntries(
    Object.keys(axisSizes).map((axis) => [axis, empty ? 0 : (axisSizes[axis] as number)]),
  )
  const r = random(seed)
  const inputs: Inputs = {}
  for (const spec of signatures[name].inputs) {
    if (without.includes(spec.name)) continue
    const own = spec.dtypes.length > 1 || spec.dtypes.length === 0 ? dtype : (spec.dtypes[0] as DType)
    const sized = spec.axes.some(({ letter }) => letter !== '')
    const values = empty && sized ? undefined : set[spec.name]
    const shape = spec.axes.map(({ letter, plus }) => (letter === '' ? plus : (sizes[letter] as number) + plus))
    if (values !== undefined && shape.length === 1) shape[0] = values.length
    const x = allocate('sample', spec.name, own, shape)
    if (values !== undefined) x.data.set(values)
    else fill(x, spec, sizes, r)
    inputs[spec.name] = x
  }
  if (inputs.keptStart && inputs.kept) setIds(inputs, sizes.V as number)
  const wanted = { ...options }
  if (empty && 'rows' in wanted) wanted.rows = 0
  const known = empty ? Object.fromEntries(Object.keys(extra).map((axis) => [axis, 0])) : extra
  return {
    inputs,
    options: wanted,
    sizes: name === 'maskIndex' ? { M: empty ? 0 : 5 } : name === 'groupBy' ? { G: empty ? 0 : 3 } : known,
  }
}

/** Why the CPU refuses the sample of an operation; undefined if it computes. */
export function refusal(name: OperationName): string | undefined {
  try {
    const { inputs, options, sizes } = sample(name)
    call(name, inputs as never, options as never, sizes).now()
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** The operations that a sweep can call. Of the others all_ops.test.ts says what their samples lack. */
export const sampled = operationNames.filter((name) => refusal(name) === undefined)
