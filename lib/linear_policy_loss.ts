import type { DType } from './addon/dtypes.js'
import { grpoError } from './addon/errors.js'
import { signatures } from './addon/signatures.js'
import { describe } from './arrays/array.js'
import { checkDevice } from './arrays/cuda_library.js'
import type { ArrayInput } from './arrays/input.js'
import { call, checkNames, map, operation, renamed } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'
import { cpu } from './cpu.js'
import type { Objective } from './objective.js'
import type { PolicyInputs } from './policy_loss.js'

type Float = 'f32' | 'bf16' | 'f16'

export interface LinearPolicyLossInputs extends PolicyInputs {
  hidden: ArrayInput<Float>
  head: ArrayInput<Float>
  headBias?: ArrayInput<Float> | undefined
  token: ArrayInput<'i32'>
  row?: ArrayInput<'i32'> | undefined
  rowTemperature?: ArrayInput<'f32'> | undefined
  keptStart?: ArrayInput<'i32'> | undefined
  kept?: ArrayInput<'i32'> | undefined
}

export interface LinearPolicyLossOptions
  extends Objective,
    CallOptions<'loss' | 'gradHidden' | 'gradHead' | 'gradHeadBias' | 'logp' | 'entropy' | 'stats'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  gradScale?: number
  accumulate?: boolean
  chunkRows?: number | null
  precision?: 'high' | 'standard'
}

export const matches: Matches<'linearPolicyLoss', LinearPolicyLossInputs, LinearPolicyLossOptions> = true

const linearPolicyLossOf = operation((inputs: LinearPolicyLossInputs, options: LinearPolicyLossOptions = {}) =>
  call('linearPolicyLoss', inputs, options),
)

/** The sizes of a call of linearPolicyLoss that has yet to be made. */
export interface LinearPolicyLossSizes {
  /** Rows of hidden. */
  R: number
  /** Loss tokens. */
  T: number
  /** Sequences; default: T, the most there are if none is empty. They matter to ratios of sequences, and little. */
  S?: number
  /** Hidden size. */
  D: number
  /** Vocabulary. */
  V: number
  /** Of hidden, head and headBias. */
  dtype: Float
  /** Ids in all sets, the length of `kept`, for a call that has them. */
  kept?: number
  /** A CUDA device; default: the CPU. */
  device?: number
}

function plan(sizes: LinearPolicyLossSizes, options: LinearPolicyLossOptions = {}) {
  const name = 'linearPolicyLoss.plan'
  checkNames(name, sizes, ['R', 'T', 'S', 'D', 'V', 'dtype', 'kept', 'device'], 'size')
  const optionNames = [...signatures.linearPolicyLoss.options.map((spec) => spec.name), 'out', 'stream', 'signal']
  checkNames(name, options, optionNames, 'option')
  const { R, T, S = null, D, V, dtype, kept = null, device } = sizes
  const given = { R, T, D, V, ...(S !== null && { S }), ...(kept !== null && { kept }) }
  for (const [axis, size] of Object.entries(given)) {
    if (!Number.isInteger(size) || size < 0 || size >= 2 ** 31) {
      throw grpoError('shape', name, axis, `is ${describe(size)}, expected a whole number from 0 to 2147483647`)
    }
  }
  if (!(['f32', 'bf16', 'f16'] as DType[]).includes(dtype)) {
    throw grpoError('dtype', name, 'dtype', `is ${describe(dtype)}, expected f32, bf16 or f16`)
  }
  const onDevice = device === undefined ? undefined : checkDevice(name, device)
  const { chunkRows = null, ratio = 'token' } = options
  const shape = { rows: R, tokens: T, hiddenSize: D, vocabulary: V, sequences: S, threads: cpu.threads }
  const row = 'linearPolicyLossPlan'
  const planned = renamed(row, name, () => call(row, {}, { ...shape, dtype, chunkRows, ratio, kept }, {}, onDevice))
  return map(planned, ({ peakBytes }) => ({ peakBytes: Math.ceil(peakBytes.data[0] as number) }))
}

