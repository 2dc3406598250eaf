import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { cispo } from '../../../lib/recipes/methods/cispo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const cases = [
  ['the cap of ScaleRL', cispo(), -0.122629008, [-0.3, -0.2142857143, -0.15, 0.08, 0.4, 0.1142857143, 0.1257142857]],
  ['TRL’s default cap', cispo({ cap: 0.2 }), 0.0379655445, [...Array(3).fill(-0.0428571429), ...Array(4).fill(0.0228571429)]],
  ['verl’s interval', cispo({ bound: 'interval' }), 0.1474800288, [-0.2571428571, -0.2142857143, -0.1714285714, 0.0914285714, 0.1371428571, 0.1142857143, 0.1257142857]],
] as const // biome-ignore format: a table

for (const [what, recipe, loss, gradient] of cases) {
  golden('cispo', what, (check) => {
    const step = optimizationStep(recipe, { ...fixture, advantage })
    check.float32(step.loss, loss)
    check.float32(unmasked(step.gradLogp!.data), gradient)
  })
}

edge('cispo', 'no token is left without gradient, however far its ratio', () => {
  const logp = Float32Array.of(-0.1, -9, -3, -1, -9, -0.1, -2, -2)
  for (const recipe of [cispo(), cispo({ bound: 'interval' })]) {
    const step = optimizationStep(recipe, { ...fixture, logp, advantage })
    expect(unmasked(step.gradLogp!.data).every((x) => x !== 0)).toBe(true)
  }
})

edge('cispo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  const one = optimizationStep(cispo(), { ...fixture, rewards: [1, 0] })
  const equal = optimizationStep(cispo(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  const masked = optimizationStep(cispo(), { ...fixture, advantage, mask: new Uint8Array(8) })
  for (const step of [one, equal, masked]) {
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('cispo', 'ragged groups', () => {
  const batch = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const step = optimizationStep(cispo(), batch)
  expect(Array.from(step.gradLogp!.data, Math.sign)).toEqual([-1, -1, 1, 0, 0, 0, 0, 0])
})

edge('cispo', 'rewards that are missing', () => {
  expect(() => prepareStep(cispo(), fixture)).toThrow('cispo: rewards is missing from the batch')
})

edge('cispo', 'an option that does not fit', () => {
  expect(() => cispo({ cap: 0 })).toThrow('cispo: cap is 0, expected a finite number > 0')
})
