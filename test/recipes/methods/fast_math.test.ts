import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { fastMath } from '../../../lib/recipes/methods/fast_math.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = {
  correct: [1, 1, 0, 0],
  characters: [6000, 15000, 9000, 30000],
  format: [1, 1, 0, 1],
  groupStart: [0, 4],
}
const only = (name: 'cosineWeight' | 'lengthWeight') =>
  fastMath({ formatWeight: 0, cosineWeight: 0, lengthWeight: 0, [name]: 1 })

golden('fastMath', 'the rewards', (check) => {
  check.float64(prepareStep(only('cosineWeight'), batch).rewards!, [0.914057647469, 0.55, -0.814503363532, -0.1])
  check.float64(prepareStep(only('lengthWeight'), batch).rewards!, [0.5, 0.125, 0, -0.5])
  check.float64(prepareStep(fastMath(), batch).rewards!, [2.41405764747, 1.675, -0.814503363532, 0.4])
})

golden('fastMath', 'the advantages', (check) => {
  const { advantage } = prepareStep(fastMath(), batch)
  check.float32(advantage!, [1.05027004099, 0.531211458748, -1.21722872153, -0.364252778218], 2) // rewards of 2.4
})

golden('fastMath', 'the loss is a token mean', (check) => {
  const columns = { correct: [1, 0], format: [1, 1], characters: [1, 1] }
  const step = optimizationStep(fastMath({ klCoef: 0 }), { ...fixture, ...columns, advantage })
  check.float32(step.loss, 0.11, 12) // token losses of 1.35 in size on average
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('fastMath', 'beyond maxLength the cosine stays where it is', () => {
  const given = { ...batch, characters: [30000, 60000, 30000, 60000] }
  const [a, b, c, d] = prepareStep(only('cosineWeight'), given).rewards!
  expect([a, c]).toEqual([b, d])
  expect(a).toBe(0.1)
})

edge('fastMath', 'equal lengths, and a group of one: no length reward', () => {
  const given = { ...batch, characters: [7, 7, 7, 8], groupStart: [0, 3, 4] }
  expect(Array.from(prepareStep(only('lengthWeight'), given).rewards!)).toEqual([0, 0, 0, 0])
  expect(prepareStep(fastMath(), given).advantage![3]).toBe(0)
})

edge('fastMath', 'equal rewards have advantage 0', () => {
  const given = { correct: [1, 1], characters: [7, 7], format: [1, 1], groupStart: [0, 2] }
  expect(Array.from(prepareStep(fastMath(), given).advantage!)).toEqual([0, 0])
})

edge('fastMath', 'ragged groups have their own shortest and longest, rejected rollouts aside', () => {
  const given = { ...batch, correct: [1, 1, 1, 1], groupStart: [0, 1, 4] }
  expect(Array.from(prepareStep(only('lengthWeight'), given).rewards!)).toEqual([0, 0.5 - 6 / 21, 0.5, -0.5])
  const rejected = prepareStep(only('lengthWeight'), { ...given, rolloutMask: [1, 1, 1, 0] })
  expect(Array.from(rejected.rewards!)).toEqual([0, -0.5, 0.5, 0])
})

edge('fastMath', 'everything masked', () =>
  learnsNothing(fastMath(), { correct: [1, 0], format: [1, 1], characters: [1, 1] }),
)

edge('fastMath', 'format is missing', () => {
  const { format, ...rest } = batch
  expect(() => prepareStep(fastMath(), rest as never)).toThrow('fastMath: format is missing from the batch')
})
