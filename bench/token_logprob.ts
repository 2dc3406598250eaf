import { array, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import { type Case, logitsOf, logitsShape, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const { R, V } = logitsShape
const temperature = 0.9
const size = (dtype: string) => `${R} x ${thousands(V)} logits, ${dtype}`

const forward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'tokenLogprob',
  size: size(dtype),
  prepare() {
    const inputs = logitsOf(dtype)
    return {
      inputs,
      gpu: onGpu(tokenLogprob, inputs, { temperature }),
      exponentials: R * V,
      numbers: { temperature },
      variants: [{ name: '', run: () => ({ ...tokenLogprob(inputs, { temperature }) }) }],
    }
  },
})

const backward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'tokenLogprobBackward',
  size: size(dtype),
  prepare() {
    const { logits, token } = logitsOf(dtype)
    const { logsumexp } = tokenLogprob({ logits, token }, { temperature })
    const inputs = { logits, token, logsumexp, gradLogp: array(normals(R)) }
    const out = tokenLogprobBackward(inputs, { temperature })
    // In place the logits become their own gradient; a copy of them comes back before each call.
    const own = { ...logits, data: logits.data.slice() } as typeof logits
    return {
      inputs,
      gpu: onGpu(tokenLogprobBackward, inputs, { temperature }),
      exponentials: R * V,
      numbers: { temperature },
      variants: [
        { name: 'into out', run: () => ({ ...tokenLogprobBackward(inputs, { temperature, out }) }) },
        {
          name: 'in place',
          before: () => own.data.set(logits.data),
          run: () => ({
            ...tokenLogprobBackward({ ...inputs, logits: own }, { temperature, out: { gradLogits: own } }),
          }),
        },
        { name: 'new array', run: () => ({ ...tokenLogprobBackward(inputs, { temperature }) }) },
      ],
    }
  },
})

export const cases: Case[] = [forward('f32'), forward('bf16'), backward('f32'), backward('bf16')]
