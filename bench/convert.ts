import { array, fromBf16, toBf16 } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'

const N = 16777216

export const cases: Case[] = [
  {
    operation: 'toBf16',
    size: `${thousands(N)} f32`,
    prepare() {
      const x = normals(N)
      const out = new Uint16Array(N)
      return {
        inputs: { x: array(x) },
        variants: [
          { name: 'into out', run: () => ({ x: array(toBf16(x, { out }), [N], 'bf16') }) },
          { name: 'new array', run: () => ({ x: array(toBf16(x), [N], 'bf16') }) },
        ],
      }
    },
  },
  {
    operation: 'fromBf16',
    size: `${thousands(N)} bf16`,
    prepare() {
      const x = toBf16(normals(N))
      const out = new Float32Array(N)
      return {
        inputs: { x: array(x, [N], 'bf16') },
        variants: [
          { name: 'into out', run: () => ({ x: array(fromBf16(x, { out })) }) },
          { name: 'new array', run: () => ({ x: array(fromBf16(x)) }) },
        ],
      }
    },
  },
]
