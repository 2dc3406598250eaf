// What the tests of attention share: random problems, and how near forward and backward have to come to float64.
import { expect } from 'vitest'
import {
  array,
  fromBf16,
  fromF16,
  type HostArray,
  prefixAttention,
  prefixAttentionBackward,
  toBf16,
  toF16,
  treeLayout,
} from '../../lib/index.js'
import { type AttentionShape, attentionGradients, attentionReference } from '../references/attention.js'
import { type Tree, visibility } from '../references/forest.js'
import { accurate, accurateRows } from './compare.js'
import { random } from './random.js'

export type Floating = 'f32' | 'bf16' | 'f16'
export type FloatArray = HostArray<Floating>

/** Numbers in a dtype. */
export function floats(data: Float32Array, shape: number[], dtype: Floating): FloatArray {
  if (dtype === 'f32') return array(data, shape)
  return array(dtype === 'bf16' ? toBf16(data) : toF16(data), shape, dtype)
}

/** The numbers that an array of a dtype really holds. */
export const exactly = (x: FloatArray): Float32Array =>
  x.dtype === 'f32'
    ? (x.data as Float32Array)
    : x.dtype === 'bf16'
      ? fromBf16(x.data as Uint16Array)
      : fromF16(x.data as Uint16Array)

export type Sizes = Omit<AttentionShape, 'P' | 'softcap' | 'sink'>

export interface Options {
  window?: number | null
  softcap?: number | null
  /** A sink for each head, of about the size of the scores. */
  sink?: boolean
  /** The backward pass gets what rounding out lost. */
  outLow?: boolean
  /** q, k, v and their gradients are slices of one array each. */
  strided?: boolean
  /** Of q, k, v and gradOut. */
  size?: number
  /** Probabilities and slopes may be rounded to the dtype. */
  standard?: boolean
}

export function problem(tree: Tree, sizes: Sizes, dtype: Floating = 'f32', options: Options = {}, seed = 3) {
  const { window = null, softcap = null, sink = false, size = 1 } = options
  const P = tree.length.reduce((a, b) => a + b, 0)
  const r = random(seed)
  const make = (heads: number, width: number) => floats(r.normals(P * heads * width, size), [P, heads, width], dtype)
  const [q, k, v, gradOut] = [
    make(sizes.H, sizes.D),
    make(sizes.K, sizes.D),
    make(sizes.K, sizes.E),
    make(sizes.H, sizes.E),
  ]
  const sinks = sink ? { sink: r.normals(sizes.H, 2) } : {}
  const s: AttentionShape = { P, ...sizes, softcap, ...sinks }
  return { s, q, k, v, gradOut, ...sinks, layout: treeLayout(tree), sees: visibility(tree, window) }
}

/** Arrays [P,heads,width] side by side in rows of one array, with a gap between; `data` fills what is between too. */
export function sideBySide<Arrays extends Record<string, FloatArray>>(
  arrays: Arrays,
  dtype: Floating = Object.values(arrays)[0]!.dtype,
) {
  const gap = 3
  const widths = Object.values(arrays).map(({ shape }) => shape[1]! * shape[2]!)
  const stride = widths.reduce((a, b) => a + b + gap, 0)
  const P = Object.values(arrays)[0]!.shape[0]!
  // NaN in all three dtypes.
  const whole =
    dtype === 'f32' ? new Float32Array(P * stride).fill(Number.NaN) : new Uint16Array(P * stride).fill(0x7fff)
  let at = 0
  const views = Object.entries(arrays).map(([name, x], i) => {
    const width = widths[i]!
    for (let p = 0; p < P && x.dtype === dtype; p++)
      whole.set(x.data.subarray(p * width, (p + 1) * width), p * stride + at)
    const view = array(whole.subarray(at) as Float32Array, [...x.shape], dtype as 'f32', { stride })
    at += width + gap
    return [name, view]
  })
  return { views: Object.fromEntries(views) as Arrays, whole }
}

/** A view's elements, dense. */
export function together(x: FloatArray): FloatArray {
  if (x.stride === undefined) return x
  const [P, heads, width] = x.shape as [number, number, number]
  const row = heads * width
  const data = x.data.slice(0, P * row)
  for (let p = 0; p < P; p++) data.set(x.data.subarray(p * x.stride, p * x.stride + row), p * row)
  return array(data as Float32Array, [P, heads, width], x.dtype as 'f32')
}

const memory = new Map<string, unknown>()
function once<T>(key: string, make: () => T): T {
  if (!memory.has(key)) memory.set(key, make())
  return memory.get(key) as T
}

function withFactor(s: AttentionShape, dtype: Floating, { standard = false }: Options): AttentionShape {
  const one = (x: number) => exactly(floats(Float32Array.of(x), [1], dtype))[0] as number
  return standard ? { ...s, factor: one } : s
}

