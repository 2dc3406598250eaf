import { array, linearPolicyLoss, linearTokenLogprob } from '../lib/index.js'
import { type Case, keptSetsOf, linearOf, linearShape, policyOf, thousands } from './cases.js'
import { onGpu } from './gpu.js'

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
    const variants = (dtype === 'f32' ? (['high'] as const) : (['standard', 'high'] as const)).map((precision) => ({
      name: dtype === 'f32' ? 'into out' : `${precision}, into out`,
      run: () => ({ ...linearPolicyLoss(inputs, { ...options, precision, out }) }),
    }))
    return {
      inputs,
      gpu: onGpu(linearPolicyLoss, inputs, options),
      numbers: { ...options, sequences: S },
      // Logits and two gradients.
      flops: 3 * 2 * R * D * V,
      variants: variants as [(typeof variants)[0]],
      notes: [
        `beside inputs and outputs ${Math.round(linearPolicyLoss.plan({ R, T: R, D, V, dtype }).peakBytes / 1e6)} MB; ` +
          `PyTorch makes logits, log-probabilities and their gradients, each of ${Math.round(((dtype === 'f32' ? 4 : 2) * R * V) / 1e6)} MB`,
      ],
    }
  },
})

/** Rows sampled from few ids, beside the same rows with the whole vocabulary; gradHead is added to what is there. */
const kept = (dtype: 'f32' | 'bf16', shape: typeof linearShape): Case => ({
  operation: 'linearPolicyLoss',
  size: `${shape.R} x ${thousands(shape.D)} x ${thousands(shape.V)}, sets of 8 ids, ${dtype}`,
  goals: [{ against: 'grpo-kernels, whole vocabulary', times: 20 }],
  prepare() {
    const { keptStart, kept, token } = keptSetsOf(shape.R, shape.V)
    const dense = { ...linearOf(dtype, shape), token }
    const flops = 3 * 2 * shape.R * shape.D * shape.V
    const prepare = (model: typeof dense & { kept?: typeof kept }) => {
      const { refLogp, ...policy } = policyOf(linearTokenLogprob(model).logp.data, S)
      const gradHead = array(new Float32Array(shape.V * shape.D), [shape.V, shape.D])
      const inputs = { ...model, ...policy }
      return {
        inputs,
        run: () => ({ ...linearPolicyLoss(inputs, { ...options, accumulate: true, out: { gradHead } }) }),
      }
    }
    const [sets, whole] = [prepare({ ...dense, keptStart, kept } as typeof dense), prepare(dense)]
    const { loss, logp } = sets.run()
    return {
      inputs: sets.inputs,
      numbers: { ...options, sequences: S },
      flops: 3 * 2 * shape.D * kept.data.length,
      variants: [
        {
          name: '',
          // Of the head and its gradient what the sets keep is next to nothing.
          inputs: { hidden: dense.hidden, keptStart, kept },
          run: () => ({ ...sets.run(), gradHead: null }),
        },
        // Another policy: its numbers are for the peers to meet.
        { name: 'whole vocabulary', inputs: whole.inputs, flops, run: whole.run, comparable: () => ({ loss, logp }) },
      ],
      peers: { inputs: whole.inputs, flops, variant: 1 },
    }
  },
})

export const cases: Case[] = [
  loss('f32'),
  loss('bf16'),
  kept('f32', linearShape),
  kept('bf16', linearShape),
  kept('bf16', { R: 128, D: 1024, V: 151936 }),
]
