import { describe, expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, type SavedState, toJSON } from '../../../lib/recipes/index.js'
import { dynamicRewardWeighting, type RewardWeighting } from '../../../lib/recipes/methods/dynamic_reward_weighting.js'
import { close, refuses } from '../../support/compare.js'
import { random } from '../../support/random.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

type Recipe = ReturnType<typeof dynamicRewardWeighting>
type State = SavedState<RewardWeighting> | undefined
const scores = (K: number) => Array.from({ length: 2 * K }, (_, k) => k % 2)
const groupStart = [0, 2]
const wrongValue = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_VALUE', argument })

/** The steps of a run whose batches bring these columns. */
function run(
  recipe: Recipe,
  list: { validation?: number[]; gradients?: number[][]; weights?: number[] }[],
  state?: State,
) {
  return list.map(({ gradients, ...rest }) => {
    const K = rest.validation?.length ?? gradients?.length ?? 2
    const columns = gradients && { gradients: Float32Array.from(gradients.flat()) }
    const prepared = prepareStep(recipe, { scores: scores(K), groupStart, ...rest, ...columns }, state)
    state = prepared.state
    return { ...state!.data, rewards: Array.from(prepared.rewards!) }
  })
}
const measured = (points: number[][]) =>
  run(
    dynamicRewardWeighting(),
    points.map((validation) => ({ validation })),
  )

describe('hypervolume', () => {
  const points = [
    [0.2, 0.1],
    [0.5, 0.3],
    [0.4, 0.6],
    [0.6, 0.4],
  ]
  golden('dynamicRewardWeighting', 'the factor', (check) => {
    const [, , before, after] = measured(points)
    check.float64([before!.hypervolume, after!.hypervolume], [0.12, 0.16])
    check.float64(after!.hypervolume - before!.hypervolume, 0.04)
    check.float64(after!.meta, 0.5599680205)
    check.float64(after!.rewards, [0, 0.5599680205])
  })

  edge('dynamicRewardWeighting', 'the volume is that of the union of boxes, counted cell by cell', () => {
    const r = random(7)
    for (const K of [1, 2, 3, 4]) {
      const list = Array.from({ length: 6 }, () => Array.from({ length: K }, () => 1 + r.integer(5)))
      const after = measured([Array<number>(K).fill(0), ...list])
      const cells = Array.from({ length: 6 ** K }, (_, cell) =>
        Array.from({ length: K }, (_, k) => Math.floor(cell / 6 ** k) % 6),
      )
      for (const [n, { hypervolume, meta }] of after.slice(1).entries()) {
        const covered = cells.filter((cell) =>
          list.slice(0, n + 1).some((point) => cell.every((x, k) => x < point[k]!)),
        )
        expect(hypervolume).toBe(covered.length)
        expect(meta).toBe(0.5 + 1.5 * Math.tanh(hypervolume - after[n]!.hypervolume))
      }
    }
  })

  edge('dynamicRewardWeighting', 'before the second measurement the factor is 1, without a new one it stays', () => {
    const [none, first, second, later] = run(dynamicRewardWeighting(), [
      {},
      { validation: [0.2, 0.1] },
      { validation: [0.5, 0.3] },
      {},
    ])
    expect([none!.meta, first!.meta]).toEqual([1, 1])
    expect(second!.meta).toBeGreaterThan(0.5)
    expect(later!.meta).toBe(second!.meta)
    expect(later!.front).toEqual([
      [0.2, 0.1],
      [0.5, 0.3],
    ])
  })

  edge('dynamicRewardWeighting', 'a measurement that gains nothing is not kept', () => {
    const worse = [
      [0.4, 0.3],
      [0.5, 0.3],
      [0.1, 0.9],
      [0.2, 0.9],
    ]
    for (const point of worse) {
      const after = measured([...points.slice(0, 2), point]).at(-1)!
      expect(after.meta).toBe(0.5)
      expect(after.front).toEqual(points.slice(0, 2))
    }
  })

  edge('dynamicRewardWeighting', 'the factor cancels in the advantage but for eps', () => {
    const given = { scores: [1, 0, 1, 1, 0, 0], groupStart: [0, 3] }
    const recipe = dynamicRewardWeighting({ eps: 0 })
    const one = prepareStep(recipe, given)
    const state = { ...one.state!, data: { ...one.state!.data, meta: 0.5 } }
    expect(prepareStep(recipe, given, state).advantage).toEqual(one.advantage)
    expect(prepareStep(recipe, given, state).rewards).toEqual(one.rewards!.map((r) => 0.5 * r))
  })
})

