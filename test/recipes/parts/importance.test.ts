// The forms of importance weights: whose ratio is the weight, whose closes the gate, what becomes of one outside.
import { expect, test } from 'vitest'
import { optimizationStep, recipes } from '../../../lib/recipes/index.js'
import { type Correction, withCorrection } from '../../../lib/recipes/parts/corrections.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

type Importance = NonNullable<Correction['importance']>
const grpo = recipes.grpo({ klCoef: 0 })
const stepOf = (importance: Importance, given: object = { ...fixture, advantage }) =>
  optimizationStep(withCorrection(grpo, { importance }), given as never)
const weightOf = (importance: Importance, given?: object) => stepOf(importance, given).weights.weight!

/** On-policy, with these ratios of the trainer over the engine: a rollout of each list, of advantage 1. */
function engine(...ratios: number[][]) {
  const logp = Float32Array.from(ratios.flat(), () => -5)
  const rolloutLogp = Float32Array.from(ratios.flat(), (r) => -5 - Math.log(r))
  const sequenceStart = ratios.reduce((all, list) => all.concat((all.at(-1) as number) + list.length), [0])
  return {
    logp,
    oldLogp: logp,
    rolloutLogp,
    sequenceStart,
    groupStart: [0, ratios.length],
    advantage: ratios.map(() => 1),
  }
}
const near = (x: ArrayLike<number>, expected: readonly number[]) => {
  expect(x.length).toBe(expected.length)
  expected.forEach((e, t) => expect(x[t], `[${t}]`).toBeCloseTo(e, 5))
}

golden('importance', 'the geometric means of rollouts', (check) => {
  const found = unmasked(weightOf({ mode: 'sequence_mean_truncate', low: 0, high: 1000 }))
  const [first, second] = [1.0033557298, 1.0081639426]
  check.float32(found, [first, first, first, second, second, second, second])
  const cut = unmasked(weightOf({ mode: 'sequence_mean_truncate', low: 1.005, high: 1.006 }))
  check.float32(cut, [1.005, 1.005, 1.005, 1.006, 1.006, 1.006, 1.006])
  const masked = unmasked(weightOf({ mode: 'sequence_mean_mask', low: 1.005, high: 1.01 }))
  check.float32(masked, [0, 0, 0, second, second, second, second])
})

test('a long rollout that is a little off everywhere: the mean of its ratios, not their product', () => {
  const T = 8000
  const ratios = Array.from({ length: T }, (_, t) => Math.exp(-4e-4 + (t % 2 ? 0.2 : -0.2)))
  const given = engine(ratios, [])
  for (const mode of ['sequence_mean_truncate', 'sequence_mean_mask'] as const) {
    const { loss, gradLogp, weights } = stepOf({ mode, high: 2 }, given)
    // Of two rollouts the one without tokens is not counted.
    expect(weights.weight![0], mode).toBeCloseTo(Math.exp(-4e-4), 6)
    expect(loss, mode).toBeCloseTo(-Math.exp(-4e-4), 6)
    expect(gradLogp!.data[1]! * T, mode).toBeCloseTo(-Math.exp(-4e-4), 6)
  }
  expect(weightOf({ mode: 'sequence_truncate', high: 2 }, given)[0]).toBeCloseTo(Math.exp(-3.2), 3)
})

test('a gate by the geometric mean, and the ratios that it lets through', () => {
  const given = engine([10, 0.1], [10, 2], [1.5, 0.1])
  // Geometric means 1, 4.5 and 0.39.
  const bounds = { low: 0.5, high: 5 }
  near(weightOf({ mode: 'token_gate', ...bounds }, given), [10, 0.1, 10, 2, 0, 0])
  near(weightOf({ mode: 'token_gate_truncate', ...bounds }, given), [5, 0.5, 5, 2, 0, 0])
  const { gradLogp } = stepOf({ mode: 'token_gate_truncate', ...bounds }, given)
  near(gradLogp!.data, [5, 0.5, 5, 2, 0, 0].map((w) => -w / 6)) // biome-ignore format: short
})

test('any gate beside any weight, each with its bounds', () => {
  const given = engine([10, 0.1], [10, 2], [1.5, 0.1])
  const gate = { level: 'sequence_mean', low: 0.9, high: 1.1 } as const
  near(weightOf({ level: 'token', outside: 'bound', low: 0.5, high: 5, gate }, given), [5, 0.5, 0, 0, 0, 0])
  near(weightOf({ level: 'token', outside: 'zero', low: 0.5, high: 10.5, gate }, given), [10, 0, 0, 0, 0, 0])
  near(weightOf({ level: 'token', gate }, given), [10, 0.1, 0, 0, 0, 0])
  near(weightOf({ level: 'sequence', outside: 'bound', high: 8, gate: { level: 'token', high: null } }, given), [1, 1, 8, 8, 0.15, 0.15]) // biome-ignore format: one line
  // A gate by tokens leaves those of a rollout out one by one; what it does not say is as for the weight.
  near(weightOf({ level: 'sequence_mean', outside: 'bound', low: 0.5, high: 5, gate: { level: 'token' } }, given), [0, 0, 0, Math.sqrt(20), 0.5, 0]) // biome-ignore format: one line
  near(weightOf({ level: 'sequence_mean', outside: 'zero', low: 0.5, gate: { level: 'token', low: null, high: null } }, given), [1, 1, 0, 0, 0, 0]) // biome-ignore format: one line
})

