import { array, scatterRows } from '../lib/index.js'
import { type Case, integers, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [rows, D, M] = [32768, 1024, 16384]

export const cases: Case[] = [
  {
    operation: 'scatterRows',
    size: `${thousands(M)} rows of ${thousands(D)} into ${thousands(rows)}, f32`,
    prepare() {
      const inputs = { x: array(normals(M * D), [M, D]), index: array(integers(M, rows)) }
      const out = scatterRows(inputs, { rows })
      return {
        inputs,
        gpu: onGpu(scatterRows, inputs, { rows }),
        numbers: { rows },
        variants: [{ name: 'into out', run: () => ({ ...scatterRows(inputs, { rows, out }) }) }],
      }
    },
  },
]
