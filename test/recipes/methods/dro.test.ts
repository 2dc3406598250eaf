import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { dro } from '../../../lib/recipes/methods/dro.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const batch = { ...fixture, advantage }

golden('dro', 'loss and gradient with beta 0.5', (check) => {
  const step = optimizationStep(dro({ beta: 0.5 }), batch)
  check.float32(step.loss, 0.259332961, 8) // the losses of the tokens are 8 times larger
  check.float32(unmasked(step.gradLogp!.data), [-0.1902519831, -0.2142857143, -0.239762496, 0.0888089326, 0.2037687835, 0.1142857143, 0.1210935843]) // biome-ignore format: short
})

edge('dro', 'a group of one, and equal rewards: the squared log-ratio is left', () => {
  for (const groupStart of [
    [0, 1, 2],
    [0, 2],
  ]) {
    const step = optimizationStep(dro({ beta: 1 }), { ...fixture, groupStart, rewards: [1, 1] })
    expect(step.gradLogp!.data[0]).toBeCloseTo(Math.log(1.4) / 7, 6)
  }
})

edge('dro', 'on the policy that sampled, it is REINFORCE', () => {
  const step = optimizationStep(dro({ beta: 7 }), { ...batch, logp: fixture.oldLogp })
  unmasked(step.gradLogp!.data).forEach((g, t) => expect(g).toBeCloseTo((t < 3 ? -1.5 : 0.8) / 7, 6))
})

edge('dro', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(dro(), { ...batch, mask: new Uint8Array(8) })
  expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
})

edge('dro', 'ragged groups', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const { data } = optimizationStep(dro({ beta: 1e-9 }), ragged).gradLogp!
  expect(Array.from(data.slice(0, 3), Math.sign)).toEqual([-1, -1, 1])
})

edge('dro', 'without oldLogp there is no penalty: refused', () => {
  const { oldLogp, ...rest } = batch
  expect(() => optimizationStep(dro(), rest)).toThrow('dro: oldLogp is missing from the batch, expected f32[T]')
})

edge('dro', 'rewards that are missing, and a beta that is 0', () => {
  expect(() => prepareStep(dro(), fixture)).toThrow('dro: rewards is missing from the batch')
  expect(() => dro({ beta: 0 })).toThrow('dro: beta is 0, expected a finite number > 0')
})
