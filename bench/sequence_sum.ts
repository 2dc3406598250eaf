import { array, sequenceSum } from '../lib/index.js'
import { type Case, evenly, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [T, S] = [16777216, 16384]

export const cases: Case[] = [
  {
    operation: 'sequenceSum',
    size: `${thousands(T)} tokens of ${thousands(S)} sequences`,
    prepare() {
      const inputs = { x: array(normals(T, 1, 0.5)), sequenceStart: array(evenly(T, T / S)) }
      return {
        inputs,
        gpu: onGpu(sequenceSum, inputs, {}),
        numbers: { sequences: S },
        variants: [{ name: '', run: () => ({ ...sequenceSum(inputs) }) }],
      }
    },
  },
]