test('a mode is its parts', () => {
  const given = engine([10, 0.1], [10, 2], [1.5, 0.1])
  const bounds = { low: 0.5, high: 5 }
  const parts = {
    token_truncate: { level: 'token', outside: 'bound' },
    token_mask: { level: 'token', outside: 'zero' },
    sequence_truncate: { level: 'sequence', outside: 'bound' },
    sequence_mask: { level: 'sequence', outside: 'zero' },
    sequence_mean_truncate: { level: 'sequence_mean', outside: 'bound' },
    sequence_mean_mask: { level: 'sequence_mean', outside: 'zero' },
    token_gate: { level: 'token', gate: { level: 'sequence_mean' } },
    token_gate_truncate: { level: 'token', outside: 'bound', gate: { level: 'sequence_mean' } },
  } as const
  const seen = new Set<string>()
  for (const [mode, one] of Object.entries(parts)) {
    for (const normalize of [false, true]) {
      const named = weightOf({ mode: mode as keyof typeof parts, normalize, ...bounds }, given)
      expect(weightOf({ ...one, normalize, ...bounds }, given), mode).toEqual(named)
      if (!normalize) seen.add(String(named))
    }
  }
  expect(seen.size, 'all different').toBe(8)
})

edge('importance', 'geometric means divided by their mean: of rollouts, whatever their lengths', () => {
  const given = engine([2, 2, 2], [0.5], [])
  const weight = weightOf({ mode: 'sequence_mean_truncate', normalize: true }, given)
  near(weight, [1.6, 1.6, 1.6, 0.4])
})

edge('importance', 'what lies under the mask moves no mean and no gate', () => {
  const rolloutLogp = fixture.rolloutLogp.slice()
  rolloutLogp[3] = Number.NaN
  for (const mode of ['sequence_mean_truncate', 'sequence_mean_mask', 'token_gate_truncate'] as const) {
    const plain = stepOf({ mode, low: 0.95, high: 1.06 })
    const poisoned = stepOf({ mode, low: 0.95, high: 1.06 }, { ...fixture, advantage, rolloutLogp })
    expect(poisoned.loss).toBe(plain.loss)
    expect(poisoned.gradLogp).toEqual(plain.gradLogp)
  }
})

edge('importance', 'bounds that are not given are kept apart from those that are null', () => {
  const given = engine([100], [1])
  const once = (high: { high?: number | null }) => ({ importance: { mode: 'token_truncate', ...high } }) as const
  const plain = recipes.grpo({ klCoef: 0 })
  for (const [inner, outer] of [
    [{ high: null }, {}],
    [{}, { high: null }],
  ]) {
    const both = withCorrection(withCorrection(plain, once(inner!)), once(outer!))
    // 100 without a bound, times 3 with that of default.
    expect(optimizationStep(both, given as never).weights.weight![0]).toBeCloseTo(300, 3)
  }
})

edge('importance', 'what is no form is refused', () => {
  const refused = (importance: unknown) => () => withCorrection(grpo, { importance: importance as Importance })
  expect(refused({})).toThrow('grpo: importance.mode is undefined, expected one of token_truncate')
  expect(refused({ mode: 'token_gate', hihg: 2 })).toThrow('grpo: hihg is no field of importance of this operation')
  expect(refused({ mode: 'token_gate', level: 'token' })).toThrow('grpo: importance.mode is token_gate, expected none')
  expect(refused({ mode: 'token_gate', outside: 'bound' })).toThrow('grpo: importance.outside is bound, expected none')
  expect(refused({ mode: 'token_mask', gate: { level: 'token' } })).toThrow('grpo: importance.gate is')
  expect(refused({ level: 'group', outside: 'bound' })).toThrow(
    'grpo: importance.level is group, expected one of token',
  )
  expect(refused({ level: 'token' })).toThrow(
    'grpo: importance.outside is undefined, expected bound or zero, or a gate',
  )
  expect(refused({ level: 'token', outside: 'cut' })).toThrow('grpo: importance.outside is cut, expected bound or zero')
  const level = 'token'
  expect(refused({ level, gate: { level: 'batch' } })).toThrow('grpo: importance.gate.level is batch, expected one of')
  expect(refused({ level, gate: { level, low: 4 } })).toThrow(
    'grpo: importance.gate.low is 4, expected a number from 0',
  )
  expect(refused({ level, gate: { level, mean: true } })).toThrow('grpo: mean is no field of importance.gate')
  expect(() => withCorrection(grpo, { reject: [{ statistic: 'token_k2', high: 2, lwo: 1 } as never] })).toThrow(
    'grpo: lwo is no field of reject',
  )
})
