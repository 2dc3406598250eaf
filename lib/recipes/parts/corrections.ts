// Corrections of any method for what lies between the policy that sampled and the one that is trained: importance weights
// (importance.ts), rejection (rejection.ts), the off-policy mask, the entropy quantile.
import { grpoError } from '../../addon/errors.js'
import { isDeviceArray } from '../../arrays/device_memory.js'
import { checkNames } from '../../call/run.js'
import type { Context } from '../step/context.js'
import { type AnyRecipe, checkRecipe, type Reads, type Weights } from '../step/recipe.js'
import { checkBounds, checkImportance, type Importance, importance } from './importance.js'
import { known } from './known.js'
import { allOf, difference, float32Map, product, unmasked } from './map_tokens.js'
import { accepted, perSequence, perToken, type Rejection, statistic } from './rejection.js'
import { quantile } from './statistics.js'
import { tokenAdvantages } from './tokens.js'

export interface Correction {
  /**
   * Multiplies the policy term by exp(oldLogp - rolloutLogp): of the token, or (sequence) the product or (sequence_mean)
   * the geometric mean over its rollout, held between low (none by default) and high (3). A mode by name, *_truncate cuts
   * to the bounds, *_mask gives 0 outside, token_gate gives 0 to rollouts whose geometric mean is outside and leaves the
   * ratios of the others as they are, token_gate_truncate cuts them to the same bounds; or its parts: level, outside
   * (bound or zero), gate (level, and bounds of its own). With normalize the weights are divided by their mean.
   */
  readonly importance?: Importance
  /**
   * Masks tokens, or whole rollouts, whose statistic lies outside of its bounds. k1 = -log ratio is held between log
   * low and log high, low being 1 / high by default; k2 = (log ratio)^2 / 2 and k3 = ratio - 1 - log ratio have only
   * `high`. verl's rollout_rs.
   */
  readonly reject?: readonly Rejection[]
  /**
   * Leaves the policy term out where A < 0 and the mean over the rollout of (rolloutLogp - logp) is above this; with
   * oldLogp in a batch without rolloutLogp. DeepSeek-V3.2; off_policy_mask_threshold of TRL.
   */
  readonly offPolicy?: number
  /** Keeps the policy term of the tokens with this share of the highest entropies; ties are kept. 1 is all. */
  readonly topEntropy?: number
}

function onPolicy(c: Context, threshold: number): Float32Array {
  const given = (['rolloutLogp', 'oldLogp'] as const).find((name) => c.has(name))
  const sampled = given === undefined ? c.oldLogp : known(c, given)
  const drift = perToken(c, perSequence(c, difference(sampled, c.logp), true))
  const advantage = tokenAdvantages(c)
  return float32Map(drift, (x, t) => ((advantage[t] as number) < 0 && x > threshold ? 0 : 1))
}

function topEntropy(c: Context, share: number): Float32Array {
  const { mask } = c
  const entropy = c.has('entropy') ? known(c, 'entropy') : c.entropy
  const counted = mask === undefined ? entropy : unmasked(entropy, mask)
  if (counted.length === 0) return new Float32Array(entropy.length)
  // In float32, as the entropies are: an interpolation between equal places must not pass them by a digit of float64.
  const threshold = Math.fround(quantile(counted, 1 - share))
  return float32Map(entropy, (h, t) => (h >= threshold || (Number.isNaN(h) && mask?.[t] !== 0) ? 1 : 0))
}

/**
 * The weights of a method with a correction. Importance weights that stand alone are made where the policy lies.
 *
 * @param onHost  whether somebody looks at the weights
 */
export function correctedWeights(c: Context, correction: Correction, own: Weights = {}, onHost = false): Weights {
  const others = [
    own.weight as Float32Array | undefined,
    correction.offPolicy === undefined ? undefined : onPolicy(c, correction.offPolicy),
    (correction.topEntropy ?? 1) === 1 ? undefined : topEntropy(c, correction.topEntropy as number),
  ].filter((factor) => factor !== undefined)
  const masks = [own.mask, ...(correction.reject ?? []).map((one) => accepted(c, one))].filter((x) => x !== undefined)
  const mask = allOf(masks)
  if (correction.importance === undefined) return { ...own, weight: product(others), mask }
  const engine = importance(c, correction.importance, onHost || others.length > 0)
  if (isDeviceArray(engine)) return { ...own, weight: engine, mask }
  return { ...own, weight: product(own.weight === undefined ? [engine, ...others] : [others[0] as Float32Array, engine, ...others.slice(1)]), mask } // biome-ignore format: one product
}