describe('gradients', () => {
  const gradients = [
    [1, 0.5, 0],
    [0.2, -0.3, 0.4],
    [-0.5, 0.1, 0.2],
  ]
  const weights = [0.334, 0.333, 0.333]
  const influence = (list: number[][]) =>
    run(dynamicRewardWeighting({ form: 'gradient', accumulate: 2 }), [{ gradients: list }])[0]!.influence

  golden('dynamicRewardWeighting', 'the weights', (check) => {
    const [after] = run(dynamicRewardWeighting({ form: 'gradient' }), [{ gradients, weights }])
    // The gradients are float32, the rest is float64.
    check.float32(after!.weights, [0.3520708837, 0.3319001021, 0.3160290142])
    check.float32(influence(gradients), [0.85, 0.29, -0.2])
  })

  golden('dynamicRewardWeighting', 'the inner products', (check) => {
    // Of one gradient alone, and of two: the influence of the first is <a, a> + <a, b>.
    const self = gradients.map((g) => influence([g])[0]!)
    check.float32(self, [1.25, 0.29, 0.3])
    const pairs = [
      [0, 1],
      [0, 2],
      [1, 2],
    ] as const
    const inner = pairs.map(([a, b]) => influence([gradients[a]!, gradients[b]!])[0]! - self[a]!)
    check.float32(inner, [0.05, -0.45, -0.05])
  })

  edge('dynamicRewardWeighting', 'influences of several batches are averaged, then start anew', () => {
    const twice = run(dynamicRewardWeighting({ form: 'gradient', accumulate: 2 }), [
      { gradients: [[2], [0]] }, // influences 4, 0
      { gradients: [[0], [4]] }, // influences 0, 16
      { gradients: [[1], [0]] },
    ])
    // The means are 2 and 8, the learning rate is 0.1 of the regularization.
    const second = 1 / (1 + Math.exp(-0.6))
    expect(twice[0]!.weights).toEqual([0.5, 0.5])
    for (const { weights } of twice.slice(1)) close(weights, [1 - second, second], 2 ** -50)
    expect(twice.map(({ batches }) => batches)).toEqual([1, 0, 1])
    expect(twice.map(({ influence }) => influence)).toEqual([[4, 0], [], [1, 0]])
  })

  edge('dynamicRewardWeighting', 'new weights make the rewards of the next step', () => {
    const recipe = dynamicRewardWeighting({ form: 'gradient', learningRate: 1 })
    const [first, second] = run(recipe, [{ gradients: [[2], [0]] }, {}])
    expect(first!.rewards).toEqual([0, 1])
    expect(first!.weights).toEqual([1, 0]) // 1e5 times the influence: no overflow
    expect(second!.rewards).toEqual([0, 1])
    expect(second!.weights).toEqual([1, 0])
  })
})

edge('dynamicRewardWeighting', 'nothing is clipped: the token mean of -r A', () => {
  // Of the golden token losses only the two clipped ones change: -1.4 · 1.5 and 0.7 · 0.8.
  const recipe = dynamicRewardWeighting({ klCoef: 0 })
  const step = optimizationStep(recipe, { ...fixture, scores: [1, 0], advantage })
  const losses = [-2.1, -1.5, -1.05, 0.56, 2.8, 0.8, 0.88]
  close(
    [step.loss, ...unmasked(step.gradLogp!.data)],
    [losses.reduce((a, b) => a + b), ...losses].map((x) => x / 7),
    2 ** -21,
  )
})

edge('dynamicRewardWeighting', 'equal weights unless given, and a weight stays from the first step', () => {
  const given = { scores: [1, 0, 0, 1, 1, 1], groupStart }
  const first = prepareStep(dynamicRewardWeighting(), given)
  expect(Array.from(first.rewards!)).toEqual([2 / 3, 2 / 3])
  const own = prepareStep(dynamicRewardWeighting(), { ...given, weights: [0.5, 0.25, 0.25] })
  expect(Array.from(own.rewards!)).toEqual([0.75, 0.5])
  expect(Array.from(prepareStep(dynamicRewardWeighting(), given, own.state).rewards!)).toEqual([0.75, 0.5])
})

