import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { sapo } from '../../../lib/recipes/methods/sapo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('sapo', 'loss and gradient', (check) => {
  const step = optimizationStep(sapo(), { ...fixture, advantage })
  check.float32(step.loss, -0.6173598155)
  check.float32(unmasked(step.gradLogp!.data), [-0.336365044, -0.25, -0.1711208182, 0.0682918803, 0.0881777899, 0.1, 0.1096973687]) // biome-ignore format: short
})

golden('sapo', 'the gate: the gradient over -A r of its token', (check) => {
  const { data } = optimizationStep(sapo(), { ...fixture, advantage }).gradLogp!
  const ratio = [1.4, 1, 0.7, 0.7, 3.5, 1, 1.1]
  const factor = [1.5 / 6, 1.5 / 6, 1.5 / 6, -0.8 / 8, -0.8 / 8, -0.8 / 8, -0.8 / 8]
  const gate = unmasked(data).map((g, t) => -g / (factor[t]! * ratio[t]!))
  check.float32(gate, [0.961042983, 1, 0.9778332468, 0.9755982904, 0.2519365426, 1, 0.9972488067])
})

edge('sapo', 'both temperatures are options', () => {
  const step = optimizationStep(sapo({ tauPositive: 2, tauNegative: 0.5 }), { ...fixture, advantage: [1, -1] })
  const gate = (tau: number, r: number) => {
    const s = 1 / (1 + Math.exp(-tau * (r - 1)))
    return 4 * s * (1 - s) * r
  }
  expect(step.gradLogp!.data[0]).toBeCloseTo(-gate(2, 1.4) / 6, 6)
  expect(step.gradLogp!.data[5]).toBeCloseTo(gate(0.5, 3.5) / 8, 6)
})

edge('sapo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  const one = optimizationStep(sapo(), { ...fixture, rewards: [1, 0] })
  const equal = optimizationStep(sapo(), { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
  const masked = optimizationStep(sapo(), { ...fixture, advantage, mask: new Uint8Array(8) })
  for (const step of [one, equal, masked]) {
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  }
})

edge('sapo', 'ragged groups', () => {
  const batch = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const step = optimizationStep(sapo(), batch)
  expect(Array.from(step.gradLogp!.data, Math.sign)).toEqual([-1, -1, 1, 0, 0, 0, 0, 0])
})

edge('sapo', 'rewards that are missing', () => {
  expect(() => prepareStep(sapo(), fixture)).toThrow('sapo: rewards is missing from the batch')
})
