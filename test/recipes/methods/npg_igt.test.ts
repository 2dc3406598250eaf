import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { type Momentum, npgIgt } from '../../../lib/recipes/methods/npg_igt.js'
import { closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

golden('npgIgt', 'three steps on -(x - 1)^2 / 2', (check) => {
  const { lookAhead, step } = npgIgt({ eta0: 0.5, step0: 0.1, schedule: 'constant' }).sample
  let state: Momentum = { t: 0, parameters: [0], before: [0], direction: [0] }
  const [ahead, directions, parameters] = [[], [], []] as [number[], number[], number[]]
  for (let t = 0; t < 3; t++) {
    const [x] = lookAhead(state) as [number]
    state = step(state, [1 - x])
    ahead.push(x)
    directions.push(state.direction![0]!)
    parameters.push(state.parameters[0]!)
  }
  check.float64(ahead, [0, 0.2, 0.3])
  check.float64(directions, [0.5, 0.65, 0.675])
  check.float64(parameters, [0.1, 0.2, 0.3])
})

edge('npgIgt', 'the first step takes the gradient itself, whatever eta; the length is the step size', () => {
  for (const eta0 of [1, 0.5]) {
    const { start, step, lookAhead } = npgIgt({ eta0 }).sample
    expect(lookAhead(start([1, 2]))).toEqual([1, 2])
    const state = step(start(Float32Array.of(1, 2)), [3, -4])
    expect(state.direction).toEqual([3, -4])
    closeIn64(state.parameters, [1.06, 1.92])
    expect([state.t, ...state.before]).toEqual([1, 1, 2])
  }
})

edge('npgIgt', 'the published schedule', () => {
  const { lookAhead, step } = npgIgt().sample
  const state: Momentum = { t: 2, parameters: [1], before: [0], direction: [2] }
  const eta = 0.5 ** 0.8
  closeIn64(lookAhead(state), [1 + (1 - eta) / eta])
  const next = step(state, [-6])
  closeIn64(next.direction!, [2 - 8 * eta])
  closeIn64(next.parameters, [0.95])
})

edge(
  'npgIgt',
  'a linear gradient is transported exactly: with look-ahead the direction is the mean of exact gradients',
  () => {
    // For g(x) = 1 - x and constant eta, d after the step is g(parameters): the bias of momentum is gone.
    const { lookAhead, step, start } = npgIgt({ eta0: 0.25, step0: 0.125, schedule: 'constant' }).sample
    let state = start([0])
    for (let t = 0; t < 6; t++) {
      const at = state.parameters[0]!
      state = step(state, [1 - lookAhead(state)[0]!])
      closeIn64(state.direction!, [1 - at])
    }
  },
)

edge('npgIgt', 'a gradient of 0 moves nothing; the state is left as it was, and survives JSON', () => {
  const { start, step } = npgIgt().sample
  const state = start([1, 2])
  expect(step(state, [0, 0]).parameters).toEqual([1, 2])
  expect(state).toEqual({ t: 0, parameters: [1, 2], before: [1, 2], direction: null })
  const after = step(state, [0.1, 0.7])
  expect(step(JSON.parse(JSON.stringify(after)), [1, 1])).toEqual(step(after, [1, 1]))
})

const rollouts = {
  rewards: [2, -1, 1],
  sequenceStart: [0, 3, 4, 6],
  mask: [1, 0, 1, 1, 0, 0],
  logp: Float32Array.of(-1, -1, -2, -0.5, -1, -1),
}

edge('npgIgt', 'the gradient of the loss is that of the discounted return', () => {
  const recipe = npgIgt({ gamma: 0.5 })
  const { loss, gradLogp, advantage } = optimizationStep(recipe, rollouts)
  // Two tokens: the reward comes one step later. The last rollout has no token.
  expect(Array.from(advantage!)).toEqual([1, -1, 0])
  closeIn32(gradLogp!.data, [-1 / 2, 0, -1 / 2, 1 / 2, 0, 0])
  closeIn32([loss], [(3 - 0.5) / 2])
})

edge('npgIgt', 'a rejected rollout has advantage 0, also without a reward', () => {
  const given = { ...rollouts, rewards: [2, Number.NaN, 1], rolloutMask: [1, 0, 1] }
  const { loss, gradLogp, advantage } = optimizationStep(npgIgt({ gamma: 0.5 }), given)
  expect(Array.from(advantage!)).toEqual([1, 0, 0])
  closeIn32(gradLogp!.data, [-1 / 2, 0, -1 / 2, 0, 0, 0])
  closeIn32([loss], [3 / 2])
})

edge('npgIgt', 'one rollout, equal rewards, everything masked', () => {
  const one = { rewards: [2], sequenceStart: [0, 1], logp: Float32Array.of(-1) }
  closeIn32(optimizationStep(npgIgt(), one).gradLogp!.data, [-2])
  // There is no baseline.
  expect(Array.from(prepareStep(npgIgt({ gamma: 1 }), { ...rollouts, rewards: [1, 1, 1] }).advantage!)).toEqual([
    1, 1, 0,
  ])
  const masked = optimizationStep(npgIgt(), { ...rollouts, mask: new Uint8Array(6) })
  expect([masked.loss, ...masked.gradLogp!.data]).toEqual(Array(7).fill(0))
})

edge('npgIgt', 'what it cannot take', () => {
  const { rewards, ...batch } = rollouts
  expect(() => optimizationStep(npgIgt(), batch)).toThrow(/npgIgt: rewards is missing from the batch/)
  const { start, step } = npgIgt().sample
  expect(() => step(start([1, 2]), [1])).toThrow('npgIgt: gradient has 1 values, expected 2, one per parameter')
  expect(() => npgIgt({ eta0: 1.5 })).toThrow('npgIgt: eta0 is 1.5, expected a finite number > 0 <= 1')
})
