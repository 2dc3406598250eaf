import { array, sequenceExpand } from '../lib/index.js'
import { type Case, evenly, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [T, S] = [16777216, 16384]

export const cases: Case[] = [
  {
    operation: 'sequenceExpand',
    size: `${thousands(S)} sequences to ${thousands(T)} tokens`,
    prepare() {
      const inputs = { x: array(normals(S)), sequenceStart: array(evenly(T, T / S)) }
      const out = sequenceExpand(inputs)
      return {
        inputs,
        gpu: onGpu(sequenceExpand, inputs, {}),
        numbers: { length: T / S },
        variants: [
          { name: 'into out', run: () => ({ ...sequenceExpand(inputs, { out }) }) },
          { name: 'new array', run: () => ({ ...sequenceExpand(inputs) }) },
        ],
      }
    },
  },
]
