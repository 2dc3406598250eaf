import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { harpg } from '../../../lib/recipes/methods/harpg.js'
import type { Momentum } from '../../../lib/recipes/methods/npg_igt.js'
import { softmax } from '../../../lib/recipes/parts/sequence_scores.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

golden('harpg', 'a step on -(x - 1)^2 / 2', (check) => {
  const { correction, step } = harpg({ eta0: 0.5, step0: 0.1, schedule: 'constant' }).sample
  const state: Momentum = { t: 1, parameters: [0.1], before: [0], direction: [1] }
  // The Hessian is -1, without a rollout's own log-probability.
  const v = correction(state, [{ gradLogp: [0], gradPhi: [0], hessianProduct: [-0.1] }])
  check.float64(v, -0.1)
  const next = step(state, [0.9], v)
  check.float64(next.direction!, 0.9)
  check.float64(next.parameters, 0.19)
})

edge(
  'harpg',
  'the correction is unbiased: over all actions of a softmax policy its mean is the Hessian of the return',
  () => {
    const reward = [1, -0.5, 2]
    const logits = [0.3, -0.2, 0.5]
    const value = (x: number[]) => softmax(x).reduce((total, p, a) => total + p * reward[a]!, 0)
    const state: Momentum = {
      t: 1,
      parameters: logits.map((x, i) => x + [0.2, -0.1, 0.4][i]!),
      before: logits,
      direction: [0, 0, 0],
    }
    const u = [0.2, -0.1, 0.4]
    const p = softmax(logits)
    const up = u.reduce((total, x, a) => total + x * p[a]!, 0)
    // grad log p(a) = one(a) - p, its Hessian times u is -(p u - p <p, u>), and Phi = reward log p(a).
    const { correction } = harpg().sample
    const mean = [0, 0, 0]
    for (const a of [0, 1, 2]) {
      const gradLogp = Array.from(p, (q, i) => (i === a ? 1 : 0) - q)
      const gradPhi = gradLogp.map((g) => reward[a]! * g)
      const hessianProduct = Array.from(p, (q, i) => -reward[a]! * q * (u[i]! - up))
      const one = correction(state, [{ gradLogp, gradPhi, hessianProduct }])
      for (const i of [0, 1, 2]) mean[i] = mean[i]! + p[a]! * one[i]!
    }
    const gradient = (x: number[]) => centralDifferences(value, x)
    const exact = [0, 1, 2].map((i) => centralDifferences(([h]) => gradient(logits.map((x, j) => x + h! * u[j]!))[i]!, [0])[0]!) // biome-ignore format: one formula
    closeIn64(mean, exact)
  },
)

edge('harpg', 'the correction is a mean of products, not a product of means', () => {
  const state: Momentum = { t: 1, parameters: [1], before: [0], direction: [0] }
  const of = (x: number) => ({ gradLogp: [x], gradPhi: [x], hessianProduct: [0] })
  expect(harpg().sample.correction(state, [of(1), of(-1)])).toEqual([1])
})

edge('harpg', 'the published schedules, plain and normalised', () => {
  const state: Momentum = { t: 2, parameters: [1, 1], before: [0, 0], direction: [2, 0] }
  const plain = harpg().sample.step(state, [0, 8], [1, 0])
  closeIn64(plain.direction!, [1.5, 4])
  closeIn64(plain.parameters, [1 + 0.1 * Math.SQRT1_2 * 1.5, 1 + 0.1 * Math.SQRT1_2 * 4])
  const normal = harpg({ normalize: true }).sample.step(state, [0, 8], [1, 0])
  closeIn64(normal.parameters, [1 + (0.05 * 1.5) / Math.hypot(1.5, 4), 1 + (0.05 * 4) / Math.hypot(1.5, 4)])
})

edge('harpg', 'the first step takes the gradient itself; without extra rollouts the correction is 0', () => {
  const { start, step, correction, between } = harpg({ eta0: 0.5 }).sample
  const state = start([1, 2])
  expect(correction(state, [])).toEqual([0, 0])
  const next = step(state, [1, -2], correction(state, []))
  expect(next.direction).toEqual([1, -2])
  closeIn64(next.parameters, [1.1, 1.8])
  closeIn64(
    between(next, () => 0.25),
    [1.025, 1.95],
  )
  expect(state).toEqual(start([1, 2]))
  expect(step(JSON.parse(JSON.stringify(next)), [1, 1], [0, 1])).toEqual(step(next, [1, 1], [0, 1]))
})

edge('harpg', 'a normalised step along a direction of length 0 moves nothing', () => {
  const { start, step } = harpg({ normalize: true }).sample
  expect(step(start([1]), [0], [0]).parameters).toEqual([1])
})

const rollouts = {
  rewards: [2, -1],
  sequenceStart: [0, 3, 4],
  mask: [1, 0, 1, 1],
  logp: Float32Array.of(-1, -1, -2, -0.5),
}

edge('harpg', 'the loss: one rollout, ragged ones, equal rewards, everything masked', () => {
  closeIn32(optimizationStep(harpg({ gamma: 0.5 }), rollouts).gradLogp!.data, [-0.5, 0, -0.5, 0.5])
  const one = { rewards: [2], sequenceStart: [0, 1], logp: Float32Array.of(-1) }
  closeIn32(optimizationStep(harpg(), one).gradLogp!.data, [-2])
  const equal = optimizationStep(harpg({ gamma: 1 }), { ...rollouts, rewards: [1, 1] })
  closeIn32(equal.gradLogp!.data, [-0.5, 0, -0.5, -0.5])
  const masked = optimizationStep(harpg(), { ...rollouts, mask: [0, 0, 0, 0] })
  expect([masked.loss, ...masked.gradLogp!.data]).toEqual([0, 0, 0, 0, 0])
})

edge('harpg', 'a rejected rollout has advantage 0, also without a reward', () => {
  const given = { ...rollouts, rewards: [2, Number.NaN], rolloutMask: [1, 0] }
  const { loss, gradLogp } = optimizationStep(harpg({ gamma: 0.5 }), given)
  closeIn32(gradLogp!.data, [-0.5, 0, -0.5, 0])
  closeIn32([loss], [3 / 2])
})

edge('harpg', 'what it cannot take', () => {
  const { rewards, ...batch } = rollouts
  expect(() => optimizationStep(harpg(), batch)).toThrow(/harpg: rewards is missing from the batch/)
  const { start, step, correction } = harpg().sample
  expect(() => step(start([1, 2]), [1, 2], [1])).toThrow(
    'harpg: correction has 1 values, expected 2, one per parameter',
  )
  expect(() => correction(start([1]), [{ gradLogp: [1], gradPhi: [1, 2], hessianProduct: [0] }])).toThrow(
    'harpg: gradPhi has 2 values, expected 1, one per parameter',
  )
  expect(() => correction(start([1]), [{ gradLogp: [1], gradPhi: [1], hessianProduct: [] }])).toThrow(
    'harpg: hessianProduct has 0 values, expected 1',
  )
  expect(() => harpg({ eta0: 2 })).toThrow('harpg: eta0 is 2, expected a finite number > 0 <= 1')
})
