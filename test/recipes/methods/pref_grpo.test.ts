import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { prefGrpo, type Verdict } from '../../../lib/recipes/methods/pref_grpo.js'
import { fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const verdicts: Verdict[][] = [
  [
    [0, 1, 1],
    [0, 2, 1],
    [0, 3, 0.5],
    [1, 2, 1],
    [1, 3, 0],
    [2, 3, 0],
  ],
]
const batch = { verdicts, groupStart: [0, 4] }

golden('prefGrpo', 'win rates and advantages', (check) => {
  const { rewards, advantage } = prepareStep(prefGrpo({ applyGdpo: false }), batch)
  check.float64(rewards!, [0.833, 0.333, 0, 0.833])
  check.float32(advantage!, [0.816564602292, -0.408588589444, -1.22454061514, 0.816564602292])
})

golden('prefGrpo', 'advantages of win rates that are not rounded', (check) => {
  const { advantage } = prepareStep(prefGrpo({ applyGdpo: false, rounded: false }), batch)
  check.float32(advantage!, [0.816496560928, -0.408248280464, -1.224744841392, 0.816496560928])
})

golden('prefGrpo', 'a sum of normalised rewards, normalised over the batch.1 with TRL’s eps', (check) => {
  // Nothing was judged: the two rewards are further scores.
  const scores = [1, 0, 0.5, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1]
  const given = { verdicts: [[], []], groupStart: [0, 4, 8], scores, weights: [1, 1, 1] }
  const one = prepareStep(prefGrpo({ eps: 1e-4, applyGdpo: false }), given).advantage!
  check.float32(
    one,
    [0.4394343196, 0.0826895801, 1.1269373796, -1.6490612794, 0.49990002, -1.49970006, 0.49990002, 0.49990002],
  )
  const both = prepareStep(prefGrpo({ eps: 1e-4 }), given).advantage!
  check.float32(
    both,
    [0.4336028548, 0.0815922572, 1.111982481, -1.627177593, 0.4932661517, -1.4797984552, 0.4932661517, 0.4932661517],
  )
})

edge('prefGrpo', 'halfway win rates are rounded to the even digit, others to the nearest', () => {
  const win = (half: number, pairs: number): Verdict[] =>
    Array.from({ length: pairs }, (_, k) => [0, k + 1, k < half ? 0.5 : 0])
  const rate = (half: number, pairs: number) =>
    prepareStep(prefGrpo(), { verdicts: [win(half, pairs)], groupStart: [0, pairs + 1] }).rewards![0]
  expect([rate(1, 8), rate(3, 8), rate(3, 40)]).toEqual([0.062, 0.188, 0.037]) // 1/16, 3/16, 3/80
})

edge('prefGrpo', 'ties, unreadable verdicts and no verdicts at all give advantage 0', () => {
  for (const [list, rate] of [
    [[[0, 1, 0.5]], 0.5],
    [[[0, 1, null]], 0.5],
    [[], 0],
  ] as [Verdict[], number][]) {
    const { rewards, advantage } = prepareStep(prefGrpo(), { verdicts: [list], groupStart: [0, 2] })
    expect(Array.from(rewards!)).toEqual([rate, rate])
    expect(Array.from(advantage!)).toEqual([0, 0])
  }
})

edge('prefGrpo', 'a group of one has advantage 0, ragged groups keep their own mean', () => {
  const given = {
    verdicts: [
      [],
      [
        [0, 1, 1],
        [0, 2, 1],
        [1, 2, 1],
      ],
    ] as Verdict[][],
    groupStart: [0, 1, 4],
  }
  const { rewards, advantage } = prepareStep(prefGrpo({ applyGdpo: false }), given)
  expect(Array.from(rewards!)).toEqual([0, 1, 0.5, 0])
  expect(Array.from(advantage!)).toEqual([0, 1, 0, -1].map((a) => Math.fround(a / (1 + 2e-8))))
})

edge('prefGrpo', 'advantages are clamped', () => {
  const { advantage } = prepareStep(prefGrpo({ applyGdpo: false, maxAdvantage: 1 }), batch)
  expect(advantage![2]).toBe(-1)
})

edge('prefGrpo', 'pairs with a rejected rollout do not count', () => {
  const { rewards, advantage } = prepareStep(prefGrpo(), { ...batch, rolloutMask: [1, 1, 1, 0] })
  expect(Array.from(rewards!)).toEqual([1, 0.5, 0, 0])
  expect(advantage![3]).toBe(0)
})

edge('prefGrpo', 'the batch that advantages are normalised over has no rejected rollout', () => {
  const kept = [1, 0, 1, 1, 1, 1]
  const given = { verdicts: [[], []], groupStart: [0, 4, 6], scores: [1, 0, 0.5, 0, 1, 0], rolloutMask: kept }
  const { advantage } = prepareStep(prefGrpo(), given)
  const counted = Array.from(advantage!).filter((_, i) => kept[i])
  expect(counted.reduce((sum, a) => sum + a, 0)).toBeCloseTo(0, 6)
  expect(counted.reduce((sum, a) => sum + a * a, 0) / 4).toBeCloseTo(1, 6)
})

edge('prefGrpo', 'the clip range is that of a denoising step', () => {
  // The only ratio above 1 + 1e-4 with a positive advantage is cut; its gradient is 0.
  const logp = Float32Array.of(Math.log(1.01), 0)
  const given = { verdicts: [[[0, 1, 1]]] as Verdict[][], groupStart: [0, 2], sequenceStart: [0, 1, 2] }
  const step = optimizationStep(prefGrpo({ applyGdpo: false }), { ...given, logp, oldLogp: new Float32Array(2) })
  const a = step.advantage as Float32Array
  expect(Array.from(step.gradLogp!.data)).toEqual([0, -a[1]! / 2])
})

edge('prefGrpo', 'everything masked', () => learnsNothing(prefGrpo(), { verdicts: [[], []] }))

edge('prefGrpo', 'what a judge cannot have said is refused', () => {
  const step =
    (verdicts: unknown, more = {}) =>
    () =>
      prepareStep(prefGrpo(), { verdicts, groupStart: [0, 2], ...more })
  expect(step(undefined)).toThrow('prefGrpo: verdicts is missing from the batch')
  expect(step([])).toThrow('prefGrpo: verdicts is no list of 1 lists, expected one of pairs per group')
  expect(step([[[0, 2, 1]]])).toThrow(
    'prefGrpo: verdicts has the pair 0, 2 in group 0, expected two places from 0 to 1',
  )
  for (const [a, b] of [
    [1, 1],
    [-1, 1],
    [0, -1],
    [0.5, 1],
    [2, 0],
  ]) {
    // biome-ignore format: a line
    expect(step([[[a, b, 1]]])).toThrow(`verdicts has the pair ${a}, ${b} in group 0, expected two places from 0 to 1`)
  }
  expect(step([[[0, 1, 2]]])).toThrow('verdicts has the score 2, expected 1, 0.5, 0 or null')
  expect(step([[]], { weights: [1, 2] })).toThrow('prefGrpo: weights has 2 values, expected 1')
  expect(() => optimizationStep(prefGrpo(), { ...fixture, verdicts: [[], []], scores: [1] })).toThrow(
    /scores has 1 values/,
  )
})

edge('prefGrpo', 'a verdict that is no list of three', () => {
  for (const verdict of [null, 7, {}, [0, 1]]) {
    expect(() => prepareStep(prefGrpo(), { verdicts: [[verdict]], groupStart: [0, 2] })).toThrow(
      /^prefGrpo: verdicts has .* in group 0, expected \[place, place, score of the first\]$/,
    )
  }
})
