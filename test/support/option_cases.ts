// Logits and the hidden states of others, with what all operations on logits take beside them.
import { backend } from './backend_kind.js'
import { floats } from './linear_cases.js'
import { type LogitsDType, logitsOf } from './logits_cases.js'
import { random } from './random.js'

export const names = ['logp', 'entropy', 'logsumexp'] as const
// On the CPU more columns than a block of the linear operations has.
export const [R, V, D, valid] = backend === 'cpu' ? [13, 611, 24, 602] : [9, 83, 8, 77]

export interface Setting {
  rowTemperature: boolean
  validVocab: number | null
  softcap: number | null
}

/** 17 tokens on 13 rows; row 0 has several, the last one none, and its temperature is no number. */
export function batch(dtype: LogitsDType, setting: Setting, seed = 5) {
  const r = random(seed)
  const T = 17
  const rowTemperature = r.uniforms(R, 0.4, 2.5)
  rowTemperature[R - 1] = Number.NaN
  const inputs = {
    token: Int32Array.from({ length: T }, () => r.integer(setting.validVocab ?? V)),
    row: Int32Array.from({ length: T }, (_, t) => (t < 4 ? 0 : r.integer(R - 1))),
    mask: r.mask(T, 0.8),
    ...(setting.rowTemperature && { rowTemperature }),
  }
  const hidden = floats(dtype, r.normals(R * D), [R, D])
  const head = floats(dtype, r.normals(V * D, 0.4), [V, D])
  const headBias = floats('f32', r.normals(V), [V])
  const logits = r.normals(R * V, 3, 2)
  // Padding of the vocabulary is never read.
  if (setting.validVocab !== null) {
    for (let i = 0; i < R * V; i++) if (i % V >= setting.validVocab) logits[i] = Number.NaN
    headBias.data.fill(Number.NaN, setting.validVocab)
    ;(head.data as Float32Array).fill(dtype === 'f32' ? Number.NaN : 0x7fc0, setting.validVocab * D)
  }
  const options = { temperature: 0.8, validVocab: setting.validVocab, softcap: setting.softcap }
  const grads = { gradLogp: r.normals(T), gradEntropy: r.normals(T) }
  return { T, inputs, options, logits: logitsOf(dtype, logits, V), linear: { hidden, head, headBias }, grads }
}
export type Batch = ReturnType<typeof batch>
