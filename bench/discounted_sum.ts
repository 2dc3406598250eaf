import { array, discountedSum } from '../lib/index.js'
import { type Case, evenly, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [T, S] = [16777216, 16384]
const options = { decay: 0.95 }

export const cases: Case[] = [
  {
    operation: 'discountedSum',
    size: `${thousands(T)} tokens of ${thousands(S)} sequences`,
    prepare() {
      const inputs = { x: array(normals(T)), sequenceStart: array(evenly(T, T / S)) }
      const out = discountedSum(inputs, options)
      return {
        inputs,
        gpu: onGpu(discountedSum, inputs, options),
        numbers: { ...options, length: T / S },
        variants: [
          { name: 'into out', run: () => ({ ...discountedSum(inputs, { ...options, out }) }) },
          { name: 'new array', run: () => ({ ...discountedSum(inputs, options) }) },
        ],
      }
    },
  },
]
