// Corrections of any method for what lies between the policy that sampled and the one that is trained: importance
// weights of the trainer over the inference engine, rejection (rejection.ts), the off-policy mask, the entropy quantile.
import { grpoError } from '../../addon/errors.js'
import { checkNames } from '../../call/run.js'
import { moments } from '../../moments.js'
import type { Context } from '../step/context.js'
import { type AnyRecipe, checkRecipe, type Weights } from '../step/recipe.js'
import { allOf, difference, float32Map, product, unmasked } from './map_tokens.js'
import { oncePerSample } from './once_per_batch.js'
import { tokenCounts } from './pairs.js'
import { accepted, engineLogRatio, perSequence, perToken, type Rejection, statistic, within } from './rejection.js'
import { quantile } from './statistics.js'
import { tokenAdvantages } from './tokens.js'

/**
 * Of each mode: whose ratio the weight is, whose ratio is held against [low, high], and what becomes of one outside.
 * `sequence` is the product over the tokens of a rollout, `sequence_mean` the geometric mean.
 *
 *   TRL        the first four by their names, high 3
 *   verl       token and sequence with one threshold: *_truncate, high 2; with "low_high" (IcePop): *_mask
 *   OpenRLHF   tis: token_truncate; icepop: token_mask; seq-mask-tis: token_gate; each low 0.5, high 5
 *   NeMo-RL    the same three names, with bounds of the user
 *   slime      use_tis: token_truncate, low 0, high 2
 */
const modes = {
  token_truncate: { weight: 'token', bounded: 'token', outside: 'bound' },
  token_mask: { weight: 'token', bounded: 'token', outside: 'zero' },
  sequence_truncate: { weight: 'sequence', bounded: 'sequence', outside: 'bound' },
  sequence_mask: { weight: 'sequence', bounded: 'sequence', outside: 'zero' },
  token_gate: { weight: 'token', bounded: 'sequence_mean', outside: 'zero' },
} as const
type Level = (typeof modes)[keyof typeof modes]['weight' | 'bounded']
export type ImportanceMode = keyof typeof modes

