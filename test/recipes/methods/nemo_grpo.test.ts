import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { nemoGrpo } from '../../../lib/recipes/methods/nemo_grpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const groups = { rewards: [1, 0, 0.5, 0, 1, 1, 1, 1], groupStart: [0, 4, 8] }

golden('nemoGrpo', 'leave-one-out mean and standard deviation', (check) => {
  const expected = [2.886741346, -0.999998, 0.2886746346, -0.999998, 0, 0, 0, 0]
  check.float32(prepareStep(nemoGrpo(), groups).advantage!, expected)
  const whole = [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154, 0, 0, 0, 0]
  check.float32(prepareStep(nemoGrpo({ leaveOneOut: false }), groups).advantage!, whole)
  const plain = [0.8333333333, -0.5, 0.1666666667, -0.5, 0, 0, 0, 0]
  check.float32(prepareStep(nemoGrpo({ normalize: false }), groups).advantage!, plain)
})

golden('nemoGrpo', 'loss and gradient', (check) => {
  const gradient = [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857]
  const plain = optimizationStep(nemoGrpo({ klCoef: 0 }), { ...fixture, advantage })
  check.float32(plain.loss, 0.11, 12) // the terms of both signs are 12 times as large
  check.float32(unmasked(plain.gradLogp!.data), gradient)
  const dual = optimizationStep(nemoGrpo({ klCoef: 0, dualClip: 3 }), { ...fixture, advantage })
  check.float32(dual.loss, 0.0528571429, 24)
  check.float32(unmasked(dual.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0, 0.1142857143, 0.1257142857])
})

golden('nemoGrpo', 'the KL has the value of k3 and the gradient of k2', (check) => {
  const k3 = [0.011293537, 0.0268564487, 0.0024356999, 0.0718964846, 0.1310443594, 0.0156548901, 0.0038977139]
  const x = [0.1541506798, -0.2231435513, -0.0689928715, -0.3566749439, 0.5596157879, 0.1823215568, -0.087011377]
  const step = optimizationStep(nemoGrpo({ klCoef: 1 }), { ...fixture, advantage: [0, 0] })
  check.float32(
    step.loss * 7,
    k3.reduce((sum, value) => sum + value),
  )
  check.float32(unmasked(step.gradLogp!.data).map((g) => g * 7), x) // biome-ignore format: short
})

edge('nemoGrpo', 'fewer than three rollouts: two differ by their rewards, one has 0', () => {
  const { advantage } = prepareStep(nemoGrpo(), { rewards: [0.75, 0.25, 5, 2, 2], groupStart: [0, 2, 3, 5] })
  expect(Array.from(advantage!)).toEqual([0.5, -0.5, 0, 0, 0])
})

edge('nemoGrpo', 'others that are all equal divide nothing', () => {
  const { advantage } = prepareStep(nemoGrpo(), { rewards: [1, 0.1, 0.1, 0.1], groupStart: [0, 4] })
  expect(advantage![0]).toBe(Math.fround(1 - Math.fround(0.1)))
})

edge('nemoGrpo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(nemoGrpo(), { ...fixture, rewards: [1, 0], mask: new Uint8Array(8) })
  expect(step.loss).toBe(0)
  expect(step.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('nemoGrpo', 'a KL without a reference is refused', () => {
  const { refLogp, ...batch } = fixture
  expect(() => optimizationStep(nemoGrpo(), { ...batch, rewards: [1, 0] })).toThrow(
    'nemoGrpo: refLogp is missing from the batch, expected f32[T]: log-probabilities under the reference policy, as klCoef is 0.01',
  )
})
