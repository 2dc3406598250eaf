import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { type Operation, trainingFreeGrpo } from '../../../lib/recipes/methods/training_free_grpo.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 1, 1, 0, 0, 0.5, 0.25, 1], groupStart: [0, 2, 4, 6, 7, 9] }
const { mergeOperations, applyOperations } = trainingFreeGrpo().sample
const library = { G0: 'zero', G1: 'one', G2: 'two' }

golden('trainingFreeGrpo', 'the mixed-group filter 0 < mean < 1', (check) => {
  check.float64(prepareStep(trainingFreeGrpo(), groups).rollouts, [1, 1, 0, 0, 0, 0, 1, 1, 1])
  check.float64(prepareStep(trainingFreeGrpo({ groundTruth: false }), groups).rollouts, Array(9).fill(1))
})

edge('trainingFreeGrpo', 'ADD, UPDATE and DELETE, then the ids anew in the order of the library', () => {
  const plan: Operation[] = [
    { operation: 'DELETE', id: 'G0' },
    { operation: 'UPDATE', id: 'G2', content: 'second' },
    { operation: 'ADD', content: 'three' },
    { content: 'four' },
    { operation: 'NONE' },
  ]
  expect(applyOperations(library, plan)).toEqual({ G0: 'one', G1: 'second', G2: 'three', G3: 'four' })
  expect(Object.keys(applyOperations(library, plan))).toEqual(['G0', 'G1', 'G2', 'G3'])
  expect(library).toEqual({ G0: 'zero', G1: 'one', G2: 'two' })
})

edge(
  'trainingFreeGrpo',
  'an UPDATE of an unknown id is an ADD, a DELETE of one nothing, empty content is ignored',
  () => {
    const plan: Operation[] = [
      { operation: 'UPDATE', id: 'G7', content: 'new' },
      { operation: 'DELETE', id: 'G7' },
      { operation: 'ADD', content: '' },
      { operation: 'UPDATE', id: 'G1', content: '' },
    ]
    expect(applyOperations(library, plan)).toEqual({ ...library, G3: 'new' })
    expect(applyOperations({}, [])).toEqual({})
  },
)

edge(
  'trainingFreeGrpo',
  'merging: DELETE over UPDATE, equal ADDs once, the last UPDATE, and again it changes nothing',
  () => {
    const merged = mergeOperations([
      [
        { operation: 'UPDATE', id: 'G0', content: 'a' },
        { operation: 'ADD', content: 'x' },
        { operation: 'UPDATE', id: 'G1', content: 'first' },
        { operation: 'DELETE' },
      ],
      [
        { operation: 'DELETE', id: 'G0' },
        { operation: 'ADD', content: 'x' },
        { operation: 'NONE', id: 'G2' },
        { operation: 'UPDATE', id: 'G0', content: 'b' },
        { operation: 'UPDATE', id: 'G1', content: 'last' },
      ],
    ])
    expect(merged).toEqual([
      { operation: 'DELETE', id: 'G0', content: null },
      { operation: 'ADD', id: null, content: 'x' },
      { operation: 'UPDATE', id: 'G1', content: 'last' },
    ])
    expect(mergeOperations(merged)).toEqual(merged)
    expect(applyOperations(library, merged)).toEqual({ G0: 'last', G1: 'two', G2: 'x' })
  },
)

edge('trainingFreeGrpo', 'the library grows over steps, and is what the next prompt gets', () => {
  const recipe = trainingFreeGrpo()
  const first = prepareStep(recipe, { ...groups, operations: [{ operation: 'ADD', content: 'a' }] })
  expect(first.sample).toEqual({ experiences: ['[G0]. a'] })
  const state = fromJSON(recipe, toJSON(first.state!))
  const second = prepareStep(recipe, { ...groups, operations: [[{ content: 'b' }], [{ operation: 'NONE' }]] }, state)
  expect(second.state!.data).toEqual({ experiences: { G0: 'a', G1: 'b' } })
  expect(prepareStep(recipe, groups, second.state).state).toEqual(second.state)
  expect(first.state!.data).toEqual({ experiences: { G0: 'a' } })
})

edge('trainingFreeGrpo', 'there is no loss, and no advantage', () => {
  const batch = { ...fixture, rewards: [1, 0] }
  expect(prepareStep(trainingFreeGrpo(), batch).advantage).toBeUndefined()
  expect(() => optimizationStep(trainingFreeGrpo(), batch)).toThrow(
    'trainingFreeGrpo: loss does not exist: the method changes no parameters, expected prepareStep alone',
  )
})

edge('trainingFreeGrpo', 'a group of one, a rejected rollout, an empty group', () => {
  const { rollouts } = prepareStep(trainingFreeGrpo(), {
    rewards: [1, 0.5, 1, 0, 1],
    groupStart: [0, 1, 2, 2, 5],
    rolloutMask: [1, 1, 1, 0, 1],
  })
  expect(Array.from(rollouts)).toEqual([0, 1, 0, 0, 0])
})

edge('trainingFreeGrpo', 'rewards outside 0 to 1, missing rewards, an unknown operation', () => {
  for (const wrong of [2, -1, Number.NaN]) {
    const one = { rewards: [wrong], groupStart: [0, 1] }
    expect(() => prepareStep(trainingFreeGrpo(), one)).toThrow(`trainingFreeGrpo: rewards has ${wrong} at 0, expected 0 to 1`) // biome-ignore format: a row
  }
  expect(() => prepareStep(trainingFreeGrpo(), { groupStart: [0, 1] })).toThrow('rewards is missing from the batch')
  expect(() => prepareStep(trainingFreeGrpo(), { ...groups, operations: { operation: 'ADD' } })).toThrow(
    'trainingFreeGrpo: operations is a plain object, expected a list',
  )
  for (const bad of [{ operation: 'MERGE' }, null, 'ADD']) {
    const batch = { ...groups, operations: [bad] }
    if (bad === 'ADD') expect(prepareStep(trainingFreeGrpo(), batch).state!.data.experiences).toEqual({})
    else
      expect(() => prepareStep(trainingFreeGrpo(), batch)).toThrow(/operations has .* at 0, expected an operation ADD/)
  }
})
