// Logits that the tests of tokenLogprob and policyLossFromLogits share.
import { array, type HostArray, toBf16, toF16 } from '../../lib/index.js'
import type { LogitsInputs } from '../references/token_logprob.js'
import { values } from './compare.js'
import { random } from './random.js'

export type Logits = HostArray<'f32' | 'bf16' | 'f16'>
export type LogitsDType = Logits['dtype']
export const dtypes: LogitsDType[] = ['f32', 'bf16', 'f16']

/** Rows of V columns, rounded to the dtype. */
export function logitsOf(dtype: LogitsDType, data: Float32Array, V: number): Logits {
  const shape = [data.length / V, V]
  if (dtype === 'f32') return array(data, shape)
  return dtype === 'bf16' ? array(toBf16(data), shape, 'bf16') : array(toF16(data), shape, 'f16')
}
export const rows = (...list: number[][]): Logits => logitsOf('f32', Float32Array.from(list.flat()), list[0]!.length)
export const filled = (n: number, value: number) => new Float32Array(n).fill(value)

/** 23 rows of 301 columns, some of them -inf, for 40 tokens; the last row belongs to no token, the first to several. */
export function batch(dtype: LogitsDType, seed = 3) {
  const r = random(seed)
  const [R, V, T] = [23, 301, 40]
  const data = r.normals(R * V, 3, 2)
  for (let i = 0; i < data.length; i++) if (r.uniform() < 0.05) data[i] = -Infinity
  const row = Int32Array.from({ length: T }, (_, t) => (t < 6 ? 0 : r.integer(R - 1)))
  const token = Int32Array.from({ length: T }, (_, t) => (t < 3 ? 17 : r.integer(V)))
  return { logits: logitsOf(dtype, data, V), token, row, mask: r.mask(T, 0.8), R, V, T, r }
}
/** As the references take it. */
export const plainOf = (b: { logits: Logits; V: number } & Omit<LogitsInputs, 'logits'>): LogitsInputs => ({
  ...b,
  logits: values(b.logits),
})

/** What the backward pass takes of the forward pass. */
export const forwardOf = ({ entropy, logsumexp }: { entropy: HostArray<'f32'>; logsumexp: HostArray<'f32'> }) => ({
  entropy,
  logsumexp,
})
