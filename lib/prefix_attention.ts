import { grpoError } from './addon/errors.js'
import { describe } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { call, checkNames, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

type Floating = ArrayInput<'f32' | 'bf16' | 'f16'>

export interface PrefixAttentionInputs {
  q: Floating
  k: Floating
  v: Floating
  layout: { [Name in 'segmentStart' | 'segmentParent' | 'segmentEnd']: ArrayInput<'i32'> }
}

export interface PrefixAttentionBackwardInputs extends PrefixAttentionInputs {
  gradOut: Floating
  out: Floating
  logsumexp: ArrayInput<'f32'>
}

export interface PrefixAttentionOptions extends CallOptions<'out' | 'logsumexp'> {
  scale?: number | null
}

export interface PrefixAttentionBackwardOptions extends CallOptions<'gradQ' | 'gradK' | 'gradV'> {
  scale?: number | null
  gradScale?: number
}

/** The inputs of the row: the arrays of the layout in its place. */
type Flat<Inputs extends PrefixAttentionInputs> = Omit<Inputs, 'layout'> & Inputs['layout']

export const matches: Matches<'prefixAttention', Flat<PrefixAttentionInputs>, PrefixAttentionOptions> = true
export const matchesBackward: Matches<
  'prefixAttentionBackward',
  Flat<PrefixAttentionBackwardInputs>,
  PrefixAttentionBackwardOptions
> = true

const inputNames = ['q', 'k', 'v', 'layout']
const backwardInputNames = ['gradOut', ...inputNames, 'out', 'logsumexp']

/** The inputs, with the arrays of the layout that attention reads in its place. */
function withSegments<Inputs extends PrefixAttentionInputs>(operation: string, names: string[], inputs: Inputs) {
  checkNames(operation, inputs, names, 'input')
  const { layout, ...arrays } = inputs
  if (typeof layout !== 'object' || layout === null || !('segmentParent' in layout)) {
    throw grpoError(
      'kind',
      operation,
      'layout',
      `is ${describe(layout)}, expected a layout of prefixLayout, treeLayout or tokenTree`,
    )
  }
  const { segmentStart, segmentParent, segmentEnd } = layout
  return { ...arrays, segmentStart, segmentParent, segmentEnd }
}

/**
 * Attention over a packed layout, in which shared prefixes stand once.
 *
 *   out[p,h] = sum_j softmax_j(scale * q[p,h] . k[j,h']) v[j,h'],   j over the tokens that p sees,  h' = floor(h K / H)
 *   logsumexp[p,h] = log sum_j exp(scale * q[p,h] . k[j,h'])
 *
 * A token sees all tokens of its ancestor segments, and its own segment up to itself; so a response sees its prompt and
 * itself, as if it stood alone behind a copy of the prompt, but keys and values of a prompt are never copied. A layout
 * without children is ordinary packed causal attention. H is a multiple of K (grouped-query attention). No score matrix
 * larger than a tile exists; statistics are float32 whatever the dtype. With D = 0 all scores are 0, whatever the scale, and
 * logsumexp is the logarithm of how many tokens p sees. The bits depend neither on the number of threads
 * nor on other groups.
 *
 * Accuracy: against the equation in float64, out and logsumexp of f32, bf16 and f16 are within twice the largest
 * error of the plain float32 formula, plus the last digit of their dtype; scores of thousands are tested.
 *
 * @param inputs.q       [P,H,D]  f32, bf16 or f16; positions (RoPE) are applied by the caller, from layout.position
 * @param inputs.k       [P,K,D]  the dtype of q
 * @param inputs.v       [P,K,E]  the dtype of q
 * @param inputs.layout  of prefixLayout or treeLayout; its arrays may lie on the host or with the others
 * @param options.scale  default 1 / sqrt(D)
 * @returns out [P,H,E] in the dtype of q; logsumexp f32[P,H], which the backward pass needs
 * @throws TypeError for other dtypes; RangeError if H is not a multiple of K, or the layout has not P tokens
 * @see Prefix Grouper, arXiv:2506.05433; FlashAttention, arXiv:2205.14135
 * @example
 * import { array, prefixAttention, prefixLayout } from 'grpo-kernels'
 *
 * // A prompt of two tokens with two responses of one token each: four packed tokens, one head.
 * const layout = prefixLayout([{ prefix: 2, responses: [1, 1] }])
 * const [q, k, v] = [0, 1, 2].map((seed) =>
 *   array(Float32Array.from({ length: 8 }, (_, i) => Math.sin(seed + i)), [4, 1, 2]),
 * )
 * const { out, logsumexp } = prefixAttention({ q, k, v, layout })
 * console.log(out.data)
 * console.log(logsumexp.data)
 */
export const prefixAttention = operation((inputs: PrefixAttentionInputs, options: PrefixAttentionOptions = {}) =>
  call('prefixAttention', withSegments('prefixAttention', inputNames, inputs), options),
)

/**
 * Gradients of prefixAttention. Those of a shared prefix's keys and values are the plain sum over all responses that see
 * them: exactly what repeated prefixes would add up to.
 *
 *   p = exp(scale * q . k - logsumexp),   gradV[j] = sum p gradOut,   ds = p (gradOut . v - gradOut . out)
 *   gradQ = scale * sum_j ds k,           gradK[j] = scale * sum ds q
 *
 * Accuracy: against the equation in float64, gradients in f32, bf16 and f16 are within twice the largest error of the
 * plain float32 formula that is given the same rounded out, plus the last digit of their dtype.
 *
 * @param inputs            q, k, v, layout as in prefixAttention
 * @param inputs.gradOut    [P,H,E]  derivative of the loss with respect to out; the dtype of q
 * @param inputs.out        [P,H,E]  as prefixAttention returned it
 * @param inputs.logsumexp  f32[P,H] likewise
 * @param options.scale     as in the forward pass
 * @param options.gradScale multiplies the gradients; 1 by default
 * @returns gradQ [P,H,D], gradK [P,K,D], gradV [P,K,E], in the dtypes of q, k, v, or f32 where `out` asks for it
 * @throws as prefixAttention
 * @see Prefix Grouper, arXiv:2506.05433, 3.2; FlashAttention, arXiv:2205.14135
 * @example
 * import { array, prefixAttention, prefixAttentionBackward, prefixLayout } from 'grpo-kernels'
 *
 * const layout = prefixLayout([{ prefix: 2, responses: [1, 1] }])
 * const [q, k, v, gradOut] = [0, 1, 2, 3].map((seed) =>
 *   array(Float32Array.from({ length: 8 }, (_, i) => Math.sin(seed + i)), [4, 1, 2]),
 * )
 * const { out, logsumexp } = prefixAttention({ q, k, v, layout })
 * const { gradQ, gradK, gradV } = prefixAttentionBackward({ gradOut, q, k, v, layout, out, logsumexp })
 * console.log(gradQ.data)
 * console.log(gradK.data)
 * console.log(gradV.data)
 */
export const prefixAttentionBackward = operation(
  (inputs: PrefixAttentionBackwardInputs, options: PrefixAttentionBackwardOptions = {}) =>
    call('prefixAttentionBackward', withSegments('prefixAttentionBackward', backwardInputNames, inputs), options),
)
