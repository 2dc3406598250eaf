import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

type Float = 'f32' | 'bf16' | 'f16'

export interface LinearTokenLogprobInputs {
  hidden: ArrayInput<Float>
  head: ArrayInput<Float>
  headBias?: ArrayInput<Float> | undefined
  token: ArrayInput<'i32'>
  row?: ArrayInput<'i32'> | undefined
  rowTemperature?: ArrayInput<'f32'> | undefined
  keptStart?: ArrayInput<'i32'> | undefined
  kept?: ArrayInput<'i32'> | undefined
  mask?: ArrayInput<'u8'> | undefined
}

export interface LinearTokenLogprobOptions
  extends CallOptions<'logp' | 'entropy' | 'logsumexp' | 'fullLogp' | 'fullLogsumexp' | 'logits'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  vocabStart?: number | null
  chunkRows?: number | null
  full?: boolean
}

export const matches: Matches<'linearTokenLogprob', LinearTokenLogprobInputs, LinearTokenLogprobOptions> = true

/**
 * Log-probability of each token, and the entropy of the policy there, from hidden states: `tokenLogprob` of
 *
 *   logits = hidden headᵀ + headBias
 *
 * without the logits in memory. They are formed in float32 from exact products, whatever the dtypes of hidden and head,
 * in chunks of rows and blocks of the vocabulary of which a thread holds one at a time. A row's result does not depend on
 * the other rows, nor on chunkRows. Rows that no unmasked token names are never read and take part in no product.
 *
 * A row with a set of ids (keptStart, kept; see tokenLogprob) is multiplied with the rows of the head that its set keeps,
 * and with no other. A set of one id has logp 0 and entropy 0 whatever the hidden state, which is multiplied only for
 * logsumexp.
 *
 * `out: { logits }` keeps the logits, R x V float32, for a backward pass that then spares the first of its three products.
 * They are those of the model, before softcap. Rows that take no part in the whole product and padding are left as they
 * are.
 *
 * Accuracy: against the equation in float64, results of f32, bf16 and f16 hidden states and heads are within twice
 * the largest error of the plain float32 formula, plus their last digit, on every instruction set. Where the processor
 * multiplies bf16 itself ('avx512_bf16', 'amx'), products are as exact, and numbers and products below 1.2e-38 count as 0.
 *
 * @param inputs.hidden       f32|bf16|f16[R,D]  final hidden states; R = T without `row`
 * @param inputs.head         f32|bf16|f16[V,D]  the output layer; its dtype may differ from that of hidden
 * @param inputs.headBias     f32|bf16|f16[V]    -inf excludes a token of the vocabulary
 * @param inputs.token        i32[T]             the tokens, below V; not looked at where masked
 * @param inputs.row          i32[T]             the row that predicts token t; several tokens may share one. Default: t
 * @param inputs.rowTemperature f32[R]           multiplies the temperature, row by row; rows without tokens may hold anything
 * @param inputs.keptStart    i32[R+1]           where in kept the set of each row begins; an empty set is the whole vocabulary
 * @param inputs.kept         i32[M]             the ids that a row was sampled from (top-p, top-k, a grammar), rising in a row
 * @param inputs.mask         u8[T]              0 = padding: the outputs are 0
 * @param options.temperature divides the logits; 1 by default
 * @param options.softcap     null (default): none; else a number above 0: a logit z becomes softcap tanh(z / softcap) before
 *                            the temperature, as in tokenLogprob
 * @param options.validVocab  null (default): all V rows of the head; rows from there on are padding of the vocabulary: never
 *                            read, probability 0, gradient 0
 * @param options.vocabStart  null (default): the head has the whole vocabulary; else its rows are tokens vocabStart.. of a
 *                            vocabulary split over ranks, as in tokenLogprob
 * @param options.chunkRows   rows that go through the product together; more take more memory, and time if far too few
 * @param options.full        false; true: fullLogp and fullLogsumexp too, of the whole vocabulary whatever the sets are: the
 *                            whole product for the rows that have sets
 * @returns logp, entropy, logsumexp (with full also fullLogp, fullLogsumexp) f32[T], in nats, of logits / temperature; the last two repeated for the tokens of a row.
 *          Where out has it, also logits f32[R,V]
 * @throws RangeError if an unmasked token or row is out of range, a token is padding of the vocabulary, or a
 *         temperature is not positive
 * @see Cut Your Losses, arXiv:2411.09009
 * @example
 * import { array, linearTokenLogprob } from 'grpo-kernels'
 *
 * const hidden = array(new Float32Array([1, 0, 0.5, -1]), [2, 2])
 * const head = array(new Float32Array([1, 0, 0, 1, 1, 1]), [3, 2]) // three tokens
 * const { logp, entropy } = linearTokenLogprob({ hidden, head, token: new Int32Array([0, 2]) })
 * console.log(logp.data, entropy.data)
 */
export const linearTokenLogprob = operation(
  (inputs: LinearTokenLogprobInputs, options: LinearTokenLogprobOptions = {}) =>
    call('linearTokenLogprob', inputs, options),
)

