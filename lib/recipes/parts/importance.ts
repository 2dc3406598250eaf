// Importance weights of the trainer over the inference engine: of which ratio they are, what becomes of one that is outside
// of its bounds, and a gate by another ratio.
import { grpoError } from '../../addon/errors.js'
import { type DeviceArray, isDeviceArray } from '../../arrays/device_memory.js'
import { checkNames } from '../../call/run.js'
import { type ImportanceLevel, type ImportanceWeightInputs, importanceWeight } from '../../importance_weight.js'
import type { Context } from '../step/context.js'
import { oncePerSample } from './once_per_batch.js'
import { enginePair } from './rejection.js'

/** What becomes of a weight outside of its bounds: it is cut to the nearer one, or 0. */
export type OutsideBounds = 'bound' | 'zero'

interface Bounds {
  readonly low?: number | null
  readonly high?: number | null
}

/** Weight 0 for all tokens whose ratio of this level is outside of the bounds, which are those of the weight by default. */
export interface ImportanceGate extends Bounds {
  readonly level: ImportanceLevel
}

interface Form {
  readonly level: ImportanceLevel
  readonly outside?: OutsideBounds
  readonly gate?: ImportanceGate
}

/**
 * The names of the forms in use.
 *
 *   TRL        the first four by their names, high 3
 *   verl       token and sequence with one threshold: *_truncate, high 2; with "low_high" (IcePop): *_mask
 *   OpenRLHF   tis: token_truncate; icepop: token_mask; seq-mask-tis: token_gate; each low 0.5, high 5
 *   NeMo-RL    the same three names, with bounds of the user
 *   slime      use_tis: token_truncate, low 0, high 2
 *
 * The seq-mask-tis of both multiplies by ratios that nothing cuts: token_gate_truncate cuts them as tis does.
 */
const modes = {
  token_truncate: { level: 'token', outside: 'bound' },
  token_mask: { level: 'token', outside: 'zero' },
  sequence_truncate: { level: 'sequence', outside: 'bound' },
  sequence_mask: { level: 'sequence', outside: 'zero' },
  sequence_mean_truncate: { level: 'sequence_mean', outside: 'bound' },
  sequence_mean_mask: { level: 'sequence_mean', outside: 'zero' },
  token_gate: { level: 'token', gate: { level: 'sequence_mean' } },
  token_gate_truncate: { level: 'token', outside: 'bound', gate: { level: 'sequence_mean' } },
} as const satisfies Record<string, Form>
export type ImportanceMode = keyof typeof modes

/** A mode by its name; or its parts: `outside`, `gate`, or both. `low`: none by default, `high`: 3; null is none. */
export type Importance = Bounds & { readonly normalize?: boolean } & (
    | ({ readonly mode: ImportanceMode } & { readonly [part in keyof Form]?: undefined })
    | ({ readonly mode?: undefined } & Form)
  )

const formOf = ({ mode, level, outside, gate }: Importance): Form =>
  mode === undefined ? { level, ...(outside && { outside }), ...(gate && { gate }) } : modes[mode]

/**
 * [T] the weights, 0 under the mask, where the policy lies: of every update anew on a device, which belong to the step. Logs are held within ±20, as in verl, of a rollout after the sum; TRL does not, which
 * shows below 2e-9 and, where nothing is cut, beyond 5e8.
 */
export function importance(c: Context, options: Importance, onHost = false): Float32Array | DeviceArray {
  const { low = null, high = 3, normalize = false } = options
  const { level, outside, gate } = formOf(options)
  const { low: gateLow = low, high: gateHigh = high } = gate ?? {}
  const parts = { level, outside: outside ?? ('none' as const) }
  const whole = { ...parts, low, high, gate: gate?.level ?? null, gateLow, gateHigh, normalize }
  const sampled = onHost || !c.has('oldLogp') ? undefined : c.at('oldLogp')
  if (isDeviceArray(sampled)) {
    const there = { oldLogp: sampled, rolloutLogp: c.at('rolloutLogp'), mask: c.at('mask') }
    const inputs = { ...there, sequenceStart: c.sequenceStart } as ImportanceWeightInputs
    return importanceWeight(inputs, { ...whole, out: { mask: null, stats: null } }).weight as unknown as DeviceArray
  }
  return oncePerSample(
    c,
    `importance ${JSON.stringify(whole)}`,
    () => importanceWeight(enginePair(c), { ...whole, out: { mask: null, stats: null } }).weight.data,
  )
}

const levels = ['token', 'sequence', 'sequence_mean']

const isBound = (x: unknown) => typeof x === 'number' && Math.abs(Math.fround(x)) < Infinity

/** Throws for bounds that are none; `name` says whose. */
export function checkBounds(method: string, name: string, { low, high }: Bounds): void {
  const wrong = (bound: string, value: unknown, expected: string) =>
    grpoError('option', method, `${name}.${bound}`, `is ${String(value)}, expected ${expected}`)
  if (low !== undefined && low !== null && !(isBound(low) && low >= 0 && low <= (high ?? low))) {
    throw wrong('low', low, `a number from 0 to ${name}.high that float32 can hold`)
  }
  if (high !== undefined && high !== null && !(isBound(high) && high > 0)) {
    throw wrong('high', high, 'a number > 0 that float32 can hold')
  }
}

/** Throws for what is no form of weights. */
export function checkImportance(method: string, given: Importance): void {
  const wrong = (name: string, value: unknown, expected: string) =>
    grpoError('option', method, `importance.${name}`, `is ${String(value)}, expected ${expected}`)
  checkNames(method, given, ['mode', 'level', 'outside', 'gate', 'low', 'high', 'normalize'], 'field of importance')
  const { mode, level, outside, gate, low, high = 3, normalize } = given
  if (normalize !== undefined && typeof normalize !== 'boolean') throw wrong('normalize', normalize, 'true or false')
  if (level === undefined && !Object.keys(modes).includes(mode as string)) {
    throw wrong('mode', mode, `one of ${Object.keys(modes).join(', ')}; or level in its place`)
  }
  checkBounds(method, 'importance', { low: low ?? null, high })
  if (level === undefined) {
    const part = outside === undefined ? 'gate' : 'outside'
    if (given[part] === undefined) return
    throw wrong(part, given[part], 'none: the mode says it; level, outside and gate are in place of a mode')
  }
  if (mode !== undefined) throw wrong('mode', mode, 'none: level is given in its place')
  if (!levels.includes(level)) throw wrong('level', level, `one of ${levels.join(', ')}`)
  if (outside === undefined && gate === undefined) throw wrong('outside', outside, 'bound or zero, or a gate beside it')
  if (outside !== undefined && outside !== 'bound' && outside !== 'zero') throw wrong('outside', outside, 'bound or zero') // biome-ignore format: one text
  if (gate === undefined) return
  checkNames(method, gate, ['level', 'low', 'high'], 'field of importance.gate')
  if (!levels.includes(gate.level)) throw wrong('gate.level', gate.level, `one of ${levels.join(', ')}`)
  const { low: gateLow = low ?? null, high: gateHigh = high } = gate
  checkBounds(method, 'importance.gate', { low: gateLow, high: gateHigh })
}
