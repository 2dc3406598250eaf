import { array, linearTokenLogprob, linearTokenLogprobBackward } from '../lib/index.js'
import { type Case, linearOf, linearShape, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const { R, D, V } = linearShape
const size = (dtype: string) => `${R} x ${thousands(D)} x ${thousands(V)}, ${dtype}`

const forward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'linearTokenLogprob',
  size: size(dtype),
  prepare() {
    const inputs = linearOf(dtype)
    return {
      inputs,
      gpu: onGpu(linearTokenLogprob, inputs, {}),
      numbers: { temperature: 1 },
      flops: 2 * R * D * V,
      variants: [{ name: '', run: () => ({ ...linearTokenLogprob(inputs) }) }],
    }
  },
})

const backward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'linearTokenLogprobBackward',
  size: size(dtype),
  prepare() {
    const model = linearOf(dtype)
    const { logsumexp } = linearTokenLogprob(model)
    const inputs = { ...model, logsumexp, gradLogp: array(normals(R)) }
    const out = linearTokenLogprobBackward(inputs)
    return {
      inputs,
      gpu: onGpu(linearTokenLogprobBackward, inputs, {}),
      numbers: { temperature: 1 },
      // The logits once more, and two gradients.
      flops: 3 * 2 * R * D * V,
      variants: [{ name: 'into out', run: () => ({ ...linearTokenLogprobBackward(inputs, { out }) }) }],
    }
  },
})

export const cases: Case[] = [forward('f32'), forward('bf16'), backward('f32'), backward('bf16')]
