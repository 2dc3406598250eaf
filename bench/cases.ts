// What a benchmark consists of. bench/<operation>.ts exports `cases`: each names its size, makes the inputs and calls this
// package; the peers do the same work on the same inputs under the same name, in bench/peers/.
import { array, type HostArray, type TypedArray, toBf16 } from '../lib/index.js'
import { random } from '../test/support/random.js'
import { setsOf } from '../test/support/sets_of.js'
import type { OnGpu } from './gpu.js'

export type Arrays = Record<string, HostArray>
export type Outputs = Record<string, HostArray | TypedArray | number | null | undefined>
export type Numbers = Record<string, number>

/** One way of calling this package. */
export interface Variant {
  /** What distinguishes it: 'in place', 'new arrays'. */
  name: string
  run(): Outputs
  /** Runs before every timed call, and is not timed: restores what the call overwrites. */
  before?(): void
  /** Where they differ from the work's own. */
  inputs?: Arrays
  flops?: number
  /** The outputs in the order of the first variant's, to compare them. */
  comparable?(outputs: Outputs): Outputs
}

export interface Work {
  inputs: Arrays
  /** Sizes and options that the peers need. */
  numbers?: Numbers
  /** Multiplications and additions of matrix products, if that is where the time goes. */
  flops?: number
  /** Of logits, if that is where the time goes: each of them once, whatever an implementation repeats. */
  exponentials?: number
  /** The first is the one that everything is compared with. */
  variants: [Variant, ...Variant[]]
  /** The first variant's call, for a row of a GPU. */
  gpu?: OnGpu
  /** What no column says: memory, accuracy. */
  notes?: string[]
  /** What the peers get if it is not `inputs`, and the variant that does the same work as they; null: none of them can. */
  peers?: { inputs: Arrays; flops?: number; variant: number } | null
}

export interface Case {
  /** The public function; peers look it up. */
  operation: string
  size: string
  /** What a sentence of the design or an issue promises: at least `times` as fast as rows whose name starts so. */
  goals?: { against: string; times: number }[]
  prepare(): Work | Promise<Work>
}

// A prime: rows of any width fall on another part of the pattern each time.
const patternLength = 1048573

/** Normal numbers, repeated after `patternLength`. */
export function normals(n: number, scale = 1, mean = 0, seed = n): Float32Array {
  const x = new Float32Array(n)
  x.set(random(seed).normals(Math.min(n, patternLength), scale, mean))
  for (let filled = patternLength; filled < n; filled *= 2) x.copyWithin(filled, 0, Math.min(filled, n - filled))
  return x
}

/** Exponentially distributed numbers, none repeated on purpose: entropies, scores to select from. */
export function exponentials(n: number, mean: number, seed = n): Float32Array {
  const { uniform } = random(seed)
  return Float32Array.from({ length: n }, () => -mean * Math.log(1 - uniform()))
}

export function integers(n: number, end: number): Int32Array {
  const { integer } = random(n)
  return Int32Array.from({ length: n }, () => integer(end))
}

/** Offsets of groups of `size`. */
export const evenly = (n: number, size: number): Int32Array =>
  Int32Array.from({ length: n / size + 1 }, (_, group) => group * size)

/** Offsets of groups of 0 to `2 * mean` that end with n. */
export function ragged(n: number, mean: number): Int32Array {
  const { integer } = random(n)
  const start = [0]
  for (let end = 0; end < n; start.push(end)) end = Math.min(n, end + integer(2 * mean + 1))
  return Int32Array.from(start)
}

export const thousands = (n: number): string => String(n).replace(/\B(?=(\d{3})+$)/g, ',')

/** Logits and sampled tokens. R rows times V columns is the size of a small micro-batch of a model like Qwen. */
export const logitsShape = { R: 256, V: 151936 }

export function logitsOf(dtype: 'f32' | 'bf16') {
  const { R, V } = logitsShape
  const values = normals(R * V, 3)
  return {
    logits: dtype === 'f32' ? array(values, [R, V]) : array(toBf16(values), [R, V], 'bf16'),
    token: array(integers(R, V)),
  }
}

/** What a clipped loss takes besides the log-probabilities, a little off those of the policy that wrote the responses. */
export function policyOf(logp: Float32Array, sequences: number) {
  const T = logp.length
  const [drift, reference] = [normals(T, 0.1, 0, 1), normals(T, 0.3, 0, 2)]
  return {
    oldLogp: array(logp.map((x, t) => x + drift[t]!)),
    refLogp: array(logp.map((x, t) => x + reference[t]!)),
    advantage: array(normals(sequences)),
    sequenceStart: array(evenly(T, T / sequences)),
  }
}

/** Hidden states and the output layer of a small model: rows, hidden size, vocabulary. */
export const linearShape = { R: 512, D: 1024, V: 32000 }

export function linearOf(dtype: 'f32' | 'bf16', { R, D, V } = linearShape) {
  const make = (values: Float32Array, shape: number[]): HostArray<'f32' | 'bf16'> =>
    dtype === 'f32' ? array(values, shape) : array(toBf16(values), shape, 'bf16')
  return {
    hidden: make(normals(R * D), [R, D]),
    head: make(normals(V * D, 0.08), [V, D]),
    token: array(integers(R, V)),
  }
}

/** The ids that rows were sampled from, 8 on average and one alone in 46 of 100 rows, as of top-p; a token of each. */
export function keptSetsOf(R: number, V: number) {
  const { uniform, integer } = random(R)
  const lists = Array.from({ length: R }, () => {
    const ids = Array.from({ length: uniform() < 0.46 ? 1 : 2 + integer(25) }, () => integer(V))
    return [...new Set(ids)].sort((x, y) => x - y)
  })
  const { keptStart, kept } = setsOf(lists)
  return {
    token: array(Int32Array.from(lists, (list) => list[integer(list.length)]!)),
    keptStart: array(keptStart),
    kept: array(kept),
  }
}
