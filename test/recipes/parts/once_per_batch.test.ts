// What a correction keeps from one update to the next, and what it does not.
import { expect, test } from 'vitest'
import { columns } from '../../../examples/recipes/example_batch.js'
import { type AnyRecipe, prepareStep, presets, recipes } from '../../../lib/recipes/index.js'
import { type Correction, withCorrection } from '../../../lib/recipes/parts/corrections.js'

const float32 = (x: readonly number[]) => Float32Array.from(x)
const batch = () => ({
  ...columns,
  oldLogp: float32(columns.oldLogp),
  refLogp: float32(columns.refLogp),
  rolloutLogp: float32(columns.rolloutLogp),
  entropy: float32(columns.entropy),
})
const policies = [0, 0.1, -0.3].map((shift) => float32(columns.oldLogp.map((x, t) => x + shift * (t % 3))))
const grpo = recipes.grpo({ klCoef: 0 })
const corrections = {
  token_truncate: { importance: { mode: 'token_truncate', high: 1.02 } },
  sequence_mask: { importance: { mode: 'sequence_mask', low: 0.96 } },
  normalized: { importance: { mode: 'token_gate', low: 0.96, normalize: true } },
  gated: { importance: { level: 'sequence_mean', outside: 'bound', high: 1.01, gate: { level: 'token', high: 1.1 } } },
  rejected: { reject: [{ statistic: 'token_k1', high: 1.06 }, { statistic: 'seq_max_k2', high: 0.004 }] }, // biome-ignore format: one line
} as const satisfies Record<string, Correction>
const methods: Record<string, AnyRecipe> = {
  ...Object.fromEntries(Object.entries(corrections).map(([name, one]) => [name, withCorrection(grpo, one)])),
  vespo: recipes.vespo({ correction: 'token_mask', cap: 1.02 }),
  trl: presets.trl(),
}

test.each(Object.entries(methods))('%s: a later update has the weights of a first one', (_, method) => {
  const prepared = prepareStep(method, batch())
  for (const logp of policies) {
    const { weights, loss } = prepared.loss({ logp })
    const alone = prepareStep(method, batch()).loss({ logp })
    expect(weights).toEqual(alone.weights)
    expect(loss).toBe(alone.loss)
    // A result is the caller's: what is written into it must not reach the next update.
    for (const x of Object.values(weights)) (x as Float32Array | undefined)?.fill(0)
  }
})

test.each(Object.entries(methods))('%s: without oldLogp the weights follow the policy', (_, method) => {
  const { oldLogp: _old, ...rest } = batch()
  const prepared = prepareStep(method, rest)
  const found = policies.map((logp) => prepared.loss({ logp }).weights)
  expect(found).toEqual(policies.map((logp) => prepareStep(method, rest).loss({ logp }).weights))
  expect(found[2]).not.toEqual(found[0])
})

test.each(Object.entries(methods))('%s: weights are computed once', (_, method) => {
  const given = batch()
  const prepared = prepareStep(method, given)
  const [logp] = policies as [Float32Array]
  const { weights } = prepared.loss({ logp })
  given.rolloutLogp.fill(-9)
  expect(prepared.loss({ logp }).weights).toEqual(weights)
  expect(prepareStep(method, given).loss({ logp }).weights).not.toEqual(weights)
})

test('dcpo: the bounds come from oldLogp, and are computed once', () => {
  const given = { ...batch(), prompt: ['a', 'b'] }
  const prepared = prepareStep(recipes.dcpo(), given)
  const [first, second] = policies.map((logp) => prepared.loss({ logp }).weights)
  expect(second).toEqual(first)
  given.oldLogp.fill(-9)
  expect(prepared.loss({ logp: policies[0]! }).weights).toEqual(first)
  expect(prepareStep(recipes.dcpo({ epsHigh: 0.1 }), { ...batch(), prompt: ['a', 'b'] }).loss({ logp: policies[0]! }).weights.ratioHigh).not.toEqual(first!.ratioHigh) // biome-ignore format: short
})

test('two corrections of a kind keep their own weights', () => {
  const both = withCorrection(withCorrection(grpo, corrections.token_truncate), corrections.normalized)
  const prepared = prepareStep(both, batch())
  const [logp] = policies as [Float32Array]
  const of = (one: Correction) => prepareStep(withCorrection(grpo, one), batch()).loss({ logp }).weights.weight!
  const [first, second] = [of(corrections.token_truncate), of(corrections.normalized)]
  for (let update = 0; update < 2; update++) {
    expect(prepared.loss({ logp }).weights.weight).toEqual(first.map((w, t) => w * second[t]!))
  }
})

