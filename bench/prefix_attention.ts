import {
  array,
  fromBf16,
  type HostArray,
  prefixAttention,
  prefixAttentionBackward,
  prefixLayout,
  toBf16,
  treeLayout,
} from '../lib/index.js'
import { type Case, normals, type Outputs } from './cases.js'
import { onGpu } from './gpu.js'

// One prompt and its responses, heads as in a small model.
const [prefix, responses, length, H, D] = [1024, 8, 256, 8, 128]
const P = prefix + responses * length
const whole = prefix + length

const shared = prefixLayout([{ prefix, responses: Array(responses).fill(length) }])
const repeated = treeLayout({
  length: new Int32Array(responses).fill(whole),
  parent: new Int32Array(responses).fill(-1),
})

/** Pairs of a token and one that it sees. */
const causal = (n: number) => (n * (n + 1)) / 2
const sharedArea = causal(prefix) + responses * (length * prefix + causal(length))
const repeatedArea = responses * causal(whole)

type Floats = HostArray<'f32' | 'bf16'>
type DType = 'f32' | 'bf16'
const make = (values: Float32Array, dtype: DType, shape: number[]): Floats =>
  dtype === 'f32' ? array(values, shape) : array(toBf16(values), shape, 'bf16')
const floats = (x: HostArray) => (x.dtype === 'bf16' ? fromBf16(x.data as Uint16Array) : (x.data as Float32Array))

/** Every response behind a copy of the prefix; `once` leaves the prefix of the other copies 0. */
function repeat(x: Float32Array, once = false): Float32Array {
  const width = H * D
  const copies = new Float32Array(responses * whole * width)
  for (let g = 0; g < responses; g++) {
    const from = (prefix + g * length) * width
    if (g === 0 || !once) copies.set(x.subarray(0, prefix * width), g * whole * width)
    copies.set(x.subarray(from, from + length * width), (g * whole + prefix) * width)
  }
  return copies
}

/** The other way: responses as they are, the prefix from the first copy, or summed over all. */
function fold(x: Float32Array, sum: boolean): Float32Array {
  const width = x.length / (responses * whole)
  const folded = new Float32Array(P * width)
  for (let g = 0; g < responses; g++) {
    const from = g * whole * width
    for (let i = 0; i < (g === 0 || sum ? prefix * width : 0); i++) folded[i]! += x[from + i]!
    folded.set(x.subarray(from + prefix * width, from + whole * width), (prefix + g * length) * width)
  }
  return folded
}

const foldAll = (outputs: Outputs, sum: boolean): Outputs =>
  Object.fromEntries(Object.entries(outputs).map(([name, x]) => [name, fold(floats(x as HostArray), sum)]))

function qkv(dtype: DType) {
  const values = Array.from({ length: 4 }, (_, i) => normals(P * H * D, 1, 0, i))
  const inputs = (change: (x: Float32Array) => Float32Array, shape: number[]) => {
    const [q, k, v] = values.map((x) => make(change(x), dtype, shape)) as [Floats, Floats, Floats]
    return { q, k, v }
  }
  return {
    once: inputs((x) => x, [P, H, D]),
    copied: inputs(repeat, [responses * whole, H, D]),
    gradOut: values[3]!,
  }
}

const batched = (x: Record<string, Floats>) =>
  Object.fromEntries(
    Object.entries(x).map(([name, { data, dtype }]) => [
      name,
      { data, dtype, shape: [responses, whole, H, D] } as HostArray,
    ]),
  )

const size = (dtype: DType) => `prefix ${prefix}, ${responses} responses of ${length}, ${H} heads of ${D}, ${dtype}`
const goals = [{ against: 'grpo-kernels, prefix repeated', times: 2 }]

const forward = (dtype: DType): Case => ({
  operation: 'prefixAttention',
  size: size(dtype),
  goals,
  prepare() {
    const { once, copied } = qkv(dtype)
    const out = prefixAttention({ ...once, layout: shared })
    const copiedOut = prefixAttention({ ...copied, layout: repeated })
    return {
      inputs: once,
      gpu: onGpu(prefixAttention, { ...once, layout: shared }, {}),
      flops: 4 * H * D * sharedArea,
      variants: [
        { name: '', run: () => ({ ...prefixAttention({ ...once, layout: shared }, { out }) }) },
        {
          name: 'prefix repeated',
          inputs: copied,
          flops: 4 * H * D * repeatedArea,
          run: () => ({ ...prefixAttention({ ...copied, layout: repeated }, { out: copiedOut }) }),
          comparable: (outputs) => foldAll(outputs, false),
        },
      ],
      peers: { inputs: batched(copied), flops: 4 * H * D * repeatedArea, variant: 1 },
    }
  },
})

