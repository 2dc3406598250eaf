import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface SelectRolloutsInputs {
  score: ArrayInput<'f32'>
  groupStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface SelectRolloutsOptions extends CallOptions<'mask'> {
  count?: number | null
  fraction?: number | null
  scope?: 'group' | 'batch'
  rule?: 'max_variance' | 'top' | 'top_bottom'
}

export const matches: Matches<'selectRollouts', SelectRolloutsInputs, SelectRolloutsOptions> = true

/**
 * Which rollouts to train on, by their rewards or advantages.
 *
 *   max_variance   argmax of Var({ score[i] : i in S }) over the subsets S of size k
 *   top            the k largest
 *   top_bottom     the ceil(k / 2) largest and the floor(k / 2) smallest
 *
 * of each group, or of the whole batch. k is `count`, or min(n, max(1, ceil(fraction n - 1e-9))) in float64, n the unmasked
 * rollouts of the group or batch; a k above n keeps all. The subset of largest variance is always some number of largest
 * scores with the rest smallest ones: all such numbers are tried, in float64 and without squares, so that subsets of equal
 * variance compare equal; the lowest number wins. Equal scores: the lowest index wins. Masked rollouts are never kept, nor
 * is NaN, though it counts in n. Infinite scores are kept like other large ones; for max_variance they stand for 2^128.
 *
 * PODS: score = rewards, { count }, and new advantages within the selection. D3S: score = advantages over the whole batch,
 * { count, scope: 'batch' }, and the advantages stay.
 *
 * Accuracy: the selection is exact: that of sorting float64 scores, ties included.
 *
 * @param inputs.score       f32[N]    any unit
 * @param inputs.groupStart  i32[G+1]  first rollout of each group; ends with N
 * @param inputs.mask        u8[N]     0 = no candidate
 * @param options.count      how many of each group, or of the batch; this or fraction
 * @param options.fraction   what share of them, 0 to 1; at least one rollout
 * @param options.scope      of which set k is: each 'group', or the whole 'batch'
 * @param options.rule       'max_variance', 'top' or 'top_bottom', as above
 * @returns mask u8[N], 1 = kept; for `maskIndex` and `gatherRows`
 * @throws RangeError if groupStart does not rise from 0 to N, or not exactly one of count and fraction is given
 * @see PODS, arXiv:2504.13818; D3S, arXiv:2509.22115
 * @example
 * import { selectRollouts } from 'grpo-kernels'
 *
 * const score = new Float32Array([0.1, 0.9, 0.5, 0.4, 1, 0, 1])
 * const groupStart = new Int32Array([0, 4, 7])
 * console.log(selectRollouts({ score, groupStart }, { count: 2 }).mask.data)
 * console.log(selectRollouts({ score, groupStart }, { fraction: 0.5, scope: 'batch', rule: 'top' }).mask.data)
 */
export const selectRollouts = operation((inputs: SelectRolloutsInputs, options: SelectRolloutsOptions) =>
  call('selectRollouts', inputs, options),
)
