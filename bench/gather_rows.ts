import { array, gatherRows } from '../lib/index.js'
import { type Case, integers, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [R, D, M] = [32768, 1024, 16384]

export const cases: Case[] = [
  {
    operation: 'gatherRows',
    size: `${thousands(M)} of ${thousands(R)} rows of ${thousands(D)}, f32`,
    prepare() {
      const inputs = { x: array(normals(R * D), [R, D]), index: array(integers(M, R)) }
      const out = gatherRows(inputs)
      return {
        inputs,
        gpu: onGpu(gatherRows, inputs, {}),
        variants: [
          // Only the rows that are gathered cross memory.
          {
            name: 'into out',
            inputs: { x: out.x, index: inputs.index },
            run: () => ({ ...gatherRows(inputs, { out }) }),
          },
        ],
      }
    },
  },
]
