import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { sGrpo } from '../../../lib/recipes/methods/s_grpo.js'
import { random } from '../../support/random.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = { correct: [0, 1, 1, 0, 1], groupStart: [0, 5] }

golden('sGrpo', 'decaying by correct exits', (check) => {
  const { rewards, advantage } = prepareStep(sGrpo(), batch)
  check.float64(rewards!, [0, 1, 0.5, 0, 0.25])
  check.float32(advantage!, [-0.35, 0.65, 0.15, -0.35, -0.1])
})

golden('sGrpo', 'divided by the standard deviation', (check) => {
  const { advantage } = prepareStep(sGrpo({ scale: 'group_std' }), batch)
  check.float32(advantage!, [-0.836658026539, 1.55379347786, 0.35856772566, -0.836658026539, -0.23904515044])
})

golden('sGrpo', 'decaying by the index, as a third party does', (check) => {
  check.float64(prepareStep(sGrpo({ decay: 'index' }), batch).rewards!, [0, 0.5, 0.25, 0, 0.0625])
})

golden('sGrpo', 'the loss is GRPO’s', (check) => {
  check.float32(optimizationStep(sGrpo({ klCoef: 0 }), { ...fixture, correct: [1, 0], advantage }).loss, -0.085)
})

edge('sGrpo', 'the earliest correct exit has reward 1, whatever its index', () => {
  expect(prepareStep(sGrpo(), { correct: [0, 0, 0, 1], groupStart: [0, 4] }).rewards![3]).toBe(1)
})

edge('sGrpo', 'all wrong, and a group of one: advantage 0; ragged groups start anew', () => {
  const { rewards, advantage } = prepareStep(sGrpo(), { correct: [1, 0, 0, 1, 1], groupStart: [0, 1, 3, 5] })
  expect(Array.from(rewards!)).toEqual([1, 0, 0, 1, 0.5])
  expect(Array.from(advantage!)).toEqual([0, 0, 0, 0.25, -0.25])
})

edge('sGrpo', 'a rejected exit does not decay the others', () => {
  const given = { ...batch, rolloutMask: [1, 0, 1, 1, 1] }
  expect(Array.from(prepareStep(sGrpo(), given).rewards!)).toEqual([0, 0, 1, 0, 0.5])
})

edge('sGrpo', 'exits are drawn from the whole thought, sorted', () => {
  const { exits } = sGrpo({ exits: 3 }).sample
  const draws = [0.999, 0, 0.5]
  expect(exits(10, () => draws.shift()!)).toEqual([1, 6, 10])
  const r = random(1)
  expect(sGrpo().sample.exits(5, () => r.uniform())).toHaveLength(8)
  expect(() => exits(0, Math.random)).toThrow('sGrpo: thought is 0, expected a whole number from 1')
})

edge('sGrpo', 'the layout packs each part of a thought once', () => {
  const layout = sGrpo().sample.layout([
    {
      prompt: 2,
      exits: [
        { thought: 3, answer: 2 },
        { thought: 4, answer: 1 },
        { thought: 4, answer: 3 },
      ],
    },
    { prompt: 1, exits: [{ thought: 1, answer: 1 }] },
  ])
  // prompt, thought to the first exit, answer, to the second, answer, to the third (nothing new), answer
  expect(Array.from(layout.segmentStart.data)).toEqual([0, 2, 5, 7, 8, 9, 9, 12, 13, 14, 15])
  expect(Array.from(layout.segmentParent.data)).toEqual([-1, 0, 1, 1, 3, 3, 5, -1, 7, 8])
  expect(Array.from(layout.groupStart.data)).toEqual([0, 3, 4])
  // An exit's own sequence is the thought before it and its answer, wherever they lie.
  expect(Array.from(layout.sequenceStart.data)).toEqual([0, 5, 10, 17, 19])
  const places = Array.from(layout.place.data)
  expect(places.slice(0, 5)).toEqual([2, 3, 4, 5, 6])
  expect(places.slice(5, 10)).toEqual([2, 3, 4, 7, 8])
  expect(places.slice(10, 17)).toEqual([2, 3, 4, 7, 9, 10, 11])
  // Positions go on as if the exit's sequence stood alone.
  expect(places.slice(10, 17).map((p) => layout.position.data[p])).toEqual([2, 3, 4, 5, 6, 7, 8])
})

edge('sGrpo', 'exits that go back are refused', () => {
  const exits = [
    { thought: 3, answer: 1 },
    { thought: 2, answer: 1 },
  ]
  expect(() => sGrpo().sample.layout([{ prompt: 1, exits }])).toThrow(
    'sGrpo: exits has one after 2 tokens in group 0, expected at least 3: they rise',
  )
  expect(() => sGrpo().sample.layout([{ prompt: 1, exits: [{ thought: Number.NaN, answer: 1 }] }])).toThrow(
    'sGrpo: exits has one after NaN tokens in group 0, expected at least 0: they rise',
  )
})

edge('sGrpo', 'everything masked', () => learnsNothing(sGrpo(), { correct: [1, 0] }))

edge('sGrpo', 'correct is missing', () => {
  expect(() => prepareStep(sGrpo(), { groupStart: [0, 1] } as never)).toThrow(
    'sGrpo: correct is missing from the batch',
  )
})

edge('sGrpo', 'by the index, the exponent is the place in the group, rejected exits included', () => {
  const given = { correct: [1, 0, 1, 1, 0, 1], groupStart: [0, 1, 6], rolloutMask: [1, 0, 1, 1, 1, 1] }
  expect(Array.from(prepareStep(sGrpo({ decay: 'index' }), given).rewards!)).toEqual([1, 0, 0.5, 0.25, 0, 0.0625])
})
