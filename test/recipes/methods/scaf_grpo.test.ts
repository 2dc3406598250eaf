import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { scafGrpo } from '../../../lib/recipes/methods/scaf_grpo.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const parts = {
  knowledge: ['k1', 'k2', 'k3', 'k4'],
  planning: ['p1', 'p2', 'p3', 'p4'],
  solution: ['s1', 's2', 's3', 's4'],
}

golden('scafGrpo', 'advantages of a group with one success, and of one without', (check) => {
  const rewards = [0, 0, 0, 0, 0, 0, 0, 1, ...Array(8).fill(0)]
  const { advantage } = prepareStep(scafGrpo(), { rewards, groupStart: [0, 8, 16] })
  check.float32(advantage!, [...Array(7).fill(-0.353552390596), 2.47486673417, ...Array(8).fill(0)])
  const [G, exact] = [8, Array.from(advantage!)]
  expect(Math.abs(exact[7]! - (G - 1) / Math.sqrt(G))).toBeLessThan(1e-5)
})

edge('scafGrpo', 'hints build up within a tier: 12 levels in the paper, 8 in the released code', () => {
  const levels = scafGrpo().sample.levels(parts)
  expect(levels.map(({ level }) => level)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  expect(levels[1]).toEqual({ level: 2, tier: 'knowledge', hint: 'k1 k2' })
  expect(levels[4]).toEqual({ level: 5, tier: 'planning', hint: 'p1' })
  const code = scafGrpo({ planning: false }).sample.levels(parts)
  expect(code.map(({ hint }) => hint)).toEqual(['k1', 'k1 k2', 'k1 k2 k3', 'k1 k2 k3 k4', 's1', 's1 s2', 's1 s2 s3', 's1 s2 s3 s4']) // biome-ignore format: a table
  expect(scafGrpo().sample.levels({ knowledge: [], planning: [], solution: ['s'] })).toHaveLength(1)
})

edge('scafGrpo', 'the right response of the weakest hint replaces the first rollout, the first of equals', () => {
  const { replacements } = scafGrpo().sample
  expect(replacements([1, 2, 3, 4], [0, 0, 1, 1])).toEqual([{ rollout: 0, hinted: 2, prompt: 'hinted' }])
  expect(replacements([4, 2, 2, 1], [1, 1, 1, 0])).toEqual([{ rollout: 0, hinted: 1, prompt: 'hinted' }])
  expect(replacements([1, 2], [0, 0])).toEqual([])
  expect(replacements([], [])).toEqual([])
})

edge('scafGrpo', 'the original prompt, or one of each', () => {
  const of = (replace: 'original' | 'both') => scafGrpo({ replace }).sample.replacements([1], [1])
  expect(of('original')).toEqual([{ rollout: 0, hinted: 0, prompt: 'original' }])
  expect(of('both')).toEqual([
    { rollout: 0, hinted: 0, prompt: 'original' },
    { rollout: 1, hinted: 0, prompt: 'hinted' },
  ])
})

edge('scafGrpo', 'a rollout is replaced by a longer or shorter one in all columns', () => {
  const batch = {
    sequenceStart: [0, 2, 3, 5],
    columns: { token: [1, 2, 3, 4, 5], oldLogp: Float32Array.of(1, 2, 3, 4, 5) },
  }
  const { replaceRollout } = scafGrpo().sample
  expect(replaceRollout(batch, 1, { token: [7, 8, 9], oldLogp: [0, -1, -2] })).toEqual({
    sequenceStart: [0, 2, 5, 7],
    columns: { token: [1, 2, 7, 8, 9, 4, 5], oldLogp: [1, 2, 0, -1, -2, 4, 5] },
  })
  expect(replaceRollout(batch, 2, { token: [], oldLogp: [] }).sequenceStart).toEqual([0, 2, 3, 3])
  expect(() => replaceRollout(batch, 0, { token: [7] })).toThrow('scafGrpo: oldLogp has 0 new tokens, expected 1')
  expect(() => replaceRollout(batch, 0, { token: [7], oldLogp: [1, 2] })).toThrow(
    'oldLogp has 2 new tokens, expected 1',
  )
})

edge('scafGrpo', 'hints are asked for after the warm-up, for groups whose rewards are all 0', () => {
  const recipe = scafGrpo({ warmup: 2 })
  const batch = { rewards: [0, 0, 0, 1, 0, 1], groupStart: [0, 2, 4, 5, 5, 6] }
  let state = prepareStep(recipe, batch).state
  const asked = []
  for (let step = 2; step < 5; step++) {
    const prepared = prepareStep(recipe, batch, state)
    state = fromJSON(recipe, toJSON(prepared.state!))
    asked.push(prepared.sample.hint)
  }
  expect(asked).toEqual([[], [0, 2], [0, 2]])
  expect(state!.data).toEqual({ step: 4 })
})

edge('scafGrpo', 'a group of one has its reward, as in verl', () => {
  const one = prepareStep(scafGrpo(), { rewards: [1, 1, 7], groupStart: [0, 1, 3], rolloutMask: [1, 1, 0] })
  expect(Array.from(one.advantage!)).toEqual([1 / (1 + 1e-6), 1 / (1 + 1e-6), 0].map(Math.fround))
})

edge('scafGrpo', 'everything masked: loss 0', () => {
  const step = optimizationStep(scafGrpo(), {
    ...fixture,
    rewards: [1, 0],
    groupStart: [0, 2],
    mask: new Uint8Array(8),
  })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('scafGrpo', 'missing columns', () => {
  expect(() => prepareStep(scafGrpo(), { groupStart: [0, 1] })).toThrow('scafGrpo: rewards is missing from the batch')
})

edge('scafGrpo', 'rejected rollouts decide nothing about hints', () => {
  const recipe = scafGrpo({ warmup: 0 })
  const groupStart = [0, 2, 4, 5]
  const given = { rewards: [0, 1, 1, Number.NaN, 0], groupStart, rolloutMask: [1, 0, 1, 0, 0] }
  expect(prepareStep(recipe, given).sample.hint).toEqual([0])
})

edge(
  'scafGrpo',
  'a batch with advantages of its own and without rewards asks for no hints, also after the warm-up',
  () => {
    const prepared = prepareStep(scafGrpo({ warmup: 0 }), { advantage: [1, -1], groupStart: [0, 2] })
    expect([prepared.sample.hint, prepared.state!.data.step]).toEqual([[], 1])
  },
)

edge('scafGrpo', 'a rollout that does not exist is not replaced', () => {
  const batch = { sequenceStart: [0, 2, 3], columns: { token: [1, 2, 3] } }
  for (const i of [2, -1, 0.5]) {
    expect(() => scafGrpo().sample.replaceRollout(batch, i, { token: [7] })).toThrow(
      `scafGrpo: i is ${i}, expected a rollout from 0 to 1`,
    )
  }
})
