import {
  array,
  fromBf16,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
} from '../lib/index.js'
import { type Case, linearOf, linearShape, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const { R, D, V } = linearShape
const size = (dtype: string) => `${R} x ${thousands(D)} x ${thousands(V)}, ${dtype}`
const megabytes = (bytes: number) => `${Math.round(bytes / 1e6)} MB`

const forward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'linearTokenLogprob',
  size: size(dtype),
  prepare() {
    const inputs = linearOf(dtype)
    const logits = array(new Float32Array(R * V), [R, V])
    return {
      inputs,
      gpu: onGpu(linearTokenLogprob, inputs, {}),
      numbers: { temperature: 1 },
      flops: 2 * R * D * V,
      variants: [
        { name: '', run: () => ({ ...linearTokenLogprob(inputs) }) },
        { name: 'logits kept', run: () => ({ ...linearTokenLogprob(inputs, { out: { logits } }), logits: null }) },
      ],
      notes: [
        `of ${megabytes(4 * R * V)} of logits a thread holds ${megabytes(4 * R * 512)}; PyTorch makes all of them`,
      ],
    }
  },
})

const wide = ({ data }: HostArray) =>
  Float64Array.from(data instanceof Uint16Array ? fromBf16(data) : (data as Float32Array))

/** Root mean square error of gradHidden, relative, in the first rows, against float64. */
function errorOf(inputs: ReturnType<typeof linearOf>, gradLogp: Float32Array, gradHidden: HostArray): string {
  const rows = 3
  const [hidden, head, actual] = [wide(inputs.hidden), wide(inputs.head), wide(gradHidden)]
  let [error, total] = [0, 0]
  for (let r = 0; r < rows; r++) {
    const x = hidden.subarray(r * D, (r + 1) * D)
    const logits = Float64Array.from({ length: V }, (_, v) => x.reduce((sum, h, d) => sum + h * head[v * D + d]!, 0))
    const most = logits.reduce((a, b) => Math.max(a, b))
    const weights = logits.map((z) => Math.exp(z - most))
    const all = weights.reduce((a, b) => a + b)
    const gradient = new Float64Array(D)
    weights.forEach((weight, v) => {
      const g = gradLogp[r]! * (Number(v === inputs.token.data[r]) - weight / all)
      for (let d = 0; d < D; d++) gradient[d]! += g * head[v * D + d]!
    })
    gradient.forEach((g, d) => {
      error += (actual[r * D + d]! - g) ** 2
      total += g * g
    })
  }
  return Math.sqrt(error / total).toExponential(1)
}

const backward = (dtype: 'f32' | 'bf16'): Case => ({
  operation: 'linearTokenLogprobBackward',
  size: size(dtype),
  prepare() {
    const model = linearOf(dtype)
    const kept = { logits: array(new Float32Array(R * V), [R, V]) }
    const { logsumexp, logits } = linearTokenLogprob(model, { out: kept })
    const gradLogp = normals(R)
    const inputs = { ...model, logsumexp, gradLogp: array(gradLogp) }
    const out = linearTokenLogprobBackward(inputs)
    // The logits once more, unless they are kept, and two gradients.
    const product = 2 * R * D * V
    const errors: string[] = []
    const variants = (dtype === 'f32' ? (['high'] as const) : (['standard', 'high'] as const)).flatMap((precision) => {
      const run = (given: object) => () => ({
        ...linearTokenLogprobBackward({ ...inputs, ...given }, { out, precision }),
      })
      const words = dtype === 'f32' ? '' : `${precision}, `
      errors.push(`${words}${errorOf(model, gradLogp, run({})().gradHidden)}`)
      return [
        {
          name: `${words}logits kept`,
          flops: 2 * product,
          inputs: { ...inputs, logits: logits! },
          run: run({ logits }),
        },
        { name: `${words}into out`, flops: 3 * product, run: run({}) },
      ]
    })
    const { peakBytes } = linearPolicyLoss.plan({ R, T: R, D, V, dtype })
    return {
      inputs,
      gpu: onGpu(linearTokenLogprobBackward, inputs, {}),
      numbers: { temperature: 1 },
      flops: 2 * product,
      variants: variants as [(typeof variants)[0]],
      notes: [
        `beside inputs and outputs ${megabytes(peakBytes)}, and ${megabytes(4 * R * V)} of kept logits; ` +
          `PyTorch keeps ${megabytes((dtype === 'f32' ? 4 : 2) * R * V)} of log-probabilities and makes two gradients as large`,
        `relative error of gradHidden against float64: ${errors.join('; ')}`,
      ],
    }
  },
})

export const cases: Case[] = [forward('f32'), forward('bf16'), backward('f32'), backward('bf16')]