/**
 * The loss of a policy from its final hidden states, with the gradients of hidden and head: `policyLossFromLogits` of
 *
 *   logits = hidden headᵀ + headBias
 *
 * and the products that lead from gradLogits to gradHidden, gradHead and gradHeadBias, without the logits in memory: they
 * exist for a chunk of rows at a time. They are accumulated in float32 from exact products, whatever the dtypes of
 * hidden and head, so that bfloat16 weights cost no accuracy of the log-probabilities.
 *
 * Token-level ratios take three products of R x D x V. Ratios of sequences need all log-probabilities first: one more. Rows
 * that no unmasked token names take part in none; rows whose coefficients are all exactly 0 (clipped, no advantage) only
 * in those that find out, and get gradHidden 0, whatever they hold.
 *
 * logp, entropy and gradHidden of a row do not depend on the other rows, nor on chunkRows. gradHead and gradHeadBias are
 * sums over rows in float32, in the order of the rows, and rounded to the dtype of the output at the end. Nothing depends on
 * the number of threads.
 *
 * A row with a set of ids (keptStart, kept; see tokenLogprob) costs what its set costs: it is multiplied with the rows of
 * the head that the set keeps, and with no other. A set of one id has logp 0 and no gradient whatever the hidden state, and
 * costs nothing. Of gradHead the rows that no set keeps are 0, or left alone with accumulate, if no row is without a set;
 * rows without one go through the three products by themselves. A token outside its row's set has logp -inf, a constant.
 *
 * Memory beside inputs and outputs, as `linearPolicyLoss.plan` says before the call: chunkRows x (V + D) float32, some 50
 * bytes per token, and, where gradHead is bf16 or f16 and the rows take more than one chunk, its sums: V x D float32. Passing
 * `out: { gradHead }` in float32 avoids those. On a device: chunkRows x V float32, some 60 bytes per token and row, and
 * those sums wherever gradHead is bf16 or f16; for gradients in bf16 chunkRows x D float16, and for those of a bf16 head
 * V x D. With sets (`kept` of the plan) some 25 bytes per id more, and those sums where rows with and without sets meet.
 *
 * precision 'standard' is the arithmetic of PyTorch and other trainers, for hidden and head of one dtype of 16 bits: the
 * gradient of the logits is rounded once to that dtype before it is multiplied and summed; loss, logp and entropy stay as they are. On a
 * CPU that multiplies bf16 itself (cpu.instructionSet 'avx512_bf16', 'amx') all three products of bf16 then run at that
 * speed; elsewhere it is no faster. For other dtypes, for rows with sets and on CUDA devices it changes nothing.
 *
 * Accuracy: loss, logp, entropy and gradients of f32, bf16 and f16 hidden states and heads are within twice the
 * largest error of the plain float32 formula, plus the last digit of their dtype, of the equation in float64, on
 * every instruction set; gradients with precision 'standard' within twice that of the plain formula with the same
 * rounding. Where the processor multiplies bf16 itself, products are as exact, and numbers and products below 1.2e-38
 * count as 0. On a device gradients in bf16, without headBias, have a factor rounded to float16: their root mean square error is at most 1.25
 * times that of the plain formula rounded to bf16.
 *
 * @param inputs.hidden       f32|bf16|f16[R,D]  final hidden states, after the last norm
 * @param inputs.head         f32|bf16|f16[V,D]  the output layer; its dtype may differ from that of hidden
 * @param inputs.headBias     f32|bf16|f16[V]    -inf excludes a token of the vocabulary
 * @param inputs.token        i32[T]             token ids, from 0 to V - 1
 * @param inputs.row          i32[T]             the row that predicts token t; several tokens may share one. Default: t
 * @param inputs.rowTemperature f32[R]           multiplies the temperature, row by row; rows without tokens may hold anything
 * @param inputs.keptStart    i32[R+1]           where in kept the set of each row begins; an empty set is the whole vocabulary
 * @param inputs.kept         i32[M]             the ids that a row was sampled from (top-p, top-k, a grammar), rising in a row
 * @param inputs              oldLogp, refLogp, advantage or tokenAdvantage, sequenceStart, mask, weight, ratioLow, ratioHigh
 *                            as in policyLoss; token and row of a masked token are not looked at
 * @param options             the Objective, as in policyLoss
 * @param options.temperature divides the logits; 1 by default. oldLogp and refLogp are of the same temperature
 * @param options.softcap     null (default): none; else a number above 0: a logit z becomes softcap tanh(z / softcap) before
 *                            the temperature, as in tokenLogprob
 * @param options.validVocab  null (default): all V rows of the head; rows from there on are padding of the vocabulary: never
 *                            read, probability 0, gradient 0
 * @param options.gradScale   multiplies the gradients, not the loss (loss scaling, micro-batches); 1 by default
 * @param options.accumulate  false; true: gradHead and gradHeadBias are added to what `out` holds, in float32 where that is
 *                            its dtype; both need an `out` then
 * @param options.chunkRows   rows that go through the products together. Default: 256, or as many as have 128 MiB of
 *                            logits, on a device those that a thirtieth of its memory holds, from 1 GiB to 4 GiB of it,
 *                            but 64 at least
 * @param options.precision   'high' (default) or 'standard': see above; gradients of f16 logits end at 65,504 then, and
 *                            below 6e-8 there are none: scale them with gradScale
 * @returns loss f32[1]; gradHidden [R,D], gradHead [V,D], gradHeadBias [V] (with headBias), each in the dtype of its array,
 *          or float32 if `out` is; logp, entropy f32[T], 0 where masked; stats f64[15], which lossStats reads and merges
 * @throws as tokenLogprob and policyLoss
 * @see Cut Your Losses, arXiv:2411.09009; DeepSeekMath, arXiv:2402.03300
 * @example
 * import { array, linearPolicyLoss } from 'grpo-kernels'
 *
 * const inputs = {
 *   hidden: array(new Float32Array([1, 0, 0.5, -1]), [2, 2]),
 *   head: array(new Float32Array([1, 0, 0, 1, 1, 1]), [3, 2]), // three tokens
 *   token: new Int32Array([0, 2]),
 *   advantage: new Float32Array([1, -1]),
 *   sequenceStart: new Int32Array([0, 1, 2]),
 * }
 * const { loss, gradHidden, gradHead } = linearPolicyLoss(inputs)
 * console.log(loss.data[0])
 * console.log(gradHidden.data)
 * console.log(gradHead.data)
 *
 * // What a larger call will take beside its inputs and outputs.
 * console.log(linearPolicyLoss.plan({ R: 4096, T: 4096, D: 2048, V: 151936, dtype: 'bf16' }).peakBytes > 0)
 */
export const linearPolicyLoss = Object.assign(linearPolicyLossOf, {
  /**
   * Bytes that a call with these sizes takes beside its inputs and outputs, if every row is named by a token: a call that
   * has masked rows takes less. An output of logp or entropy that is left out (`out: { logp: null }`) takes its place there.
   *
   * @param sizes    R, T, D, V and dtype of the call; S, its sequences, for ratios of sequences; kept, the ids in its sets, if
   *                 it has any; device, if it is one's
   * @param options  those of the call: chunkRows and ratio count, and cpu.threads as it is at the moment
   * @returns peakBytes
   * @throws RangeError for a size that is not a whole number below 2^31, TypeError for a dtype that hidden cannot have
   */
  plan: operation(plan),
})
