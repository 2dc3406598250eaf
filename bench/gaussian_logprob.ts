import { array, gaussianLogprob, gaussianLogprobBackward } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

// Latents of 16 channels of 32 x 32, of as many denoising steps.
const [T, D] = [1024, 16384]
const size = `${thousands(T)} rows of ${thousands(D)}`

function policy() {
  const x = normals(T * D)
  const oldMean = x.map((value, i) => 0.9 * value + 0.1 * x[x.length - 1 - i]!)
  const std = Float32Array.from({ length: T }, (_, t) => 0.1 + t / T)
  return {
    x: array(x, [T, D]),
    mean: array(
      oldMean.map((value, i) => value + 0.01 * x[(7 * i) % x.length]!),
      [T, D],
    ),
    std: array(std),
    oldMean: array(oldMean, [T, D]),
  }
}

export const cases: Case[] = [
  {
    operation: 'gaussianLogprob',
    size: `${size}, with the regulated log-ratio`,
    prepare() {
      const inputs = policy()
      return { inputs, variants: [{ name: '', run: () => ({ ...gaussianLogprob(inputs) }) }] }
    },
  },
  {
    operation: 'gaussianLogprobBackward',
    size: `${size}, both gradients`,
    prepare() {
      const inputs = { ...policy(), gradLogp: array(normals(T)), gradLogRatio: array(normals(T, 1, 0, 2)) }
      const out = gaussianLogprobBackward(inputs)
      return {
        inputs,
        gpu: onGpu(gaussianLogprobBackward, inputs, {}),
        variants: [
          { name: 'into out', run: () => ({ ...gaussianLogprobBackward(inputs, { out }) }) },
          { name: 'new array', run: () => ({ ...gaussianLogprobBackward(inputs) }) },
        ],
      }
    },
  },
]