export interface LinearTokenLogprobBackwardInputs extends LinearTokenLogprobInputs {
  logsumexp: ArrayInput<'f32'>
  entropy?: ArrayInput<'f32'> | undefined
  gradLogp: ArrayInput<'f32'>
  gradEntropy?: ArrayInput<'f32'> | undefined
  logits?: ArrayInput<'f32'> | undefined
}

export interface LinearTokenLogprobBackwardOptions extends CallOptions<'gradHidden' | 'gradHead' | 'gradHeadBias'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  vocabStart?: number | null
  gradScale?: number
  accumulate?: boolean
  chunkRows?: number | null
  precision?: 'high' | 'standard'
}

export const matchesBackward: Matches<
  'linearTokenLogprobBackward',
  LinearTokenLogprobBackwardInputs,
  LinearTokenLogprobBackwardOptions
> = true

/**
 * Gradient of `linearTokenLogprob`, with which any objective on log-probabilities runs without logits:
 *
 *   gradLogits = sum over the row's tokens of gradLogp (onehot(token) - p) / temperature + gradEntropy dH/dlogits
 *   (with softcap times 1 - tanh(logits / softcap)^2)
 *   gradHidden = gradLogits head      gradHead = gradLogitsᵀ hidden      gradHeadBias = column sums of gradLogits
 *
 * The logits are formed again, a chunk of rows at a time: three products. With `logits`, as linearTokenLogprob kept them,
 * it is two, and with the same chunkRows the same bits come out. Rows whose tokens all have gradients of exactly
 * 0 are skipped in all three and get gradHidden 0, whatever they hold. gradHead and gradHeadBias are sums over rows in
 * float32, in the order of the rows, and rounded to the dtype of the output at the end; like those of any sum, their last
 * digits depend on chunkRows, but not on the number of threads.
 *
 * With a vocabulary split over ranks logsumexp and entropy are the merged ones (mergeTokenLogprob), and gradHidden is
 * this rank's part of a sum.
 *
 * Of a row with a set only the rows of the head that the set keeps have a gradient; the others are 0, or left alone with
 * accumulate. A set of one id has none at all.
 *
 * precision 'standard' is the arithmetic of PyTorch and other trainers, for hidden and head of one dtype of 16 bits: the
 * gradient of the logits is rounded once to that dtype before it is multiplied and summed. On a CPU that multiplies bf16
 * itself ('avx512_bf16', 'amx') all three products of bf16 then run at that speed; elsewhere it is no faster. For other
 * dtypes, for rows with sets and on CUDA devices it changes nothing.
 *
 * Accuracy: against the equation in float64, gradients in f32, bf16 and f16 are within twice the largest error of the
 * plain float32 formula, plus the last digit of their dtype; with precision 'standard' within twice that of the plain
 * formula with the same rounding. On a device gradients in bf16, without headBias, have a factor rounded to float16: their root mean square
 * error is at most 1.25 times that of the plain formula rounded to bf16.
 *
 * @param inputs               hidden, head, headBias, token, row, rowTemperature, keptStart, kept, mask as in
 *                             linearTokenLogprob
 * @param inputs.logsumexp    f32[T]  as linearTokenLogprob returned it
 * @param inputs.entropy      f32[T]  likewise; needed with gradEntropy
 * @param inputs.gradLogp     f32[T]  derivative of the loss with respect to logp; not looked at where masked
 * @param inputs.gradEntropy  f32[T]  and to entropy
 * @param inputs.logits       f32[R,V]  as linearTokenLogprob kept them in out.logits; not looked at for rows with sets
 * @param options              temperature, softcap, validVocab, vocabStart, chunkRows as in linearTokenLogprob; by
 *                             default chunks are larger where logits are given
 * @param options.gradScale   multiplies the gradients; 1 by default
 * @param options.accumulate  false; true: gradHead and gradHeadBias are added to what `out` holds, in float32 where that is
 *                            its dtype; both need an `out` then
 * @param options.precision   'high' (default) or 'standard': see above; gradients of f16 logits end at 65,504 then, and
 *                            below 6e-8 there are none: scale them with gradScale
 * @returns gradHidden [R,D], gradHead [V,D], gradHeadBias [V] (with headBias), each in the dtype of its array, or float32
 *          if `out` is
 * @throws TypeError if gradEntropy is given without entropy; RangeError as linearTokenLogprob
 * @see Cut Your Losses, arXiv:2411.09009
 * @example
 * import { array, linearTokenLogprob, linearTokenLogprobBackward } from 'grpo-kernels'
 *
 * const hidden = array(new Float32Array([1, 0, 0.5, -1]), [2, 2])
 * const head = array(new Float32Array([1, 0, 0, 1, 1, 1]), [3, 2])
 * const inputs = { hidden, head, token: new Int32Array([0, 2]) }
 * const { logsumexp } = linearTokenLogprob(inputs)
 * const gradLogp = new Float32Array([-1, -1])
 * const { gradHidden, gradHead } = linearTokenLogprobBackward({ ...inputs, logsumexp, gradLogp })
 * console.log(gradHidden.data)
 * console.log(gradHead.data)
 */
export const linearTokenLogprobBackward = operation(
  (inputs: LinearTokenLogprobBackwardInputs, options: LinearTokenLogprobBackwardOptions = {}) =>
    call('linearTokenLogprobBackward', inputs, options),
)
