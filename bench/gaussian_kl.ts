import { array, gaussianKl, gaussianKlBackward } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

// Latents of 16 channels of 32 x 32, of as many denoising steps.
const [T, D] = [1024, 16384]
const size = `${thousands(T)} rows of ${thousands(D)}`

function policies() {
  const refMean = normals(T * D)
  const mean = refMean.map((value, i) => value + 0.01 * refMean[(7 * i) % refMean.length]!)
  const std = Float32Array.from({ length: T }, (_, t) => 0.1 + t / T)
  return { mean: array(mean, [T, D]), refMean: array(refMean, [T, D]), std: array(std) }
}

export const cases: Case[] = [
  {
    operation: 'gaussianKl',
    size,
    prepare() {
      const inputs = policies()
      return {
        inputs,
        gpu: onGpu(gaussianKl, inputs, {}),
        variants: [{ name: '', run: () => ({ ...gaussianKl(inputs) }) }],
      }
    },
  },
  {
    operation: 'gaussianKlBackward',
    size,
    prepare() {
      const inputs = { ...policies(), gradKl: array(normals(T)) }
      const out = gaussianKlBackward(inputs)
      return {
        inputs,
        gpu: onGpu(gaussianKlBackward, inputs, {}),
        variants: [
          { name: 'into out', run: () => ({ ...gaussianKlBackward(inputs, { out }) }) },
          { name: 'new array', run: () => ({ ...gaussianKlBackward(inputs) }) },
        ],
      }
    },
  },
]