edge('dynamicRewardWeighting', 'equal rewards, and ragged groups with a group of one', () => {
  const given = { scores: [1, 0.5, 0.5], groupStart: [0, 1, 3] }
  const { advantage } = prepareStep(dynamicRewardWeighting(), given)
  expect(Array.from(advantage!)).toEqual([Math.fround(1 / (1 + 1e-6)), 0, 0])
})

edge('dynamicRewardWeighting', 'a run that is saved, restored and continued gives the same bits', () => {
  const recipe = dynamicRewardWeighting()
  const list = [
    [0.2, 0.1],
    [0.5, 0.3],
    [0.4, 0.6],
    [0.6, 0.4],
  ].map((validation) => ({ validation }))
  const all = run(recipe, list)
  const { rewards, ...data } = all[1]!
  const state = fromJSON(recipe, toJSON({ method: recipe.name, version: 1, options: recipe.options, data }))
  expect(run(recipe, list.slice(2), state)).toEqual(all.slice(2))
})

edge('dynamicRewardWeighting', 'everything masked', () => learnsNothing(dynamicRewardWeighting(), { scores: [1, 0] }))

edge('dynamicRewardWeighting', 'sizes that do not fit, and missing scores', () => {
  const recipe = dynamicRewardWeighting()
  expect(() => prepareStep(recipe, { groupStart } as never)).toThrow('dynamicRewardWeighting: scores is missing')
  expect(() => prepareStep(recipe, { scores: scores(2), groupStart, validation: [1] })).toThrow(
    /validation has 1 values, expected 2/,
  )
  const { state } = prepareStep(recipe, { scores: scores(3), groupStart })
  expect(() => prepareStep(recipe, { scores: scores(2), groupStart }, state)).toThrow(
    'dynamicRewardWeighting: state has 3 objectives, expected 2 as in scores',
  )
})

edge(
  'dynamicRewardWeighting',
  'weights that no float32 holds, or that have no logarithm where gradients change them',
  () => {
    const [hypervolume, gradient] = [dynamicRewardWeighting(), dynamicRewardWeighting({ form: 'gradient' })]
    const given = { scores: scores(2), groupStart }
    const step = (recipe: typeof hypervolume, weights: number[]) => prepareStep(recipe, { ...given, weights })
    refuses(() => step(hypervolume, [1e300, 1]), {
      ...wrongValue('weights'),
      message: /has the weights 1e\+300, 1, expected float32 numbers$/,
    })
    for (const weights of [
      [1, -1],
      [0, 0],
    ]) {
      const message = /has the weights [-01, ]+, expected float32 numbers, none below 0, one above$/
      refuses(() => step(gradient, weights), { ...wrongValue('weights'), message })
      // Of the other form they are factors of rewards, whatever their sign.
      const { state } = step(hypervolume, weights)
      expect(state.data.weights).toEqual(weights)
      const saved = { ...state, options: gradient.options }
      refuses(() => prepareStep(gradient, given, saved), { ...wrongValue('state'), message })
    }
  },
)

edge('dynamicRewardWeighting', 'a weight of 0 stays 0, however large its influence', () => {
  const recipe = dynamicRewardWeighting({ form: 'gradient' })
  const options = { scores: scores(3), groupStart, weights: [0, 0.25, 0.75] }
  // Influences 1e6, 0 and 0: e to the power of 1e5 is no number.
  const gradients = Float32Array.of(1000, 0, 0, 0, 0, 0)
  expect(prepareStep(recipe, { ...options, gradients }).state.data.weights).toEqual([0, 0.25, 0.75])
})

edge('dynamicRewardWeighting', 'no rollouts: weights as they were, also where the objectives are not yet known', () => {
  const empty = { groupStart: [0], scores: [] }
  for (const form of ['hypervolume', 'gradient'] as const) {
    const recipe = dynamicRewardWeighting({ form })
    const weightsOf = (given: object, state?: never) => prepareStep(recipe, { ...empty, ...given }, state).state!.data.weights // biome-ignore format: short
    expect(weightsOf({ weights: [0.5, 0.5] })).toEqual([0.5, 0.5])
    expect(weightsOf({ gradients: Float32Array.of(1, 2) })).toEqual([])
  }
})
