import { policyLossFromLogits, tokenLogprob } from '../lib/index.js'
import { type Case, logitsOf, logitsShape, policyOf, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const { R, V } = logitsShape
const S = 4
const options = { clipLow: 0.2, clipHigh: 0.28, temperature: 0.9 }

const loss = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'policyLossFromLogits',
  size: `${R} x ${thousands(V)} logits, ${dtype}`,
  goals: dtype === 'f32' ? [{ against: 'PyTorch', times: 8 }] : [],
  prepare() {
    const { logits, token } = logitsOf(dtype)
    const { logp } = tokenLogprob({ logits, token }, { temperature: options.temperature })
    const { refLogp, ...policy } = policyOf(logp.data, S)
    const inputs = { logits, token, ...policy }
    const out = policyLossFromLogits(inputs, options)
    // In place the logits become their own gradient; a copy of them comes back before each call.
    const own = { ...logits, data: logits.data.slice() } as typeof logits
    const inPlace = { ...out, gradLogits: own }
    return {
      inputs,
      gpu: onGpu(policyLossFromLogits, inputs, options),
      exponentials: R * V,
      numbers: { ...options, sequences: S },
      variants: [
        {
          name: 'in place',
          before: () => own.data.set(logits.data),
          run: () => ({ ...policyLossFromLogits({ ...inputs, logits: own }, { ...options, out: inPlace }) }),
        },
        { name: 'into out', run: () => ({ ...policyLossFromLogits(inputs, { ...options, out }) }) },
        { name: 'new array', run: () => ({ ...policyLossFromLogits(inputs, options) }) },
      ],
    }
  },
})

/** Beside the same logits without a soft-cap, whose numbers are for the peers to meet. */
const capped = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'policyLossFromLogits',
  size: `${R} x ${thousands(V)} logits, soft-cap 30, ${dtype}`,
  goals: [{ against: 'grpo-kernels, no soft-cap', times: 1 / 1.6 }],
  prepare() {
    const { logits, token } = logitsOf(dtype)
    const prepare = (softcap: number | null) => {
      const { logp } = tokenLogprob({ logits, token }, { temperature: options.temperature, softcap })
      const { refLogp, ...policy } = policyOf(logp.data, S)
      const inputs = { logits, token, ...policy }
      const out = policyLossFromLogits(inputs, { ...options, softcap })
      return { inputs, run: () => ({ ...policyLossFromLogits(inputs, { ...options, softcap, out }) }) }
    }
    const [own, plain] = [prepare(30), prepare(null)]
    const first = own.run()
    return {
      inputs: own.inputs,
      numbers: { ...options, sequences: S },
      variants: [
        { name: '', run: own.run },
        { name: 'no soft-cap', inputs: plain.inputs, run: plain.run, comparable: () => first },
      ],
      peers: { inputs: plain.inputs, variant: 1 },
    }
  },
})

export const cases: Case[] = [loss('f32'), loss('bf16'), capped('f32'), capped('bf16')]
