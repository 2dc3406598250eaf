import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { posteriorGrpo } from '../../../lib/recipes/methods/posterior_grpo.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const batch = { format: [1, 1, 1, 0], correct: [1, 1, 0, 0], process: [0.9, 0.4, 0.95, 0.2], groupStart: [0, 4] }

golden('posteriorGrpo', 'the process counts where the outcome is right', (check) => {
  const { rewards, advantage } = prepareStep(posteriorGrpo(), batch)
  check.float64(rewards!, [2.9, 2.4, 1, 0])
  check.float32(advantage!, [1.00184365876, 0.623789447907, -0.434762342481, -1.190870764186])
})

golden('posteriorGrpo', 'all right', (check) => {
  const given = { format: [1, 1, 1, 1], correct: [1, 1, 1, 1], process: [0.9, 0.4, 0.6, 0.7], groupStart: [0, 4] }
  const { advantage } = prepareStep(posteriorGrpo(), given)
  // Rewards of 2.4 to 2.9 in float32 lose a factor 5 of digits to their mean.
  check.float32(advantage!, [1.200955384335, -1.200955384335, -0.240191076867, 0.240191076867], 5)
})

golden('posteriorGrpo', 'clip-higher', (check) => {
  const columns = { format: [1, 1], correct: [1, 0], process: [1, 1] }
  const recipe = posteriorGrpo()
  const step = optimizationStep(recipe, { ...fixture, ...columns, advantage }, undefined, {
    objective: { aggregate: 'token_mean' },
  })
  check.float32(step.loss, 0.0928571429, 14) // token losses of 1.37 in size on average
})

edge('posteriorGrpo', 'all wrong, with equal formats: no advantage, whatever the process', () => {
  const given = { ...batch, format: [1, 1, 1, 1], correct: [0, 0, 0, 0], process: [0.9, NaN, 0.1, 0] }
  const { rewards, advantage } = prepareStep(posteriorGrpo(), given)
  expect(Array.from(rewards!)).toEqual([1, 1, 1, 1])
  expect(Array.from(advantage!)).toEqual([0, 0, 0, 0])
})

edge('posteriorGrpo', 'the weight of the process', () => {
  expect(prepareStep(posteriorGrpo({ processWeight: 0.5 }), batch).rewards![0]).toBe(2.45)
})

edge('posteriorGrpo', 'ragged groups: a group of one has advantage 0', () => {
  const { advantage } = prepareStep(posteriorGrpo(), { ...batch, groupStart: [0, 1, 4] })
  expect(advantage![0]).toBe(0)
  expect(advantage![1]).toBeGreaterThan(0)
})

edge('posteriorGrpo', 'everything masked', () =>
  learnsNothing(posteriorGrpo(), { format: [1, 1], correct: [1, 0], process: [1, 1] }),
)

edge('posteriorGrpo', 'process is missing', () => {
  const { process, ...rest } = batch
  expect(() => prepareStep(posteriorGrpo(), rest as never)).toThrow('posteriorGrpo: process is missing from the batch')
})
