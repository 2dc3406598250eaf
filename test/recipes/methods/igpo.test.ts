import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { igpo } from '../../../lib/recipes/methods/igpo.js'
import { random } from '../../support/random.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const rewards = [3.5, 3.5, 3.5, 3.5, 0.5, 0.5, 0.5, 0.5]
const one = {
  rewards,
  correct: rewards.map((r) => Number(r > 3)),
  groupStart: [0, 8],
  sequenceStart: [0, 1, 2, 3, 4, 5, 6, 7, 8],
  inpainted: Array(8).fill(0) as number[],
}

golden('igpo', 'advantages', (check) => {
  check.float32(prepareStep(igpo(), one).advantage!, [1.5, 1.5, 1.5, 1.5, -1.5, -1.5, -1.5, -1.5])
})

edge('igpo', 'of n hint tokens the floor(n / 5) with the highest entropy are trained, at least one', () => {
  // Rollouts of 11, 4 and 2 tokens with 10, 4 and 0 hints.
  const entropy = Float32Array.of(0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5, 0.55, 9, 1, 2, 3, 2.5, 0.1, 0.2)
  const batch = {
    rewards: [1, 0, 0],
    correct: [1, 0, 0],
    groupStart: [0, 3],
    sequenceStart: [0, 11, 15, 17],
    inpainted: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0],
    entropy,
  }
  const kept = (mask?: number[]) => Array.from(prepareStep(igpo(), mask ? { ...batch, mask } : batch).mask!)
  expect(kept()).toEqual([0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 1])
  // Positions that were not noised are no candidates and are not trained: 9 hints are left, so one is kept.
  const noised = batch.inpainted.map((_, t) => Number(t !== 1 && t !== 13))
  expect(kept(noised)).toEqual([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1])
})

edge('igpo', 'of equal entropies the first are kept, also where all are 0', () => {
  const batch = { rewards: [1], correct: [1], groupStart: [0, 1], sequenceStart: [0, 5], inpainted: [0, 1, 1, 1, 1] }
  const kept = (entropy: number[], hintShare: number) =>
    Array.from(prepareStep(igpo({ hintShare }), { ...batch, entropy: Float32Array.from(entropy) }).mask!)
  expect(kept([1, 0, 0, 0, 0], 0.2)).toEqual([1, 1, 0, 0, 0])
  expect(kept([1, 0, 0, 0.5, 0], 0.5)).toEqual([1, 1, 0, 1, 0])
})

edge('igpo', 'the loss divides by the tokens that are left', () => {
  const logp = new Float32Array(4).fill(-1)
  const batch = {
    rewards: [1, 0],
    correct: [1, 0],
    groupStart: [0, 2],
    sequenceStart: [0, 2, 4],
    inpainted: [1, 1, 0, 0],
    entropy: Float32Array.of(0.5, 0.6, 0.7, 0.8),
    logp,
    oldLogp: logp,
  }
  const { gradLogp } = optimizationStep(igpo({ klCoef: 0, ratio: 'token' }), batch)
  expect(Array.from(gradLogp!.data, Math.fround)).toEqual([0, -0.5 / 3, 0.5 / 3, 0.5 / 3].map(Math.fround))
})

edge('igpo', 'groups that are all wrong are inpainted', () => {
  const groups = { rewards: [0, 0, 1, 0, 0], correct: [0, 0, 1, 0, 0], groupStart: [0, 2, 4, 5, 5] }
  const batch = { ...groups, sequenceStart: [0, 1, 2, 3, 4, 5], inpainted: [0, 0, 0, 0, 0] }
  expect(prepareStep(igpo(), batch).sample).toEqual({ inpaint: [0, 2] })
  // A rejected rollout counts neither as right nor as wrong.
  const rejecting = { ...batch, rolloutMask: [1, 1, 0, 1, 0] }
  expect(prepareStep(igpo(), rejecting).sample).toEqual({ inpaint: [0, 1] })
})

edge('igpo', 'hint ratios rise within their range', () => {
  const ratios = igpo().sample.hintRatios(8, random(1).uniform)
  expect(ratios).toEqual([...ratios].sort((a, b) => a - b))
  expect(ratios.every((x) => x >= 0.2 && x < 0.6)).toBe(true)
  expect(new Set(ratios).size).toBe(8)
})

edge('igpo', 'chunks cover the solution without a tail that is too short', () => {
  const next = random(2).uniform
  for (let length = 0; length < 60; length++) {
    const chunks = igpo().sample.chunks(length, next)
    expect(chunks.map(({ begin }) => begin)).toEqual([0, ...chunks.map(({ end }) => end)].slice(0, chunks.length))
    expect(chunks.every(({ begin, end }) => end - begin >= 5 && end - begin <= 10)).toBe(true)
    expect(length - (chunks.at(-1)?.end ?? 0)).toBeLessThan(5)
  }
})

