// Compares results without sending them between processes: a thousand of an array's values, and its length as a vector.
import { type DType, fromBf16, fromF16, type HostArray, type TypedArray } from '../lib/index.js'
import type { Outputs } from './cases.js'

export interface Fingerprint {
  norm: number
  sample: number[]
}

const samples = 1000

function valuesOf(x: HostArray | TypedArray | number): ArrayLike<number> {
  if (typeof x === 'number') return [x]
  if (ArrayBuffer.isView(x)) return x
  if (x.dtype === 'bf16') return fromBf16(x.data as Uint16Array)
  if (x.dtype === 'f16') return fromF16(x.data as Uint16Array)
  return x.data
}

export function fingerprint(x: HostArray | TypedArray | number): Fingerprint {
  const values = valuesOf(x)
  const count = Math.min(samples, values.length)
  let squares = 0
  for (let i = 0; i < values.length; i++) squares += (values[i] as number) ** 2
  const sample = Array.from({ length: count }, (_, i) => values[Math.floor((i * values.length) / count)] as number)
  return { norm: Math.sqrt(squares), sample }
}

export const fingerprints = (outputs: Outputs): Record<string, Fingerprint> =>
  Object.fromEntries(
    Object.entries(outputs).flatMap(([name, x]) => (x === undefined || x === null ? [] : [[name, fingerprint(x)]])),
  )

// Far above what the order of a sum changes, far below what a wrong formula changes. This only notices work that is not
// the same; how accurate an operation is, its test says. A few values may differ altogether: where log-probabilities come
// from rounded logits, a ratio close to the clip falls on its other side.
const fewSamples = 0.01
const tolerance = (dtype: DType) => (dtype === 'bf16' || dtype === 'f16' ? 0.05 : 2e-3)

/** What differs, in words; undefined if all outputs that both have agree. */
export function difference(
  ours: Record<string, Fingerprint>,
  theirs: Record<string, Fingerprint>,
  dtype: DType,
): string | undefined {
  const limit = tolerance(dtype)
  const shared = Object.keys(theirs).filter((name) => name in ours)
  if (shared.length === 0) return 'no result to compare'
  for (const name of shared) {
    const a = ours[name] as Fingerprint
    const b = theirs[name] as Fingerprint
    const scale = a.sample.reduce((largest, x) => Math.max(largest, Math.abs(x)), Number.MIN_VALUE)
    if (!(Math.abs(a.norm - b.norm) <= limit * a.norm)) return `norm of ${name} is ${b.norm}, ours ${a.norm}`
    const differs = (x: number, i: number) => !(Math.abs(x - (b.sample[i] as number)) <= limit * scale)
    const at = a.sample.findIndex(differs)
    if (a.sample.filter(differs).length > fewSamples * a.sample.length)
      return `${name} is ${b.sample[at]} at sample ${at}, ours ${a.sample[at]}`
  }
  return undefined
}
