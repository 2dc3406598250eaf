import { array, selectTokens } from '../lib/index.js'
import { type Case, evenly, exponentials, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [T, S, fraction] = [16777216, 16384, 0.2]

export const cases: Case[] = [
  {
    operation: 'selectTokens',
    size: `a fifth of ${thousands(T)} tokens`,
    prepare() {
      const inputs = {
        advantage: array(normals(S)),
        entropy: array(exponentials(T, 0.5)),
        sequenceStart: array(evenly(T, T / S)),
      }
      const out = selectTokens(inputs, { fraction })
      return {
        inputs,
        gpu: onGpu(selectTokens, inputs, { fraction }),
        numbers: { fraction, sequences: S },
        variants: [
          { name: 'into out', run: () => ({ ...selectTokens(inputs, { fraction, out }) }) },
          { name: 'new array', run: () => ({ ...selectTokens(inputs, { fraction }) }) },
        ],
      }
    },
  },
]
