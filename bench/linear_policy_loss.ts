import { linearPolicyLoss, linearTokenLogprob } from '../lib/index.js'
import { type Case, linearOf, linearShape, policyOf, thousands } from './cases.js'

const { R, D, V } = linearShape
const S = 4
const options = { clipLow: 0.2, clipHigh: 0.28, temperature: 1 }

const loss = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'linearPolicyLoss',
  size: `${R} x ${thousands(D)} x ${thousands(V)}, ${dtype}`,
  prepare() {
    const model = linearOf(dtype)
    const { logp } = linearTokenLogprob(model)
    const { refLogp, ...policy } = policyOf(logp.data, S)
    const inputs = { ...model, ...policy }
    const out = linearPolicyLoss(inputs, options)
    return {
      inputs,
      numbers: { ...options, sequences: S },
      // Logits and two gradients.
      flops: 3 * 2 * R * D * V,
      variants: [{ name: 'into out', run: () => ({ ...linearPolicyLoss(inputs, { ...options, out }) }) }],
    }
  },
})

export const cases: Case[] = [loss('f32'), loss('bf16')]