export interface Correction {
  /** Multiplies the policy term by exp(oldLogp - rolloutLogp), as the table of modes says. low: none, high: 3. */
  readonly importance?: { mode: ImportanceMode; low?: number | null; high?: number | null; normalize?: boolean }
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

/** [T] the logs of the ratios of a level. */
function logsOf(c: Context, level: Level): Float32Array {
  const d = engineLogRatio(c)
  return level === 'token' ? d : perToken(c, perSequence(c, d, level === 'sequence_mean'))
}

/**
 * The ratio of a log within ±20, as in verl, for a rollout after the sum. TRL does not clamp, which shows below 2e-9 and,
 * where nothing is cut, beyond 5e8.
 */
const ratioOf = (log: number) => Math.exp(within(log, -20, 20))

type Importance = NonNullable<Correction['importance']>

function importance(c: Context, options: Importance): Float32Array {
  const { mode, low, high, normalize } = options
  const name = `importance ${mode} ${low} ${high} ${normalize}`
  return oncePerSample(c, name, () => importanceNow(c, options))
}

function importanceNow(c: Context, { mode, low, high = 3, normalize }: Importance): Float32Array {
  const { weight, bounded, outside } = modes[mode]
  const logs = logsOf(c, weight)
  const others = bounded === weight ? undefined : logsOf(c, bounded)
  const [least, most] = [low ?? 0, high ?? Number.POSITIVE_INFINITY]
  const result = new Float32Array(logs.length)
  // The tokens of a rollout share their log: one exponential for all that follow each other with the same one.
  let [log, x, other, held] = [0, 1, 0, 1]
  for (let t = 0; t < result.length; t++) {
    if (logs[t] !== log) x = ratioOf((log = logs[t] as number))
    if (others === undefined) held = x
    else if (others[t] !== other) held = ratioOf((other = others[t] as number))
    if (held >= least && held <= most) result[t] = x
    else if (outside === 'bound') result[t] = within(x, least, most)
  }
  if (!normalize) return result
  const rollouts = () =>
    moments({ x: perSequence(c, result, true), mask: Uint8Array.from(tokenCounts(c), (n) => (n > 0 ? 1 : 0)) })
  const { mean } = weight === 'token' ? moments({ x: result, mask: c.mask }) : rollouts()
  return mean === 0 ? result : float32Map(result, (x) => x / mean)
}

function onPolicy(c: Context, threshold: number): Float32Array {
  const sampled = c.has('rolloutLogp') ? c.rolloutLogp : c.oldLogp
  const drift = perToken(c, perSequence(c, difference(sampled, c.logp), true))
  const advantage = tokenAdvantages(c)
  return float32Map(drift, (x, t) => ((advantage[t] as number) >= 0 || x <= threshold ? 1 : 0))
}

function topEntropy({ entropy, mask }: Context, share: number): Float32Array {
  const counted = mask === undefined ? entropy : unmasked(entropy, mask)
  if (counted.length === 0) return new Float32Array(entropy.length)
  // In float32, as the entropies are: an interpolation between equal places must not pass them by a digit of float64.
  const threshold = Math.fround(quantile(counted, 1 - share))
  return float32Map(entropy, (h) => (h >= threshold ? 1 : 0))
}

/** The weights of a method with a correction. */
export function correctedWeights(c: Context, correction: Correction, own: Weights = {}): Weights {
  const factors = [
    own.weight,
    correction.importance && importance(c, correction.importance),
    correction.offPolicy === undefined ? undefined : onPolicy(c, correction.offPolicy),
    (correction.topEntropy ?? 1) === 1 ? undefined : topEntropy(c, correction.topEntropy as number),
  ].filter((factor) => factor !== undefined)
  const masks = [own.mask, ...(correction.reject ?? []).map((one) => accepted(c, one))].filter((x) => x !== undefined)
  return { ...own, weight: product(factors), mask: allOf(masks) }
}

function check(method: string, { importance, reject = [], offPolicy, topEntropy }: Correction): void {
  const wrong = (name: string, value: unknown, expected: string) =>
    grpoError('option', method, name, `is ${String(value)}, expected ${expected}`)
  const bounds = (name: string, low: number | null | undefined, high: number | null | undefined) => {
    if (low !== undefined && low !== null && !(low >= 0 && low <= (high ?? low))) {
      throw wrong(`${name}.low`, low, `a number from 0 to ${name}.high`)
    }
    if (high !== undefined && high !== null && !(Number.isFinite(high) && high > 0)) {
      throw wrong(`${name}.high`, high, 'a number > 0')
    }
  }
  if (importance !== undefined) {
    if (!Object.keys(modes).includes(importance.mode)) {
      throw wrong('importance.mode', importance.mode, `one of ${Object.keys(modes).join(', ')}`)
    }
    bounds('importance', importance.low, importance.high === undefined ? 3 : importance.high)
  }
  if (!Array.isArray(reject)) throw wrong('reject', reject, 'a list of { statistic, low, high }')
  for (const { statistic: name, low, high } of reject) {
    const [, level, kind] = statistic.exec(name) ?? []
    if (kind === undefined || (level === 'seq_max' && kind === 'k1')) {
      throw wrong('reject.statistic', name, 'token_, seq_sum_ or seq_mean_ with k1, k2, k3, or seq_max_ with k2, k3')
    }
    if (kind !== 'k1' && low !== undefined) throw wrong('reject.low', low, `none: ${name} has an upper bound only`)
    if (typeof high !== 'number') throw wrong('reject.high', high, 'a number > 0')
    bounds('reject', low, high)
    if (kind === 'k1' && low === undefined && high < 1) {
      throw wrong('reject.high', high, 'at least 1 without low, which is then 1 / high')
    }
  }
  if (offPolicy !== undefined && !Number.isFinite(offPolicy)) throw wrong('offPolicy', offPolicy, 'a number')
  if (topEntropy !== undefined && !(topEntropy > 0 && topEntropy <= 1)) {
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
 * kept for those after it: these columns are not to change in between.
 *
 * @param recipe      as recipes.NAME(options) made it
 * @param correction  what to apply; all of it together, if there is more than one
 * @returns a method for prepareStep and optimizationStep, which also asks for rolloutLogp or entropy where it needs it
 * @throws RangeError for a correction that is out of range, or, in the step, for weights where the method's own loss
 *         takes none
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
    weights: (c: Context) => correctedWeights(c, correction, method.weights?.(c)),
    ...(objective !== undefined && { objective: checked }),
  }
  return Object.freeze(corrected) as unknown as Corrected<R>
}
