import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'
import type { Objective } from './objective.js'
import type { PolicyInputs } from './policy_loss.js'

export interface PolicyLossFromLogitsInputs extends PolicyInputs {
  logits: ArrayInput<'f32' | 'bf16' | 'f16'>
  token: ArrayInput<'i32'>
  row?: ArrayInput<'i32'> | undefined
  rowTemperature?: ArrayInput<'f32'> | undefined
  keptStart?: ArrayInput<'i32'> | undefined
  kept?: ArrayInput<'i32'> | undefined
}

export interface PolicyLossFromLogitsOptions
  extends Objective,
    CallOptions<'loss' | 'gradLogits' | 'logp' | 'entropy' | 'stats'> {
  temperature?: number
  softcap?: number | null
  validVocab?: number | null
  gradScale?: number
  stride?: number
}

export const matches: Matches<'policyLossFromLogits', PolicyLossFromLogitsInputs, PolicyLossFromLogitsOptions> = true

/**
 * The loss of a policy from its logits, with the gradient with respect to the logits: tokenLogprob, policyLoss and
 * tokenLogprobBackward in one, with the bits of the three one after another.
 *
 *   logp, entropy = tokenLogprob(logits[r] / (temperature rowTemperature[r]))
 *   loss, stats = policyLoss(logp, entropy, ...)
 *   gradLogits[r,v] = sum over unmasked t with row[t] = r of
 *     (dloss/dlogp[t] ([v = token[t]] - p[v]) - dloss/dentropy[t] p[v] (log p[v] + entropy[t])) / (temperature rowTemperature[r])
 *
 * With token-level ratios a row of logits is read from memory once and its gradient written once; ratios of sequences need
 * a first pass over all rows. Rows whose coefficients are exactly 0 (clipped, no advantage) and rows that no unmasked
 * token names get zeros and are not exponentiated (again). Memory beside the outputs follows the tokens and the rows that
 * they name, whatever R and V are. `out: { gradLogits: logits }` writes the gradient over the logits;
 * `out: { gradLogits: null }` leaves it out. Logits of -inf have probability 0; a row with NaN, +inf or nothing but -inf has logp NaN, which reaches the loss.
 *
 * A row with a set of ids (keptStart, kept; see tokenLogprob) has its softmax over these alone, and gradient 0 elsewhere. A
 * token outside the set has logp -inf, a constant: against a finite oldLogp its ratio is 0.
 *
 * Accuracy: the bits of tokenLogprob, policyLoss and tokenLogprobBackward one after another; against the equation in
 * float64, results of f32, bf16 and f16 logits are within twice the largest error of the plain float32 formula, plus
 * their last digit.
 *
 * `softcap` as in tokenLogprob: logits go in uncapped, and gradLogits is that of the uncapped ones.
 *
 * @param inputs.logits        f32, bf16 or f16 [R,V]
 * @param inputs.token         i32[T]  token ids from 0 to V - 1
 * @param inputs.row           i32[T]  the row of logits that predicts token t; default: row t (then T = R)
 * @param inputs.rowTemperature f32[R] multiplies the temperature, row by row; rows without tokens may hold anything
 * @param inputs.keptStart     i32[R+1] where in kept the set of each row begins; an empty set is the whole vocabulary
 * @param inputs.kept          i32[M]  the ids that a row was sampled from (top-p, top-k, a grammar), rising within a row
 * @param inputs               oldLogp, refLogp, advantage or tokenAdvantage, sequenceStart, mask, weight, ratioLow, ratioHigh
 *                             as in policyLoss; token and row of a masked token are not looked at
 * @param options              the Objective, as in policyLoss; entropies need not be given
 * @param options.temperature  divides the logits; 1 by default. oldLogp and refLogp are of the same temperature
 * @param options.softcap      null (default): none; else a number above 0, z becomes softcap tanh(z / softcap) first
 * @param options.validVocab   null (default): all V columns; columns from there on are padding: never read, gradient 0
 * @param options.gradScale    multiplies gradLogits, not the loss (loss scaling, micro-batches); 1 by default
 * @param options.stride       elements from one row of logits to the next, where they lie apart and do not say it
 *                             themselves (`array(data, shape, dtype, { stride })`)
 * @returns loss f32[1]; gradLogits [R,V] in the dtype of the logits (or f32, if such an `out` is given); logp, entropy f32[T],
 *          0 where masked; stats f64[15], which lossStats reads and merges
 * @throws as tokenLogprob and policyLoss
 * @see DeepSeekMath, arXiv:2402.03300
 * @example
 * import { array, policyLossFromLogits } from 'grpo-kernels'
 *
 * const logits = array(new Float32Array([2, 1, 0, 0, 0, 1, -1, 0, 1]), [3, 3])
 * const { loss, logp, gradLogits } = policyLossFromLogits({
 *   logits,
 *   token: new Int32Array([0, 2, 1]),
 *   oldLogp: new Float32Array([-0.5, -0.6, -1]),
 *   advantage: new Float32Array([1, -1]),
 *   sequenceStart: new Int32Array([0, 2, 3]),
 * })
 * console.log(loss.data[0], logp.data)
 * console.log(gradLogits.data)
 */
export const policyLossFromLogits = operation(
  (inputs: PolicyLossFromLogitsInputs, options: PolicyLossFromLogitsOptions = {}) =>
    call('policyLossFromLogits', inputs, options),
)
