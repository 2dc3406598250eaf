import { array, policyLoss } from '../lib/index.js'
import { type Case, normals, policyOf, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const T = 1048576
const S = 1024
const options = { clipLow: 0.2, clipHigh: 0.28, klCoef: 0.04 }

export const cases: Case[] = [
  {
    operation: 'policyLoss',
    size: `${thousands(T)} tokens of ${thousands(S)} sequences, clip and k3`,
    prepare() {
      const logp = normals(T, 0.5, -1.5)
      const inputs = { logp: array(logp), ...policyOf(logp, S) }
      const out = policyLoss(inputs, options)
      return {
        inputs,
        gpu: onGpu(policyLoss, inputs, options),
        numbers: { ...options, sequences: S },
        variants: [
          { name: 'into out', run: () => ({ ...policyLoss(inputs, { ...options, out }) }) },
          { name: 'new array', run: () => ({ ...policyLoss(inputs, options) }) },
        ],
      }
    },
  },
]
