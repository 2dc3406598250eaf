import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { d3s } from '../../../lib/recipes/methods/d3s.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { starts } from '../masked.js'

const places = (mask: ArrayLike<number>) => Array.from(mask).flatMap((kept, i) => (kept ? [i] : []))
const variance = (x: number[]) => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length
  return x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length
}
/** One token per rollout. */
const single = (rewards: number[], groupStart: number[]) => ({
  rewards,
  groupStart,
  sequenceStart: [...rewards.keys(), rewards.length],
  entropy: new Float32Array(rewards.length).fill(1),
})
const solved = (successes: number) => Array.from({ length: 8 }, (_, i) => Number(i < successes))
const four = { ...single([1, 4, 8, 7].flatMap(solved), [0, 8, 16, 24, 32]), progress: 0 }
const constant = (rollouts: number, tokens = 1) => ({
  rolloutsStart: rollouts,
  rolloutsEnd: rollouts,
  tokensStart: tokens,
  tokensEnd: tokens,
})

golden('d3s', 'advantages', (check) => {
  const few = Array(7).fill(0.353552390596)
  check.float32(prepareStep(d3s(), four).advantage!, [
    2.474866734173, ...few.map((a) => -a), ...solved(4).map((r) => (r ? 0.935412596697 : -0.935412596697)),
    ...Array(8).fill(0), ...few, -2.474866734173,
  ]) // biome-ignore format: a table
})

golden('d3s', 'rollouts across the groups', (check) => {
  const kept = (rollouts: number) => {
    const prepared = prepareStep(d3s(constant(rollouts)), four)
    return { at: places(prepared.rollouts), a: places(prepared.rollouts).map((i) => prepared.advantage![i]!) }
  }
  const one = kept(1)
  check.float32(one.a, [2.474866734173, 0.935412596697, -0.935412596697, -2.474866734173])
  check.float32(variance(one.a), 3.499981038986847)
  const two = kept(2)
  expect(two.at).toEqual([0, 8, 9, 10, 12, 13, 14, 31])
  check.float32(variance(two.a), 2.1874888825229104)
})

golden('d3s', 'rollouts of each group', (check) => {
  const prepared = prepareStep(d3s({ ...constant(2), rolloutScope: 'group' }), four)
  const variances = [0, 1, 2, 3].map((g) => {
    const at = places(prepared.rollouts).filter((i) => i >> 3 === g)
    expect(at.length).toBe(2)
    return variance(at.map((i) => prepared.advantage![i]!))
  })
  check.float32(variances, [1.9999886863395007, 0.8749967260589739, 0, 1.9999886863395007])
})

golden('d3s', 'tokens', (check) => {
  // Two rollouts of three tokens, the last of the second one is padding; the entropies come from the logits.
  const p = [[0.7, 0.2, 0.1], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01], [0.5, 0.5, 0], [0.9, 0.05, 0.05], [1, 0, 0]] // biome-ignore format: a table
  const batch = {
    rewards: [1, 0],
    advantage: [1.5, -0.5],
    groupStart: [0, 2],
    sequenceStart: [0, 3, 6],
    mask: [1, 1, 1, 1, 1, 0],
    token: [0, 0, 0, 0, 0, 0],
    logits: { dtype: 'f32' as const, shape: [6, 3], data: Float32Array.from(p.flat(), Math.log) },
    progress: 0,
  }
  const step = optimizationStep(d3s({ ...constant(2), rolloutScope: 'group' }), batch)
  check.float32(step.entropy!.subarray(0, 5), [0.801818552543, 1.098512617051, 0.111902056891, Math.LN2, 0.394397691447]) // biome-ignore format: short
  const kept = (tokens: number) => places(prepareStep(d3s(constant(2, tokens)), batch).mask!)
  check.float64(kept(0.4), [0, 1])
  check.float64(kept(0.6), [0, 1, 3])
  // The scores are ordered as the ranking takes tokens away, down to the last one.
  expect([0.2, 0.4, 0.6, 0.8, 1].map((K) => kept(K).length)).toEqual([1, 2, 3, 4, 5])
  expect(kept(0.8)).toEqual([0, 1, 3, 4])
})

golden('d3s', 'the schedule', (check) => {
  const ends = { rolloutsStart: 4, rolloutsEnd: 16, tokensStart: 0.2, tokensEnd: 1 } as const
  const { schedule } = d3s(ends).sample
  check.float64([0.25, 0.5].map((p) => schedule(p).rollouts), [7, 10]) // biome-ignore format: short
  check.float64([0.25, 0.5].map((p) => schedule(p).tokens), [0.4, 0.6]) // biome-ignore format: short
  // The same from the batch: a group of 16 with ten tokens each.
  const { uniforms } = random(3)
  const batch = {
    rewards: Array.from({ length: 16 }, (_, i) => i),
    groupStart: [0, 16],
    sequenceStart: starts(Array(16).fill(10)),
    entropy: uniforms(160),
  }
  for (const [progress, rollouts, tokens] of [
    [0.25, 7, 28],
    [0.5, 10, 60],
  ] as const) {
    // biome-ignore format: a table
    const prepared = prepareStep(d3s(ends), { ...batch, progress })
    check.float64(places(prepared.rollouts).length, rollouts)
    check.float64(places(prepared.mask!).length, tokens)
  }
})