/** In float64, and forward by the plain float32 formula. */
function expected(tree: Tree, sizes: Sizes, dtype: Floating, options: Options) {
  return once(JSON.stringify([tree, sizes, dtype, { ...options, strided: false, outLow: false }]), () => {
    const { s, q, k, v, gradOut, sees } = problem(tree, sizes, dtype, options)
    const numbers = { q: exactly(q), k: exactly(k), v: exactly(v), gradOut: exactly(gradOut) }
    const exact = attentionReference(numbers, sees, s)
    const plain = attentionReference(numbers, sees, withFactor(s, dtype, options), Math.fround)
    return { numbers, exact: { ...exact, ...attentionGradients({ ...numbers, ...exact }, sees, s) }, plain }
  })
}

const gradients = ['gradQ', 'gradK', 'gradV'] as const

/**
 * Holds forward and backward against float64, with the plain float32 formula as the yardstick. Its backward pass starts
 * from the same out, of 16 bits, that the kernel's has.
 */
export function check(tree: Tree, sizes: Sizes, dtype: Floating = 'f32', given: Options = {}): void {
  const { s, q, k, v, gradOut, layout, sees, ...sink } = problem(tree, sizes, dtype, given)
  const { numbers, exact, plain: plainly } = expected(tree, sizes, dtype, given)
  const { window = null, softcap = null, outLow = false, strided = false } = given
  const options = {
    scale: sizes.scale ?? null,
    ...(window !== null && { window }),
    ...(softcap !== null && { softcap }),
    ...(given.standard && { precision: 'standard' as const }),
  }
  // 'standard' rounds what it computes, here and in the plain formula.
  const within = given.standard ? accurate : accurateRows
  const inputs = { ...(strided ? sideBySide({ q, k, v }).views : { q, k, v }), layout, ...sink }
  const like = (x: FloatArray, dtype: Floating = x.dtype) =>
    floats(new Float32Array(x.data.length), [...x.shape], dtype)
  const low = outLow ? { outLow: like(gradOut) } : {}
  const forward = prefixAttention(inputs, { ...options, ...(outLow && { out: low }) })
  within(forward.out, exact.out, plainly.out)
  accurate(forward.logsumexp, exact.logsumexp, plainly.logsumexp)
  const out = exactly(forward.out as FloatArray).slice()
  if (outLow) {
    expect(forward.outLow?.data).toBe(low.outLow?.data)
    exactly(low.outLow as FloatArray).forEach((x, i) => {
      out[i]! += x
    })
    // Two numbers of 16 bits hold out to a unit of the second in the last place of the first; f16 ends at 2^-24.
    const digits = (x: number) =>
      dtype === 'f16' ? Math.max(2 ** -25, 2 ** -22 * Math.abs(x)) : 2 ** -17 * Math.abs(x)
    const error = Math.max(...plainly.out.map((x, i) => Math.abs(x - exact.out[i]!)))
    out.forEach((x, i) => {
      expect(Math.abs(x - exact.out[i]!)).toBeLessThanOrEqual(2 * error + digits(exact.out[i]!))
    })
  }
  const handed = dtype === 'f32' ? plainly : { ...plainly, out }
  const plain = attentionGradients({ ...numbers, ...handed }, sees, withFactor(s, dtype, given), Math.fround)

  for (const wide of [false, true]) {
    const dtypes = wide ? 'f32' : dtype
    const dense = { gradQ: like(q, dtypes), gradK: like(k, dtypes), gradV: like(v, dtypes) }
    const { views, whole } = strided ? sideBySide(dense, dtypes) : { views: dense, whole: new Float32Array(0) }
    const between = whole.map((x, i) => (i % (views.gradQ.stride ?? 1) === 0 ? 0 : x))
    const into = wide || strided ? { out: views } : {}
    const backward = prefixAttentionBackward({ ...inputs, gradOut, ...forward, ...low } as never, {
      ...options,
      ...into,
    })
    for (const name of gradients) {
      within(together(backward[name] as FloatArray), exact[name], plain[name])
      expect(backward[name].dtype).toBe(dtypes)
      if ('out' in into) expect(backward[name].data).toBe(views[name].data)
    }
    if (s.sink !== undefined) accurate(backward.gradSink as HostArray, exact.gradSink, plain.gradSink)
    else expect(backward).not.toHaveProperty('gradSink')
    if (strided) expect(gaps(whole, views)).toEqual(gaps(between, views))
  }
}

/** What lies between the rows of views of one array. */
function gaps(whole: ArrayLike<number>, views: Record<string, FloatArray>): number[] {
  const stride = Object.values(views)[0]!.stride as number
  const inside = new Set<number>()
  let at = 0
  for (const { shape } of Object.values(views)) {
    for (let i = 0; i < shape[1]! * shape[2]!; i++) inside.add(at + i)
    at += shape[1]! * shape[2]! + 3
  }
  return Array.from(whole).filter((_, i) => !inside.has(i % stride))
}
