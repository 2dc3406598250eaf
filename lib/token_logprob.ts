import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface TokenLogprobInputs {
  logits: ArrayInput<'f32' | 'bf16' | 'f16'>
  token: ArrayInput<'i32'>
  row?: ArrayInput<'i32'> | undefined
  rowTemperature?: ArrayInput<'f32'> | undefined
  keptStart?: ArrayInput<'i32'> | undefined
  kept?: ArrayInput<'i32'> | undefined
  mask?: ArrayInput<'u8'> | undefined
}

export interface TokenLogprobOptions
  extends CallOptions<'logp' | 'entropy' | 'logsumexp' | 'fullLogp' | 'fullLogsumexp'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  vocabStart?: number | null
  full?: boolean
  stride?: number
}

export const matches: Matches<'tokenLogprob', TokenLogprobInputs, TokenLogprobOptions> = true

/**
 * Log-probability of each token under softmax(logits / temperature), and the entropy of that distribution.
 *
 *   u = logits[r] / (temperature rowTemperature[r]),   r = row[t]
 *   u = softcap tanh(logits[r] / softcap) / (temperature rowTemperature[r])   with a soft-cap
 *   logsumexp[t] = log sum_v exp(u[v]),   logp[t] = u[token[t]] - logsumexp[t]
 *   entropy[t] = -sum_v p[v] log p[v],    p[v] = exp(u[v] - logsumexp[t])
 *
 * Several tokens may share a row: in a shared-prefix layout the last token of a prompt predicts the first token of every
 * response. A row is read once, whatever the number of its tokens, and not at all if no unmasked token names it. Sums
 * over the vocabulary are formed relative to the row's largest logit, in float64 over float32 runs; adding a constant to a
 * row changes neither logp nor entropy. A logit of -inf has probability 0; a row with a NaN, with +inf, or of nothing but
 * -inf gives NaN. The entropy of a row with one possible token is exactly 0.
 *
 * A vocabulary split over ranks: each rank passes its own columns and their first token id as `vocabStart` (0 included).
 * Then logsumexp and entropy are those of these columns alone (-inf and 0 if all are -inf), a token of another rank has
 * logp -inf, and mergeTokenLogprob puts all ranks together at once.
 *
 * With `softcap` (Gemma's final one is 30) the logits go in as they came from the head, and are capped here. A logit of
 * -inf is masked, not capped: its probability stays 0. +inf is capped to `softcap`, and is no fault then.
 *
 * Columns from `validVocab` on are padding of the vocabulary: they are never read, and have probability 0.
 *
 * Rows that were sampled from fewer ids have a set, kept[keptStart[r]] to kept[keptStart[r + 1]]: softmax, entropy and
 * logsumexp run over these ids alone, and nothing else of the row is read. A token outside its row's set has logp -inf, a
 * constant: against a finite oldLogp ratio 0, and no gradient. With vocabStart the ids are those of the whole vocabulary,
 * and so is an empty set: a row of whose set no id lies here has logsumexp -inf and entropy 0. On a device a set whose ids do not rise, or lie
 * outside the vocabulary, makes the outputs of its row's tokens NaN, and offsets that do not rise those of all tokens.
 *
 * Accuracy: against the equation in float64, results of f32, bf16 and f16 logits are within twice the largest error
 * of the plain float32 formula, plus their last digit; a vocabulary of 151,936 keeps float32's last digit.
 *
 * @param inputs.logits        f32, bf16 or f16 [R,V]
 * @param inputs.token         i32[T]  token ids, from 0 to V - 1; with vocabStart any id of the whole vocabulary
 * @param inputs.row           i32[T]  the row of logits that predicts token t; default: row t (then T = R)
 * @param inputs.rowTemperature f32[R] multiplies the temperature, row by row; rows without tokens may hold anything
 * @param inputs.keptStart     i32[R+1] where in kept the set of each row begins; an empty set is the whole vocabulary
 * @param inputs.kept          i32[M]  the ids that a row was sampled from (top-p, top-k, a grammar), rising within a row
 * @param inputs.mask          u8[T]   0 = skipped: its token and row may hold anything, its outputs are 0
 * @param options.temperature  divides the logits; 1 by default
 * @param options.softcap      null (default): none; else a number above 0, z becomes softcap tanh(z / softcap) before the
 *                             temperature
 * @param options.validVocab   null (default): all V columns; else that many of them, the rest is padding
 * @param options.vocabStart   null (default): the V columns are the whole vocabulary
 * @param options.full         false; true: fullLogp and fullLogsumexp too, of the whole vocabulary whatever the sets are
 * @param options.stride       elements from one row of logits to the next, where they lie apart and do not say it
 *                             themselves (`array(data, shape, dtype, { stride })`)
 * @returns logp, entropy, logsumexp (with full also fullLogp, fullLogsumexp) f32[T], in nats, of the logits divided by the
 *          temperature; entropy and logsumexp repeat for the tokens of a row
 * @throws RangeError if an unmasked token or row is out of range, T differs from R without `row`, a token or an id of
 *         a set is padding of the vocabulary, a temperature is not positive, or the ids of a set that is looked at do not
 *         rise; TypeError if only one of keptStart and kept is given
 * @see online softmax: Milakov and Gimelshein, arXiv:1805.02867
 * @example
 * import { array, tokenLogprob } from 'grpo-kernels'
 *
 * // Two rows of logits over four tokens; the second row predicts two of the tokens.
 * const logits = array(new Float32Array([2, 1, 0, -1, 0, 0, 1, 0]), [2, 4])
 * const token = new Int32Array([0, 2, 3])
 * const { logp, entropy, logsumexp } = tokenLogprob({ logits, token, row: new Int32Array([0, 1, 1]) })
 * console.log(logp.data)
 * console.log(entropy.data)
 * console.log(logsumexp.data)
 */