edge('d3s', 'the selection is the subset of largest variance, by exhaustive search', () => {
  const { integer, uniform } = random(7)
  for (let run = 0; run < 40; run++) {
    const rewards = Array.from({ length: 8 }, () => (run % 2 ? integer(3) : uniform()))
    const { rollouts, advantage } = prepareStep(d3s(constant(2)), { ...single(rewards, [0, 3, 8]), progress: 0 })
    const subsets = Array.from({ length: 256 }, (_, bits) => [...rewards.keys()].filter((i) => (bits >> i) & 1))
    const best = Math.max(...subsets.filter((s) => s.length === 4).map((s) => variance(s.map((i) => advantage![i]!))))
    const kept = places(rollouts)
    expect(kept.length).toBe(4)
    expect(variance(kept.map((i) => advantage![i]!))).toBeGreaterThanOrEqual(best * (1 - 1e-6))
  }
})

edge('d3s', 'tokens within each rollout', () => {
  const batch = {
    rewards: [3, 0],
    groupStart: [0, 2],
    sequenceStart: [0, 3, 5],
    entropy: Float32Array.of(1, 3, 2, 0.1, 0.2),
    progress: 0,
  }
  expect(places(prepareStep(d3s({ ...constant(2, 0.5), tokenScope: 'sequence' }), batch).mask!)).toEqual([1, 2, 4])
  expect(places(prepareStep(d3s(constant(2, 0.5)), batch).mask!)).toEqual([0, 1, 2])
})

edge('d3s', 'the denominator is the kept tokens, or all', () => {
  const batch = {
    ...fixture,
    advantage: [1, -1],
    groupStart: [0, 2],
    entropy: new Float32Array(8).fill(1),
    progress: 0,
  }
  const kept = optimizationStep(d3s(constant(2, 0.3)), batch)
  const all = optimizationStep(d3s({ ...constant(2, 0.3), denominator: 'all' }), batch)
  expect(places(kept.mask!).length).toBe(3)
  expect(all.loss).toBeCloseTo((kept.loss * 3) / 7, 6)
})

edge('d3s', 'all advantages 0, or everything masked: no token, loss 0, gradient 0', () => {
  const batch = { ...fixture, groupStart: [0, 2], entropy: new Float32Array(8).fill(1), progress: 1 }
  for (const more of [{ rewards: [1, 1] }, { rewards: [1, 0], mask: new Uint8Array(8) }]) {
    const step = optimizationStep(d3s(), { ...batch, ...more })
    expect(places(step.mask!)).toEqual([])
    expect(step.loss).toBe(0)
    expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
  }
})

edge('d3s', 'groups of one, empty groups and rejected rollouts', () => {
  const batch = { ...single([1, 0, 1, 0], [0, 1, 1, 4]), rolloutMask: [1, 1, 1, 0], progress: 1 }
  const prepared = prepareStep(d3s(), batch)
  expect(prepared.advantage![0]).toBe(0)
  expect(places(prepared.rollouts)).toEqual([0, 1, 2])
  expect(places(prepared.mask!)).toEqual([0, 1, 2])
})

edge('d3s', 'without progress the steps count, also after a restart', () => {
  const recipe = d3s({ steps: 2 })
  const { progress, ...batch } = four
  const counts: number[] = []
  let state: ReturnType<typeof prepareStep<typeof recipe>>['state'] | undefined
  for (let step = 0; step < 4; step++) {
    const prepared = prepareStep(recipe, batch, state)
    counts.push(places(prepared.rollouts).length)
    state = fromJSON(recipe, toJSON(prepared.state!))
  }
  expect(counts).toEqual([8, 20, 32, 32])
  expect(state!.data).toEqual({ step: 4 })
})

edge('d3s', 'a missing column', () => {
  const { progress, entropy, ...batch } = four
  expect(() => prepareStep(d3s(), { ...batch, entropy })).toThrow('d3s: progress is missing from the batch, expected')
  expect(() => prepareStep(d3s(), { ...batch, progress: 2 })).toThrow('d3s: progress is 2, expected 0 to 1')
  expect(() => prepareStep(d3s(), { ...batch, progress })).toThrow('d3s: entropy is missing from the batch')
  const tokenAdvantage = new Float32Array(32)
  expect(() => prepareStep(d3s(), { ...four, tokenAdvantage })).toThrow('d3s: tokenAdvantage is given')
})
