import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { tpGrpo } from '../../../lib/recipes/methods/tp_grpo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const example = {
  rewards: [1, 1, -1, -1],
  groupStart: [0, 4],
  sequenceStart: [0, 2, 4, 6, 8],
  sound: [1, 0, 1, 0, 1, 0, 1, 0],
}

golden('tpGrpo', 'advantages of sound and unsound thoughts', (check) => {
  const right = [0.866025403784, 0.6160254037844387]
  const wrong = [-0.866025403784, 0]
  check.float32(prepareStep(tpGrpo(), example).tokenAdvantage!, [...right, ...right, ...wrong, ...wrong])
})

golden('tpGrpo', 'the process reward', (check) => {
  const { tokenAdvantage } = prepareStep(tpGrpo(), example)
  check.float32(tokenAdvantage![0]! - tokenAdvantage![1]!, 0.25, 4)
})

golden('tpGrpo', 'loss and gradient', (check) => {
  const step = optimizationStep(tpGrpo({ klCoef: 0 }), { ...fixture, advantage, sound: fixture.mask })
  check.float32(step.loss, -0.085, 16) // the tokens' losses are 16 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.25, -0.175, 0, 0.35, 0.1, 0.11])
})

edge(
  'tpGrpo',
  'the closed forms are sums of process rewards over thoughts, the last of which has the outcome alone',
  () => {
    // Thoughts of one token each, alternating; the last one of a correct solution is correct.
    const sound = [0, 1, 0, 1]
    const batch = { rewards: [1, 1, 1, -1], groupStart: [0, 4], sequenceStart: [0, 4, 4, 4, 4], sound }
    const { tokenAdvantage } = prepareStep(tpGrpo(), batch)
    const outcome = 0.5 / 1
    const process = 0.5 * 0.75
    const expected = sound.map((_, t) => sound.slice(t, -1).reduce((sum, s) => sum + (s ? process : -process), outcome))
    expect(Array.from(tokenAdvantage!)).toEqual(expected.map((a) => expect.closeTo(a, 6)))
  },
)

edge('tpGrpo', 'a group of one, or of equal outcomes, has advantage 0', () => {
  const one = { rewards: [1, 1, 1, -1, -1], groupStart: [0, 1, 3, 5], sequenceStart: [0, 2, 4, 6, 8, 10] }
  const { tokenAdvantage } = prepareStep(tpGrpo(), { ...one, sound: [1, 0, 1, 0, 1, 0, 1, 0, 1, 0] })
  expect(tokenAdvantage).toEqual(new Float32Array(10))
})

edge('tpGrpo', 'ragged groups; a rejected rollout changes nothing', () => {
  const all = {
    rewards: [1, -1, 1, 1, -1],
    rolloutMask: [1, 1, 0, 1, 1],
    groupStart: [0, 3, 5],
    sequenceStart: [0, 1, 3, 4, 5, 7],
    sound: [0, 1, 0, 0, 0, 1, 0],
  }
  const { tokenAdvantage } = prepareStep(tpGrpo(), all)
  const a = Math.SQRT1_2
  expect(Array.from(tokenAdvantage!)).toEqual([a - 0.25, -a, 0, 0, a - 0.25, -a, 0].map((x) => expect.closeTo(x, 6)))
})

edge('tpGrpo', 'the divisor of the standard deviation', () => {
  const { tokenAdvantage } = prepareStep(tpGrpo({ ddof: 0 }), example)
  expect(Array.from(tokenAdvantage!).slice(0, 2)).toEqual([1, 0.75])
})

edge('tpGrpo', 'everything masked', () => learnsNothing(tpGrpo(), { sound: fixture.mask, rewards: [1, -1] }))

edge('tpGrpo', 'without labels', () => {
  const { sound, ...rest } = example
  expect(() => prepareStep(tpGrpo(), rest as never)).toThrow(
    'tpGrpo: sound is missing from the batch, expected flag[T]',
  )
})

edge('tpGrpo', 'a group that is all correct teaches nothing: its unsound thoughts have 0 and not -r_c', () => {
  const batch = { rewards: [1, 1], groupStart: [0, 2], sequenceStart: [0, 2, 4], sound: [1, 0, 0, 1] }
  expect(prepareStep(tpGrpo(), batch).tokenAdvantage).toEqual(new Float32Array(4))
})