const backward = (dtype: DType): Case => ({
  operation: 'prefixAttentionBackward',
  size: size(dtype),
  goals,
  prepare() {
    const { once, copied, gradOut } = qkv(dtype)
    const prepare = (x: typeof once, values: Float32Array, layout: typeof shared) => {
      const inputs = { ...x, ...prefixAttention({ ...x, layout }), gradOut: make(values, dtype, [...x.q.shape]) }
      return { inputs, call: { ...inputs, layout }, out: prefixAttentionBackward({ ...inputs, layout }) }
    }
    const one = prepare(once, gradOut, shared)
    const all = prepare(copied, repeat(gradOut, true), repeated)
    return {
      inputs: one.inputs,
      gpu: onGpu(prefixAttentionBackward, one.call, {}),
      flops: 10 * H * D * sharedArea,
      variants: [
        { name: '', run: () => ({ ...prefixAttentionBackward(one.call, { out: one.out }) }) },
        {
          name: 'prefix repeated',
          inputs: all.inputs,
          flops: 10 * H * D * repeatedArea,
          run: () => ({ ...prefixAttentionBackward(all.call, { out: all.out }) }),
          comparable: (outputs) => foldAll(outputs, true),
        },
      ],
      peers: {
        inputs: batched({ ...copied, gradOut: all.inputs.gradOut }),
        flops: 10 * H * D * repeatedArea,
        variant: 1,
      },
    }
  },
})

/** One training step's attention of a layer: forward and backward of its heads, its window and its sinks. */
interface Layer {
  name: string
  dtype: DType
  prefix: number
  heads: number
  keyHeads: number
  D: number
  E?: number
  options?: { window?: number; softcap?: number; precision?: 'standard' }
  sink?: boolean
}

const layer = ({ name, dtype, prefix, heads, keyHeads, D, E = D, options = {}, sink = false }: Layer): Case => ({
  operation: 'prefixAttentionBackward',
  size: `${name}: prefix ${prefix}, 4 responses of 256, ${heads}/${keyHeads} heads of ${D}${E === D ? '' : `/${E}`}, ${dtype}`,
  prepare() {
    const [count, tokens] = [4, 256]
    const layout = prefixLayout([{ prefix, responses: Array(count).fill(tokens) }])
    const total = prefix + count * tokens
    const draw = (n: number, width: number, i: number) =>
      make(normals(total * n * width, 1, 0, i), dtype, [total, n, width])
    const inputs = {
      ...{ q: draw(heads, D, 0), k: draw(keyHeads, D, 1), v: draw(keyHeads, E, 2), gradOut: draw(heads, E, 3) },
      ...(sink && { sink: array(normals(heads, 1, 0, 4)) }),
    }
    const { gradOut, ...given } = inputs
    const seen = (position: number) => Math.min(position + 1, options.window ?? position + 1)
    const area = layout.position.data.reduce((sum, position) => sum + seen(position), 0)
    const out = prefixAttention({ ...given, layout }, options)
    const gradients = prefixAttentionBackward({ ...inputs, layout, ...out }, options)
    return {
      inputs,
      peers: null,
      // Two products forward; five backward, of which three have D columns.
      flops: 2 * heads * area * (4 * D + 3 * E),
      variants: [
        {
          name: '',
          run: () => {
            const forward = prefixAttention({ ...given, layout }, { ...options, out })
            return { ...prefixAttentionBackward({ ...inputs, layout, ...forward }, { ...options, out: gradients }) }
          },
        },
      ],
    }
  },
})

const long = { prefix: 3072, heads: 4, keyHeads: 1, D: 128 }
const layers: Layer[] = [
  { name: 'all of the path', dtype: 'bf16', ...long },
  { name: 'window 512', dtype: 'bf16', ...long, options: { window: 512 } },
  { name: "precision 'standard'", dtype: 'bf16', ...long, options: { precision: 'standard' } },
  {
    name: 'Gemma-like, window 1,024',
    dtype: 'bf16',
    prefix: 2048,
    heads: 4,
    keyHeads: 2,
    D: 256,
    options: { window: 1024 },
  },
  {
    name: 'Gemma-2-like, soft-cap 50',
    dtype: 'bf16',
    prefix: 2048,
    heads: 4,
    keyHeads: 2,
    D: 256,
    options: { softcap: 50 },
  },
  {
    ...{ name: 'gpt-oss-like, window 128 and sinks', dtype: 'bf16', prefix: 2048, heads: 16, keyHeads: 2, D: 64 },
    ...{ options: { window: 128 }, sink: true },
  },
  { name: 'latent heads', dtype: 'bf16', prefix: 1024, heads: 4, keyHeads: 4, D: 192, E: 128 },
]

export const cases: Case[] = [
  ...[forward('f32'), backward('f32'), forward('bf16'), backward('bf16')],
  ...layers.map(layer),
]
