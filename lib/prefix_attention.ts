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
  sink?: ArrayInput<'f32'> | undefined
  layout: { [Name in 'segmentStart' | 'segmentParent' | 'segmentEnd']: ArrayInput<'i32'> }
}

export interface PrefixAttentionBackwardInputs extends PrefixAttentionInputs {
  gradOut: Floating
  out: Floating
  outLow?: Floating | undefined
  logsumexp: ArrayInput<'f32'>
}

export interface PrefixAttentionOptions extends CallOptions<'out' | 'logsumexp' | 'outLow'> {
  scale?: number | null
  window?: number | null
  softcap?: number | null
  precision?: 'high' | 'standard'
}

export interface PrefixAttentionBackwardOptions extends CallOptions<'gradQ' | 'gradK' | 'gradV' | 'gradSink'> {
  scale?: number | null
  window?: number | null
  softcap?: number | null
  precision?: 'high' | 'standard'
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

const inputNames = ['q', 'k', 'v', 'layout', 'sink']
const backwardInputNames = ['gradOut', ...inputNames, 'out', 'outLow', 'logsumexp']

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
 *   s[p,j] = scale * q[p,h] . k[j,h'],   with softcap c: c tanh(s / c),   h' = floor(h K / H)
 *   logsumexp[p,h] = log(sum_j exp(s[p,j]) + exp(sink[h])),   j over the tokens that p sees; exp(sink) only where given
 *   out[p,h] = sum_j exp(s[p,j] - logsumexp[p,h]) v[j,h']
 *
 * A token sees all tokens of its ancestor segments, and its own segment up to itself; so a response sees its prompt and
 * itself, as if it stood alone behind a copy of the prompt, but keys and values of a prompt are never copied. A layout
 * without children is ordinary packed causal attention. H is a multiple of K (grouped-query attention). No score matrix
 * larger than a tile exists; statistics are float32 whatever the dtype. With D = 0 all scores are 0, whatever the scale, and
 * without a sink logsumexp is the logarithm of how many tokens p sees. The bits depend neither on the number of threads
 * nor on other groups.
 *
 * - `window` w: a token sees the last w tokens of its path, itself included (sliding-window layers of Gemma, gpt-oss,
 *   Mistral). It counts places along the path, layout.position, so it reaches from a response into its prompt, and through
 *   the inner nodes of a tree. Tiles of keys that no query sees are not touched: time is proportional to what is seen.
 * - `softcap`: scores are capped after the scale (Gemma 2: 50). The sink is not capped.
 * - `sink`: a learned logit for each head that takes part in the softmax and has no value (gpt-oss). The maximum is taken
 *   over scores and the sink is added to the sum last, so that a large one takes no digits from the rest. -Infinity is no
 *   sink; with +Infinity out is 0.
 * - `outLow`, where `out: { outLow }` asks for it and q is bf16 or f16: what rounding out lost, out + outLow being the
 *   result in twice the digits. The backward pass takes it to form gradOut . out from.
 * - q, k and v may be slices of one product of all three: an array whose rows have a stride, that of the first axis.
 *
 * What a token does not see, in other responses or before its window, reaches nothing of it, NaN and infinity included.
 *
 * Accuracy: against the equation in float64, out and logsumexp of f32, bf16 and f16 are within twice the largest
 * error of the plain float32 formula, plus the last digit of their dtype; scores of thousands are tested. With precision
 * 'standard' probabilities may be rounded once to the dtype of q, as PyTorch and other trainers do, where that is faster:
 * bf16 on a CPU that multiplies bf16 itself ('avx512_bf16', 'amx'). Elsewhere, and on CUDA devices, it changes nothing.
 * There numbers and products of bf16 below 1.2e-38 count as 0. On CUDA devices out and gradients of bf16 have the error
 * of rounding them, root mean square, to 5 %.
 *
 * @param inputs.q       [P,H,D]  f32, bf16 or f16; positions (RoPE) are applied by the caller, from layout.position
 * @param inputs.k       [P,K,D]  the dtype of q
 * @param inputs.v       [P,K,E]  the dtype of q; E may differ from D (multi-head latent attention: 192 and 128)
 * @param inputs.layout  of prefixLayout or treeLayout; its arrays may lie on the host or with the others
 * @param inputs.sink    f32[H]   a logit for each query head; default: none
 * @param options.scale  default 1 / sqrt(D)
 * @param options.window null (default): all of the path; else a whole number of tokens, at least 1
 * @param options.softcap null (default): none; else a number above 0: a score s becomes softcap tanh(s / softcap)
 * @param options.precision 'high' (default) or 'standard': see above
 * @returns out [P,H,E] in the dtype of q; logsumexp f32[P,H], which the backward pass needs; where out has it, also
 *          outLow [P,H,E] in the dtype of q
 * @throws TypeError for other dtypes, and for outLow where q is f32; RangeError if H is not a multiple of K, the layout has
 *         not P tokens, a stride is less than a row, window is no whole number of at least 1, or softcap is not above 0
 * @see Prefix Grouper, arXiv:2506.05433; FlashAttention, arXiv:2205.14135; sinks: gpt-oss, arXiv:2508.10925; windows and
 *      soft-caps: Gemma 2, arXiv:2408.00118
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
 *   p = exp(s - logsumexp),   gradV[j] = sum p gradOut,   ds = p (gradOut . v - gradOut . out)
 *   with softcap c:           ds times 1 - (s / c)^2
 *   gradQ = scale * sum_j ds k,           gradK[j] = scale * sum ds q
 *   gradSink[h] = -sum_p exp(sink[h] - logsumexp[p,h]) (gradOut[p,h] . out[p,h])
 *
 * sums of a key j over the queries that see it. gradSink is a sum over all tokens, in float64.
 *
 * gradQ, gradK and gradV in `out` may be slices of one array, as q, k and v may be; slices that interleave share no
 * element, and what lies between them is left alone.
 *
 * Accuracy: against the equation in float64, gradients in f32, bf16 and f16 are within twice the largest error of the
 * plain float32 formula that is given the same rounded out, plus the last digit of their dtype. With outLow that formula
 * has the sum of both. precision 'standard' as in prefixAttention, of probabilities and of ds.
 *
 * @param inputs            q, k, v, layout, sink as in prefixAttention
 * @param inputs.gradOut    [P,H,E]  derivative of the loss with respect to out; the dtype of q
 * @param inputs.out        [P,H,E]  as prefixAttention returned it
 * @param inputs.outLow     [P,H,E]  likewise, for q of bf16 or f16: gradQ and gradK come out as from an out of float32
 * @param inputs.logsumexp  f32[P,H] likewise
 * @param options           scale, window, softcap, precision as in prefixAttention
 * @param options.gradScale multiplies the gradients; 1 by default
 * @returns gradQ [P,H,D], gradK [P,K,D], gradV [P,K,E], in the dtypes of q, k, v, or f32 where `out` asks for it; with a
 *          sink also gradSink f32[H]
 * @throws as prefixAttention; RangeError where outLow on the host is more than rounding out can have lost (on a device:
 *         gradients of NaN)
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