/** What a correction looks at on the host beside the method. */
function correctedReads({ reads: { step = [], update = [] } = {}, weights }: AnyRecipe, correction: Correction): Reads {
  const { importance, reject = [], offPolicy, topEntropy = 1 } = correction
  const isAlone = weights === undefined && offPolicy === undefined && topEntropy === 1
  const looks = reject.length > 0 || (importance !== undefined && !isAlone)
  const engine = looks ? ['mask', 'oldLogp', 'rolloutLogp'] : []
  const drift = offPolicy === undefined ? [] : ['mask', 'oldLogp', 'rolloutLogp', 'logp']
  const quantile = topEntropy === 1 ? [] : ['mask', 'entropy']
  return { step, update: [...update, ...engine, ...drift, ...quantile] }
}

function check(method: string, { importance, reject = [], offPolicy, topEntropy }: Correction): void {
  const wrong = (name: string, value: unknown, expected: string) =>
    grpoError('option', method, name, `is ${String(value)}, expected ${expected}`)
  if (importance !== undefined) checkImportance(method, importance)
  if (!Array.isArray(reject)) throw wrong('reject', reject, 'a list of { statistic, low, high }')
  for (const one of reject) {
    checkNames(method, one, ['statistic', 'low', 'high'], 'field of reject')
    const { statistic: name, low, high } = one as Rejection
    const [, level, kind] = statistic.exec(name) ?? []
    if (typeof name !== 'string' || kind === undefined || (level === 'seq_max' && kind === 'k1')) {
      throw wrong('reject.statistic', name, 'token_, seq_sum_ or seq_mean_ with k1, k2, k3, or seq_max_ with k2, k3')
    }
    if (kind !== 'k1' && low !== undefined) throw wrong('reject.low', low, `none: ${name} has an upper bound only`)
    if (typeof high !== 'number') throw wrong('reject.high', high, 'a number > 0')
    checkBounds(method, 'reject', one)
    if (kind === 'k1' && low === undefined && high < 1) {
      throw wrong('reject.high', high, 'at least 1 without low, which is then 1 / high')
    }
  }
  if (offPolicy !== undefined && !Number.isFinite(offPolicy)) throw wrong('offPolicy', offPolicy, 'a number')
  if (topEntropy !== undefined && !(typeof topEntropy === 'number' && topEntropy > 0 && topEntropy <= 1)) {
    throw wrong('topEntropy', topEntropy, 'a share: > 0, at most 1')
  }
}

/** A method whose `weights` are corrected. */
export type Corrected<R extends AnyRecipe> = Omit<R, 'weights' | 'objective'> & Pick<AnyRecipe, 'weights' | 'objective'>

/**
 * The same method with corrections: its weights multiplied, its mask narrowed. Weights multiply the policy term alone
 * and leave the denominators; what is rejected is masked, and counts in none. Nothing of it carries a gradient. The
 * method's own weights, the mean of rollouts in `offPolicy`, and the quantile of `topEntropy` are those before rejection:
 * so are fipo's influence of later tokens and the share of clipCov. A loss of its own (klCov, real, pairs) is that after it.
 * Weights and rejection that come from oldLogp and rolloutLogp are computed for the first update on a prepared batch, and
 * kept for those after it: these columns are not to change in between. A state knows nothing of a correction, which
 * changes no reward, advantage or selection: it fits the method with, without, and with another one.
 *
 * @param recipe      as recipes.NAME(options) made it
 * @param correction  what to apply; all of it together, if there is more than one
 * @returns a method for prepareStep and optimizationStep, which also asks for rolloutLogp or entropy where it needs it
 * @throws RangeError for a correction that is out of range, or, in the step, for weights where the method's own loss
 *         takes none, and for NaN in the rolloutLogp, oldLogp or entropy that it reads of a token that the mask counts; with
 *         a policy on a device such a NaN is not looked for, and makes the loss NaN
 */
export function withCorrection<R extends AnyRecipe>(recipe: R, correction: Correction): Corrected<R> {
  const method: AnyRecipe = checkRecipe(recipe, 'withCorrection')
  checkNames(method.name, correction, ['importance', 'reject', 'offPolicy', 'topEntropy'], 'correction')
  check(method.name, correction)
  const weighted =
    correction.importance ?? correction.offPolicy ?? (correction.topEntropy === 1 ? undefined : correction.topEntropy)
  const { objective } = method
  const checked: AnyRecipe['objective'] =
    typeof objective !== 'function'
      ? objective
      : (c) => {
          const result = objective(c)
          if (!('gradLogp' in result) || weighted === undefined) return result
          const problem = 'has weights, which the loss of this method does not take: only reject applies'
          throw grpoError('option', method.name, 'correction', problem)
        }
  const corrected = {
    ...method,
    reads: correctedReads(method, correction),
    weights: (c: Context) => correctedWeights(c, correction, method.weights?.(c)),
    ...(objective !== undefined && { objective: checked }),
  }
  return Object.freeze(corrected) as unknown as Corrected<R>
}