export const tokenLogprob = operation((inputs: TokenLogprobInputs, options: TokenLogprobOptions = {}) =>
  call('tokenLogprob', inputs, options),
)

export interface TokenLogprobBackwardInputs extends TokenLogprobInputs {
  logsumexp: ArrayInput<'f32'>
  entropy?: ArrayInput<'f32'> | undefined
  gradLogp: ArrayInput<'f32'>
  gradEntropy?: ArrayInput<'f32'> | undefined
}

export interface TokenLogprobBackwardOptions extends CallOptions<'gradLogits'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  vocabStart?: number | null
  gradScale?: number
  stride?: number
}

export const matchesBackward: Matches<'tokenLogprobBackward', TokenLogprobBackwardInputs, TokenLogprobBackwardOptions> =
  true

/**
 * The gradient of tokenLogprob with respect to the logits.
 *
 *   gradLogits[r,v] = sum over unmasked t with row[t] = r of
 *     (gradLogp[t] ([v = token[t]] - p[v]) - gradEntropy[t] p[v] (u[v] - logsumexp[t] + entropy[t])) / (temperature rowTemperature[r])
 *
 * With `softcap` that times 1 - tanh(logits[r,v] / softcap)^2: the gradient is that of the logits before the cap.
 *
 * A row that no unmasked token names, or whose tokens all have gradLogp and gradEntropy 0, gets exactly 0 and is not read.
 * The entries of the tokens themselves are formed in float64 and rounded once. A logit of -inf has p = 0, and so has
 * padding of the vocabulary, and what is not in its row's set. A row whose softmax does not exist (NaN, +inf, nothing but
 * -inf) gets NaN. gradLogp of a token outside its row's set is not looked at.
 *
 * p is formed from the logsumexp that is given. Where that is the row's own but for its rounding to float32, the rounding
 * is undone: it alone would be an error of 1e-6 in every p at a logsumexp of 20, and 5e-4 at 1e4. With a vocabulary
 * split over ranks logsumexp and entropy are those of the whole, which mergeTokenLogprob gives from all parts at once, and
 * each rank gets its own columns.
 *
 * Accuracy: against the equation in float64, results of f32, bf16 and f16 logits are within twice the largest error
 * of the plain float32 formula, plus their last digit (that of the dtype of gradLogits).
 *
 * @param inputs               logits, token, row, rowTemperature, keptStart, kept, mask as in
 *                             tokenLogprob
 * @param inputs.logsumexp     f32[T]  as tokenLogprob gave it
 * @param inputs.entropy       f32[T]  as tokenLogprob gave it; needed with gradEntropy
 * @param inputs.gradLogp      f32[T]  derivative of the loss with respect to logp; not looked at where masked
 * @param inputs.gradEntropy   f32[T]  with respect to the entropy
 * @param options              temperature, softcap, validVocab, vocabStart, stride as in tokenLogprob
 * @param options.gradScale    multiplies gradLogits; 1 by default
 * @param options.out          gradLogits may be the logits themselves (written in place), or f32 for any logits
 * @returns gradLogits [R,V]  in the dtype of the logits
 * @throws TypeError if gradEntropy is given without entropy; RangeError as tokenLogprob
 * @example
 * import { array, tokenLogprob, tokenLogprobBackward } from 'grpo-kernels'
 *
 * const logits = array(new Float32Array([2, 1, 0, -1]), [1, 4])
 * const token = new Int32Array([1])
 * const { logsumexp } = tokenLogprob({ logits, token })
 * const gradLogp = new Float32Array([-1]) // the loss is -logp
 * console.log(tokenLogprobBackward({ logits, token, logsumexp, gradLogp }).gradLogits.data)
 */
export const tokenLogprobBackward = operation(
  (inputs: TokenLogprobBackwardInputs, options: TokenLogprobBackwardOptions = {}) =>
    call('tokenLogprobBackward', inputs, options),
)
