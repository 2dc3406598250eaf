import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { tPpo } from '../../../lib/recipes/methods/t_ppo.js'
import { random } from '../../support/random.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const V = [0.2, 0.3, 0.5, 0.4]
const batch = {
  rewards: [0, 1],
  sequenceStart: [0, 4, 8],
  values: Float32Array.from([...V, ...V]),
  truncated: [1, 0],
}

golden('tPpo', 'extended generalized advantages', (check) => {
  const { tokenAdvantage } = prepareStep(tPpo(), batch)
  check.float32(tokenAdvantage!.subarray(0, 4), [0.19975, 0.105, -0.1, 0])
  check.float32(tokenAdvantage!.subarray(4), [0.714175, 0.6465, 0.47, 0.6])
})

golden('tPpo', 'residuals', (check) => {
  const { tokenAdvantage } = prepareStep(tPpo({ lambda: 0 }), batch)
  check.float32(tokenAdvantage!.subarray(0, 4), [0.1, 0.2, -0.1, 0])
  check.float32(tokenAdvantage!.subarray(4), [0.1, 0.2, -0.1, 0.6])
})

golden('tPpo', 'loss and gradient', (check) => {
  const given = { ...fixture, advantage, values: new Float32Array(8), truncated: [0, 0], rewards: [0, 0] }
  const step = optimizationStep(tPpo(), given)
  // The mean of the token losses is 1.353 before their signs cancel.
  check.float32(step.loss, 0.11, 1.353 / 0.11)
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('tPpo', 'a truncated rollout ends with r + (gamma - 1) V', () => {
  const { tokenAdvantage } = prepareStep(tPpo({ gamma: 0.9 }), { ...batch, rewards: [0.25, 1] })
  expect(tokenAdvantage![3]).toBeCloseTo(0.25 + (0.9 - 1) * 0.4, 7)
})

edge('tPpo', 'lambda 1 telescopes: the return, or the last value, less the own one', () => {
  const { uniforms } = random(2)
  const values = uniforms(8)
  const { tokenAdvantage } = prepareStep(tPpo({ lambda: 1 }), { ...batch, values })
  const end = [values[3]!, values[3]!, values[3]!, values[3]!, 1, 1, 1, 1]
  // A few roundings to float32 of numbers below 1.
  end.forEach((x, t) => expect(Math.abs(tokenAdvantage![t]! - (x - values[t]!))).toBeLessThan(2 ** -21))
})

edge('tPpo', 'masked tokens are passed over, whatever they hold', () => {
  const { tokenAdvantage } = prepareStep(tPpo(), {
    rewards: [0, 1],
    sequenceStart: [0, 6, 11],
    mask: [1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1],
    values: Float32Array.of(0.2, NaN, 0.3, 0.5, 0.4, NaN, 0.2, 0.3, 0.5, Infinity, 0.4),
    truncated: [1, 0],
  })
  const plain = prepareStep(tPpo(), batch).tokenAdvantage!
  expect(Array.from(tokenAdvantage!)).toEqual([
    plain[0],
    0,
    ...plain.subarray(1, 4),
    0,
    ...plain.subarray(4, 7),
    0,
    plain[7],
  ])
})

edge('tPpo', 'ragged: an empty rollout, a rejected one, one of a single token', () => {
  const { tokenAdvantage, sample } = prepareStep(tPpo(), {
    rewards: [1, 1, 0, 1],
    rolloutMask: [1, 0, 1, 1],
    sequenceStart: [0, 0, 2, 3, 4],
    values: Float32Array.of(0.5, 0.5, 0.25, 0.25),
    truncated: [0, 0, 1, 0],
  })
  expect(Array.from(tokenAdvantage!)).toEqual([0, 0, 0, 0.75])
  expect(sample.carryOver).toEqual([2])
  expect(Array.from(sample.valueMask!)).toEqual([0, 0, 0, 1])
})

edge('tPpo', 'the critic learns the returns of finished rollouts alone, from all of their tokens', () => {
  const given = { ...batch, window: [0, 0, 1, 1, 0, 1, 1, 1] }
  const { sample } = prepareStep(tPpo({ gamma: 0.5 }), given)
  expect(sample.carryOver).toEqual([0])
  expect(Array.from(sample.valueMask!)).toEqual([0, 0, 0, 0, 1, 1, 1, 1])
  expect(Array.from(sample.valueTarget!)).toEqual([0, 0, 0, 0, 0.125, 0.25, 0.5, 1])
})

edge('tPpo', 'tokens of earlier windows do not enter the policy loss again', () => {
  const window = [0, 1, 1, 1, 0, 0, 1, 1]
  const given = { ...fixture, rewards: [1, 0], values: new Float32Array(8).fill(0.5), truncated: [0, 0], window }
  const step = optimizationStep(tPpo(), given)
  const { window: _, ...whole } = given
  expect(Array.from(step.tokenAdvantage!)).toEqual(Array.from(prepareStep(tPpo(), whole).tokenAdvantage!))
  expect(Array.from(step.gradLogp!.data, (x) => Number(x !== 0))).toEqual([0, 1, 1, 0, 0, 0, 1, 1])
})

edge('tPpo', 'everything masked', () => {
  learnsNothing(tPpo(), { rewards: [0, 1], values: new Float32Array(8), truncated: [0, 1] })
})
edge('tPpo', 'a missing column', () => {
  const { truncated, ...rest } = batch
  expect(() => prepareStep(tPpo(), rest as never)).toThrow(
    'tPpo: truncated is missing from the batch, expected flag[N]',
  )
  const { values, ...other } = batch
  expect(() => prepareStep(tPpo(), other as never)).toThrow('tPpo: values is missing from the batch, expected f32[T]')
})

edge('tPpo', 'a batch with advantages of its own and without rewards has no value target', () => {
  const { rewards, ...rest } = batch
  const { sample } = prepareStep(tPpo(), { ...rest, advantage: [1, -1] })
  expect(sample.carryOver).toEqual([0])
  expect(Array.from(sample.valueMask)).toEqual([0, 0, 0, 0, 1, 1, 1, 1])
  expect(sample.valueTarget).toBeUndefined()
})