// What is kept is kept by name: each pair differs in one field, and the second has to find nothing of the first.
const reject = (statistic: 'token_k1' | 'token_k3' | 'seq_mean_k1', low: number | undefined, high: number): Correction => ({ reject: [{ statistic, high, ...(low !== undefined && { low }) }] }) // biome-ignore format: one line
const weight = (importance: object) => ({ importance }) as Correction
const gated = (gate: object) => weight({ level: 'token', outside: 'bound', high: 1.3, gate: { level: 'token', ...gate } }) // biome-ignore format: one line
const pairs: [string, Correction, Correction][] = [
  ['low of a rejection', reject('token_k1', 0.5, 1.06), reject('token_k1', 0.98, 1.06)],
  ['no low of a rejection', reject('token_k1', 0.5, 1.04), reject('token_k1', undefined, 1.04)],
  ['high of a rejection', reject('token_k1', 0.5, 1.06), reject('token_k1', 0.5, 1.02)],
  ['statistic of a rejection', reject('token_k1', undefined, 1.02), reject('seq_mean_k1', undefined, 1.02)],
  ['mode', weight({ mode: 'token_truncate', high: 1.02 }), weight({ mode: 'token_mask', high: 1.02 })],
  ['level', weight({ level: 'token', outside: 'bound' }), weight({ level: 'sequence', outside: 'bound' })],
  ['low', weight({ mode: 'token_mask', low: 0.5 }), weight({ mode: 'token_mask', low: 1 })],
  ['no low', weight({ mode: 'token_mask', low: 1 }), weight({ mode: 'token_mask' })],
  ['high', weight({ mode: 'token_mask', high: 3 }), weight({ mode: 'token_mask', high: 1.02 })],
  ['no high', weight({ mode: 'token_mask', high: 1.02 }), weight({ mode: 'token_mask', high: null })],
  ['normalize', weight({ mode: 'token_truncate' }), weight({ mode: 'token_truncate', normalize: true })],
  ['level of a gate', gated({ level: 'token', high: 1.02 }), gated({ level: 'sequence', high: 1.02 })],
  ['low of a gate', gated({ low: 0.5 }), gated({ low: 1 })],
  ['high of a gate', gated({ high: 1.3 }), gated({ high: 1.02 })],
]
test.each(pairs)('corrections that differ in one field: %s', (_, one, other) => {
  const logp = policies[0]!
  const of = (...list: Correction[]) =>
    prepareStep(list.reduce<AnyRecipe>(withCorrection, grpo), batch()).loss({ logp }).weights
  const [first, second] = [of(one), of(other)]
  expect(second).not.toEqual(first)
  for (const both of [of(one, other), of(other, one)]) {
    expect(both.weight).toEqual(first.weight?.map((w, t) => w * second.weight![t]!))
    expect(both.mask).toEqual(first.mask?.map((kept, t) => kept & second.mask![t]!))
  }
})

// Measured: 5 to 7 and 1.2 to 1.5 alone, 14 at first among all files on a loaded machine; 84 with an iterator over the tokens.
test('a correction of many tokens costs a few updates at first, and then next to nothing', () => {
  const [N, L] = [200, 1000]
  const near = (shift: number) => new Float32Array(N * L).map((_, t) => -1 - (t % 7) / 8 + shift * (t % 5))
  const given = {
    rewards: Array.from({ length: N }, (_, i) => i % 3),
    groupStart: Array.from({ length: N / 8 + 1 }, (_, g) => 8 * g),
    sequenceStart: Array.from({ length: N + 1 }, (_, i) => L * i),
    oldLogp: near(0),
    rolloutLogp: near(0.01),
  }
  const logp = near(0.002)
  const time = (run: () => void) => {
    const start = performance.now()
    run()
    return performance.now() - start
  }
  const plain = recipes.dapo()
  const corrected = withCorrection(plain, corrections.token_truncate)
  let [least, first, later] = [Infinity, Infinity, Infinity]
  for (let round = 0; round < 10; round++) {
    const [a, b] = [prepareStep(plain, given), prepareStep(corrected, given)]
    least = Math.min(least, time(() => a.loss({ logp }))) // biome-ignore format: short
    first = Math.min(first, time(() => b.loss({ logp }))) // biome-ignore format: short
    later = Math.min(later, time(() => b.loss({ logp }))) // biome-ignore format: short
  }
  expect(first).toBeLessThan(35 * least)
  expect(later).toBeLessThan(6 * least)
})