edge('igpo', 'hints: the right number of chunks, the last one always, stretched and within the room', () => {
  const { hints, chunks } = igpo().sample
  for (let seed = 0; seed < 50; seed++) {
    const all = chunks(100, random(seed).uniform) // the same draws as those of hints
    const list = hints(100, 256, 0.4, random(seed).uniform)
    const left = Math.floor(all.length * (1 - 0.4))
    const shown = list.map(({ begin, end }) => all.findIndex((x) => x.begin === begin && x.end === end))
    expect(shown).not.toContain(-1)
    expect(shown.at(-1)).toBe(all.length - 1)
    expect([all.length - left, all.length - left + 1]).toContain(list.length)
    let [before, place] = [0, 0]
    for (const hint of list) {
      expect(hint.place - place).toBe(Math.floor((hint.begin - before) * 1.5)) // (256 - 30) / 100 is above 1.5
      before = hint.end
      place = hint.place + hint.end - hint.begin
    }
  }
  expect(hints(100, 256, 0.4, random(7).uniform)).toEqual(hints(100, 256, 0.4, random(7).uniform))
})

edge('igpo', 'hints of a solution that is too long end with the room; no ratio, room or solution, no hints', () => {
  const { hints } = igpo().sample
  const list = hints(500, 90, 0.5, random(4).uniform)
  expect(list.every(({ begin, end, place }) => place + end - begin <= 60)).toBe(true)
  expect(list.length).toBeGreaterThan(1)
  const tight = igpo({ maxScale: 1.5, chunkLow: 5, chunkHigh: 5, freeEnd: 0 }).sample.hints(
    10,
    12,
    1,
    random(0).uniform,
  )
  expect(tight).toEqual([
    { begin: 0, end: 5, place: 0 },
    { begin: 5, end: 10, place: 5 },
  ])
  for (const [length, room, ratio] of [
    [100, 256, 0],
    [0, 256, 0.5],
    [100, 30, 0.5],
    [100, 20, 0.5],
  ] as const) {
    // biome-ignore format: a table
    expect(hints(length, room, ratio, random(0).uniform)).toEqual([])
  }
})

edge('igpo', 'chunks have every size from the shortest to the longest', () => {
  const all = igpo({ chunkLow: 5, chunkHigh: 8 }).sample.chunks(2000, random(3).uniform)
  const sizes = new Set(all.slice(0, -1).map(({ begin, end }) => end - begin))
  expect([...sizes].sort()).toEqual([5, 6, 7, 8])
})

edge('igpo', 'a gap is cut at the longest one', () => {
  const far = igpo({ maxSpacing: 3, chunkLow: 5, chunkHigh: 5 })
  for (let seed = 0; seed < 20; seed++) {
    const list = far.sample.hints(100, 256, 0.3, random(seed).uniform)
    const gaps = list.slice(1).map((hint, k) => hint.place - (list[k]!.place + 5))
    expect(Math.max(...gaps)).toBe(3)
  }
})

edge('igpo', 'right inpainted rollouts overwrite the first ones of the group', () => {
  const { replace } = igpo().sample
  const next = random(5).uniform
  expect(replace([0, 0, 0], next)).toEqual([])
  expect(replace([0, 1, 0, 1], next)).toEqual([
    { slot: 0, inpainted: 1 },
    { slot: 1, inpainted: 3 },
  ])
  const seen = new Set<number>()
  for (let i = 0; i < 100; i++) {
    const list = replace([1, 1, 1, 0, 1, 1, 1], next)
    expect(list.map(({ slot }) => slot)).toEqual([0, 1, 2, 3])
    expect(new Set(list.map(({ inpainted }) => inpainted)).size).toBe(4)
    for (const { inpainted } of list) seen.add(inpainted)
  }
  expect([...seen].sort()).toEqual([0, 1, 2, 4, 5, 6])
})

edge('igpo', 'a group of one, of equal rewards: advantage 0; everything masked: loss 0', () => {
  const batch = { ...fixture, rewards: [1, 0], correct: [1, 0], inpainted: new Uint8Array(8) }
  expect(Array.from(prepareStep(igpo(), batch).advantage!)).toEqual([0, 0])
  const equal = prepareStep(igpo(), { ...batch, groupStart: [0, 2], rewards: [0.5, 0.5] })
  expect(Array.from(equal.advantage!)).toEqual([0, 0])
  const step = optimizationStep(igpo(), { ...batch, mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('igpo', 'missing columns, hints without entropies, ranges that are upside down', () => {
  const { inpainted, ...without } = one
  expect(() => prepareStep(igpo(), without as never)).toThrow(
    'igpo: inpainted is missing from the batch, expected flag[T]',
  )
  expect(() => prepareStep(igpo(), { ...one, inpainted: Array(8).fill(1) })).toThrow('igpo: entropy is missing')
  expect(() => igpo({ hintLow: 0.7 })).toThrow('igpo: hintLow is 0.7, expected at most hintHigh')
  expect(() => igpo({ chunkLow: 11 })).toThrow('igpo: chunkLow is 11, expected at most chunkHigh')
})
