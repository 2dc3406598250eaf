import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface SelectTokensInputs {
  advantage?: ArrayInput<'f32'> | undefined
  tokenAdvantage?: ArrayInput<'f32'> | undefined
  entropy?: ArrayInput<'f32'> | undefined
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface SelectTokensOptions extends CallOptions<'mask'> {
  count?: number | null
  fraction?: number | null
  scope?: 'batch' | 'sequence'
  rule?: 'advantage_entropy' | 'entropy' | 'advantage'
}

export const matches: Matches<'selectTokens', SelectTokensInputs, SelectTokensOptions> = true

/**
 * Which tokens to train on: of the unmasked ones those with the highest score.
 *
 *   advantage_entropy   score[t] = |advantage of t| entropy[t]
 *   entropy             score[t] = entropy[t]
 *   advantage           score[t] = |advantage of t|
 *
 * The k highest of the batch, or of each sequence. k is `count`, or min(n, max(1, ceil(fraction n - 1e-9))) in float64, n
 * the unmasked tokens of the batch or sequence; a k above n keeps all. The product is rounded to float32, then compared
 * exactly. Equal scores (0 and -0 are equal): the lowest index wins. NaN is never kept, though it counts in n. A batch or
 * sequence whose scores are all zero keeps nothing; beside positive scores, zeros are kept when k reaches down to them.
 *
 * D3S and "beyond the 80/20 rule": { fraction: 0.2 }. The mask that comes back goes to a loss as `mask`, which then divides
 * by the kept tokens, or as `weight` (converted to float32), which keeps the denominators.
 *
 * Accuracy: the selection is exact: that of sorting the float32 products, ties included.
 *
 * @param inputs.advantage       f32[S]    one value per sequence; this or tokenAdvantage (neither for rule 'entropy')
 * @param inputs.tokenAdvantage  f32[T]    one value per token
 * @param inputs.entropy         f32[T]    nats; not needed for rule 'advantage'
 * @param inputs.sequenceStart   i32[S+1]  first token of each sequence; ends with T. Where nothing else says what T is,
 *                               its end is read, which waits on this thread if it lies on a device
 * @param inputs.mask            u8[T]     0 = no token: never kept, whatever its inputs hold
 * @param options.count          how many tokens of the batch, or of each sequence; this or fraction
 * @param options.fraction       what share of them, 0 to 1; at least one token
 * @param options.scope          of which set k is: the whole 'batch', or each 'sequence'
 * @param options.rule           'advantage_entropy', 'entropy' or 'advantage', as above
 * @returns mask u8[T], 1 = kept
 * @throws TypeError if an input that the rule needs is missing; RangeError if both advantages are given, not exactly one of
 *         count and fraction is, or sequenceStart does not rise from 0 to T
 * @see D3S, arXiv:2509.22115; Beyond the 80/20 Rule, arXiv:2506.01939
 * @example
 * import { selectTokens } from 'grpo-kernels'
 *
 * const { mask } = selectTokens(
 *   {
 *     advantage: new Float32Array([1, -0.5]),
 *     entropy: new Float32Array([0.2, 1.1, 0.6, 2, 0.1]),
 *     sequenceStart: new Int32Array([0, 3, 5]),
 *   },
 *   { fraction: 0.4 },
 * )
 * console.log(mask.data)
 */
export const selectTokens = operation((inputs: SelectTokensInputs, options: SelectTokensOptions) =>
  call('selectTokens', inputs, options),
)
