import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { wirelessMath } from '../../../lib/recipes/methods/wireless_math.js'
import { close } from '../../support/compare.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

golden('wirelessMath', 'the loss is GRPO’s', (check) => {
  const step = optimizationStep(wirelessMath({ klCoef: 0 }), { ...fixture, correct: [1, 0], advantage })
  check.float32(step.loss, -0.085)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11])
})

edge('wirelessMath', 'the closed form of a binary reward', () => {
  for (const correct of [
    [1, 0],
    [1, 0, 0, 0],
    [1, 1, 1, 1, 1, 0, 0],
  ]) {
    const n = correct.length
    const p = correct.filter((x) => x === 1).length / n
    const std = Math.sqrt((p * (1 - p) * n) / (n - 1))
    const { advantage, rewards } = prepareStep(wirelessMath(), { correct, groupStart: [0, n] })
    expect(Array.from(rewards!)).toEqual(correct)
    const exact = correct.map((x) => (x === 1 ? 1 - p : -p) / (std + 1e-4))
    close(advantage!, exact, 2 ** -23) // rounded once
  }
})

edge('wirelessMath', 'all right, all wrong, and a group of one, in ragged groups', () => {
  const given = { correct: [1, 1, 0, 0, 0, 1], groupStart: [0, 2, 5, 6] }
  expect(Array.from(prepareStep(wirelessMath(), given).advantage!)).toEqual([0, 0, 0, 0, 0, 0])
})

edge('wirelessMath', 'everything masked', () => learnsNothing(wirelessMath(), { correct: [1, 0] }))

edge('wirelessMath', 'a reward that is not binary, or missing', () => {
  const step = (correct: unknown) => () => prepareStep(wirelessMath(), { correct, groupStart: [0, 1] } as never)
  expect(step([0.5])).toThrow('wirelessMath: correct has 0.5 at 0, expected 0 or 1')
  expect(step(undefined)).toThrow('wirelessMath: correct is missing from the batch')
})
