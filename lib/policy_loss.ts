import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'
import type { Objective } from './objective.js'

/** What every policy loss takes besides the log-probabilities. */
export interface PolicyInputs {
  oldLogp?: ArrayInput<'f32'> | undefined
  refLogp?: ArrayInput<'f32'> | undefined
  advantage?: ArrayInput<'f32'> | undefined
  tokenAdvantage?: ArrayInput<'f32'> | undefined
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
  weight?: ArrayInput<'f32'> | undefined
  ratioLow?: ArrayInput<'f32'> | undefined
  ratioHigh?: ArrayInput<'f32'> | undefined
}

export interface PolicyLossInputs extends PolicyInputs {
  logp: ArrayInput<'f32'>
  entropy?: ArrayInput<'f32'> | undefined
}

export interface PolicyLossOptions extends Objective, CallOptions<'loss' | 'gradLogp' | 'gradEntropy' | 'stats'> {
  gradScale?: number
}

export const matches: Matches<'policyLoss', PolicyLossInputs, PolicyLossOptions> = true

/**
 * The loss of a policy from its log-probabilities, with its gradient and statistics.
 *
 *   loss = sum over unmasked t of f(t) (weight[t] surrogate(t) + klCoef kl(t)) - entropyCoef sum of g(t) entropy[t]
 *
 * The terms, the ratios and the factors are those of the Objective in the options, which documents each of them; the
 * default is PPO's clipped surrogate, token by token, averaged over all tokens. Everything is computed in float64 and
 * rounded once. The gradient is exact for that loss: ratios of sequences spread theirs over the sequence.
 *
 * A masked token exists nowhere: it enters no count, ratio, KL or statistic, is never exponentiated, and gets gradient
 * exactly 0, whatever its inputs hold. A weight of 0 keeps a token in the counts and removes its policy term. T = 0, or
 * all masked: loss 0. NaN and infinities of unmasked tokens propagate, and `stats` counts their tokens.
 *
 * Accuracy: loss and gradients are those of the equation in float64, rounded once, for every surrogate, ratio, KL,
 * clamp and aggregate; stats agree to 1e-12. Gradients agree with central differences.
 *
 * @param inputs.logp            f32[T]    log-probability of each token under the policy
 * @param inputs.oldLogp         f32[T]    at the time of the rollout; default: the policy's own (ratio 1, with gradient)
 * @param inputs.refLogp         f32[T]    under the reference; needed with klCoef
 * @param inputs.advantage       f32[S]    per sequence, or
 * @param inputs.tokenAdvantage  f32[T]    per token: one of the two
 * @param inputs.sequenceStart   i32[S+1]  first token of each sequence; ends with T. Empty sequences are allowed. A padded
 *                                         batch [N, L] is 0, L, 2 L, ... with mask 0 at the padding
 * @param inputs.mask            u8[T]     0 = no loss token
 * @param inputs.weight          f32[T]    multiplies the policy term: importance corrections, selections
 * @param inputs.entropy         f32[T]    nats; needed with entropyCoef
 * @param inputs.ratioLow        f32[T]    a bound on the ratio itself, instead of 1 - clipLow; token ratios only
 * @param inputs.ratioHigh       f32[T]    instead of 1 + clipHigh
 * @param options              the Objective
 * @param options.gradScale    multiplies the gradients, not the loss (loss scaling, micro-batches); 1 by default
 * @returns loss f32[1]; gradLogp f32[T], the derivative of the loss with respect to logp; gradEntropy f32[T] where entropy is
 *          given; stats f64[15], which lossStats reads and merges
 * @throws RangeError if sequenceStart does not rise from 0 to T, an option is out of range, or options contradict each
 *         other; TypeError if an input that the objective needs is missing
 * @see PPO, arXiv:1707.06347; DeepSeekMath, arXiv:2402.03300; DAPO, arXiv:2503.14476
 * @example
 * import { lossStats, policyLoss } from 'grpo-kernels'
 *
 * // Two sequences, of three tokens and of two; the last token does not count.
 * const { loss, gradLogp, stats } = policyLoss(
 *   {
 *     logp: new Float32Array([-1, -0.5, -2, -1.5, -0.3]),
 *     oldLogp: new Float32Array([-1.1, -0.5, -1.6, -1.5, -0.3]),
 *     advantage: new Float32Array([1, -1]),
 *     sequenceStart: new Int32Array([0, 3, 5]),
 *     mask: new Uint8Array([1, 1, 1, 1, 0]),
 *   },
 *   { clipHigh: 0.28, aggregate: 'sequence_mean' },
 * )
 * console.log(loss.data[0])
 * console.log(gradLogp.data)
 * console.log(lossStats(stats).tokens, lossStats(stats).ratioMax)
 */
export const policyLoss = operation((inputs: PolicyLossInputs, options: PolicyLossOptions = {}) =>
  call('policyLoss', inputs, options),
)
