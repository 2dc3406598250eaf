import { array, logRatio } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const T = 16777216

export const cases: Case[] = [
  {
    operation: 'logRatio',
    size: `${thousands(T)} tokens, a third masked`,
    prepare() {
      const mask = Uint8Array.from({ length: T }, (_, t) => Number((t * 2654435761) % 3 > 0))
      const inputs = { x: array(normals(T)), y: array(normals(T, 1, 0, 2)), mask: array(mask) }
      const out = logRatio(inputs)
      return {
        inputs,
        gpu: onGpu(logRatio, inputs, {}),
        variants: [
          { name: 'into out', run: () => ({ ...logRatio(inputs, { out }) }) },
          { name: 'new array', run: () => ({ ...logRatio(inputs) }) },
        ],
      }
    },
  },
]
