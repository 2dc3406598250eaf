import { array, moments, standardize } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const N = 1048576
const eps = 1e-8

export const cases: Case[] = [
  {
    operation: 'standardize',
    size: `${thousands(N)} advantages`,
    prepare() {
      const inputs = { x: array(normals(N, 1, 0.5)) }
      const given = moments(inputs)
      const out = standardize(inputs, { moments: given })
      return {
        inputs,
        gpu: onGpu(standardize, inputs, { moments: given, eps }),
        numbers: { mean: given.mean, std: Math.sqrt(given.m2 / (given.count - 1)), eps },
        variants: [
          { name: 'into out', run: () => ({ ...standardize(inputs, { moments: given, eps, out }) }) },
          { name: 'new array', run: () => ({ ...standardize(inputs, { moments: given, eps }) }) },
        ],
      }
    },
  },
]
