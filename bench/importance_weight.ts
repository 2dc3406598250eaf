import { array, importanceWeight } from '../lib/index.js'
import { type Case, evenly, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [T, S] = [2097152, 512]
const forms = [
  ['ratios of tokens', {}],
  ['of sequences, normalised', { level: 'sequence', normalize: true }],
  ['of tokens, a gate, rejection', { gate: 'sequence_mean', gateLow: 0.5, gateHigh: 2, reject: 'seq_mean_k3', rejectHigh: 1 }], // biome-ignore format: one line
] as const

export const cases: Case[] = forms.map(([form, options]) => ({
  operation: 'importanceWeight',
  size: `${thousands(T)} tokens of ${thousands(S)} sequences, ${form}`,
  prepare() {
    const rolloutLogp = normals(T, 1, -3)
    const moved = normals(T, 0.05)
    const oldLogp = array(rolloutLogp.map((x, t) => x + (moved[t] as number)))
    const inputs = { oldLogp, rolloutLogp: array(rolloutLogp), sequenceStart: array(evenly(T, T / S)) }
    return {
      inputs,
      gpu: onGpu(importanceWeight, inputs, options),
      numbers: { form: forms.findIndex(([name]) => name === form) },
      variants: [{ name: '', run: () => ({ ...importanceWeight(inputs, options) }) }],
    }
  },
}))
