import type { ArrayInput } from './arrays/input.js'
import { call, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface GroupAdvantageInputs {
  rewards: ArrayInput<'f32'>
  groupStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}

export interface GroupAdvantageOptions extends CallOptions<'advantage' | 'mean' | 'std'> {
  center?: 'mean' | 'leave_one_out' | 'none'
  scale?: 'group_std' | 'batch_std' | 'leave_one_out_std' | 'mean' | 'none'
  ddof?: number
  eps?: number
  epsUnderRoot?: boolean
  virtualCount?: number
  virtualReward?: number | null
  singleton?: 'zero' | 'raw'
}

export const matches: Matches<'groupAdvantage', GroupAdvantageInputs, GroupAdvantageOptions> = true

/**
 * Advantage of each rollout relative to the others for its prompt.
 *
 *   advantage[i] = (rewards[i] - center) / (scale + eps),   i in group g
 *
 * `center` is the mean of the group, of the others of the group (leave_one_out), or 0. `scale` is the standard deviation
 * of the group, of the whole batch, or of the others, with divisor n - ddof; or the group's mean; or nothing.
 * Statistics are float64 in two passes. A standard deviation of exactly 0 divides nothing, and values that are all equal
 * have exactly that mean: equal rewards of 0.1 give 0, not rounding divided by eps. With ddof = 1 a single value has
 * standard deviation 0. An empty group has mean 0 and std 0.
 *
 * TRL: the defaults. verl grpo: { eps: 1e-6, singleton: 'raw' }. Dr. GRPO: { scale: 'none' }. RLOO: { center:
 * 'leave_one_out', scale: 'none' }. NeMo-RL: { center: 'leave_one_out', scale: 'leave_one_out_std', eps: 1e-6 }. MaxRL:
 * { scale: 'mean', eps: 1e-6 }. NGRPO: { eps: 1e-6, virtualCount: 1, virtualReward: 1, singleton: 'raw' }.
 *
 * Accuracy: float32 results are within twice the largest error of the plain float32 formula, plus their last digit,
 * of the equation in float64, for every combination of options; rewards that share an offset of 1e6 keep their
 * digits.
 *
 * @param inputs.rewards          f32[N]    score per rollout, any unit
 * @param inputs.groupStart       i32[G+1]  first rollout of each group; ends with N
 * @param inputs.mask             u8[N]     0 = rejected: enters no statistic and gets 0
 * @param options.center          'mean' of the group, 'leave_one_out', the mean of the others, or 'none'
 * @param options.scale           'group_std', 'batch_std', 'leave_one_out_std', 'mean' of the group, or 'none'
 * @param options.ddof            the divisor of a variance is n - ddof
 * @param options.eps             added to the divisor; with epsUnderRoot to the variance instead
 * @param options.epsUnderRoot    true: eps is added to the variance
 * @param options.virtualCount    so many copies of virtualReward enter the statistics of each group, and nothing else
 * @param options.virtualReward   needed where virtualCount is not 0
 * @param options.singleton       what a group with one unmasked rollout gets, virtual ones not counted: 'zero', or 'raw',
 *                                mean 0 and std 1 (with scale 'mean' the reward itself)
 * @returns advantage f32[N], in standard deviations, or in reward units with scale 'none';
 *          mean, std f32[G] of the group, virtual rollouts included
 * @throws RangeError if groupStart does not rise from 0 to N, or an option is out of range
 * @see DeepSeekMath, arXiv:2402.03300, 4.1; scale 'none': arXiv:2503.20783; virtual rewards: arXiv:2509.18851
 * @example
 * import { groupAdvantage } from 'grpo-kernels'
 *
 * // Two prompts, with four rollouts and with two.
 * const rewards = new Float32Array([1, 0, 0.5, 0, 1, 0])
 * const groupStart = new Int32Array([0, 4, 6])
 * console.log(groupAdvantage({ rewards, groupStart }).advantage.data)
 * console.log(groupAdvantage({ rewards, groupStart }, { center: 'leave_one_out', scale: 'none' }).advantage.data)
 */
export const groupAdvantage = operation((inputs: GroupAdvantageInputs, options: GroupAdvantageOptions = {}) =>
  call('groupAdvantage', inputs, options),
)
