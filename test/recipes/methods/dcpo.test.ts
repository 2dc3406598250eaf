import { describe, expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, recipes, toJSON } from '../../../lib/recipes/index.js'
import { edge, golden } from '../golden.js'

const visits = [
  [1, 0, 0, 0],
  [1, 1, 0, 0],
  [1, 1, 1, 1],
  [1, 1, 1, 0],
]
const batch = (rewards: number[]) => ({ rewards, groupStart: [0, 4], prompt: ['p'] })
type Recipe = ReturnType<typeof recipes.dcpo>
type State = ReturnType<typeof prepareStep<Recipe>>['state']

function advantagesOf(recipe: Recipe, list = visits, state?: State): number[][] {
  return list.map((rewards) => {
    const prepared = prepareStep(recipe, batch(rewards), state)
    state = prepared.state
    return Array.from(prepared.advantage!)
  })
}
/** One token per rollout, with these old probabilities and ratios. */
function tokens(q: number[], ratio: number[], advantage: number) {
  return {
    ...batch(q.map(() => 0)),
    groupStart: [0, q.length],
    sequenceStart: q.map((_, i) => i).concat(q.length),
    oldLogp: Float32Array.from(q, Math.log),
    logp: Float32Array.from(q, (p, i) => Math.log(p * ratio[i]!)),
    advantage: q.map(() => advantage),
  }
}

describe('dynamic adaptive clipping', () => {
  const q = [0.9, 0.64, 0.5, 0.1, 0.01, 0.001]
  const bounds = (recipe: Recipe) => optimizationStep(recipe, tokens(q, q.map(() => 1), 1)).weights // biome-ignore format: short
  golden('dcpo', 'bounds', (check) => {
    const { ratioLow, ratioHigh } = bounds(recipes.dcpo())
    check.float32(ratioLow!, [0.768741924943, 0.5, 0.5, 0.5, 0.5, 0.5])
    check.float32(ratioHigh!, [1.18718427094, 1.25, 1.30622577483, 2, 5, 10])
  })
  golden('dcpo', 'bounds of the released script', (check) => {
    const { ratioLow, ratioHigh } = bounds(recipes.dcpo({ epsLow: 0.2, epsHigh: 0.28 }))
    check.float32(ratioLow![0]!, 0.666666666667)
    check.float32(ratioHigh!, [1.24907350181, 1.32915619759, 1.4, 2.24642491966, 5.81507290637, 10])
  })
  golden('dcpo', 'token losses', (check) => {
    const loss = (advantage: number) =>
      [0, 1, 2].map((i) => {
        const one = tokens([[0.9, 0.1, 0.01][i]!], [[0.7, 3, 8][i]!], advantage)
        return optimizationStep(recipes.dcpo(), one).loss
      })
    check.float32(loss(1), [-0.7, -2, -5])
    check.float32(loss(-1), [0.768741924943, 3, 8])
  })
})

describe('smooth advantage standardisation', () => {
  const fill = (...[value, rest]: [number, number]) => [value, rest, rest, rest]
  golden('dcpo', 'four visits as in the paper', (check) => {
    const [first, second, third, fourth] = advantagesOf(recipes.dcpo())
    check.float64(first!, fill(1.73205080757, -0.57735026919))
    check.float64(second!, [1.14549722437, 1.14549722437, -0.887298334621, -0.887298334621])
    check.float64(third!, Array(4).fill(0.28171808491))
    check.float64(fourth!, [0.626661869203, 0.626661869203, 0.626661869203, -1.40125853844])
  })
  golden('dcpo', 'four visits as in the released code', (check) => {
    const [first, second, third, fourth] = advantagesOf(recipes.dcpo({ ddof: 1 }))
    check.float64(first!, [1.5, -0.5, -0.5, -0.5])
    check.float64(second!, [0.996747222894, 0.996747222894, -0.771253414493, -0.771253414493])
    check.float64(third!, Array(4).fill(0.257172249937))
    check.float64(fourth!, [0.550162262436, 0.550162262436, 0.550162262436, -1.25081131218])
  })
  golden('dcpo', 'the statistics of the visits', (check) => {
    let state: State | undefined
    for (const [i, [mean, std]] of [
      [0.25, 0.433012701892],
      [0.375, 0.484122918276],
      [0.583333333333, 0.493006648592],
      [0.625, 0.484122918276],
    ].entries()) {
      // biome-ignore format: a table
      state = prepareStep(recipes.dcpo(), batch(visits[i]!), state).state
      check.float64([state!.data.prompts.p!.mean, state!.data.prompts.p!.std], [mean!, std!])
    }
  })
})

golden('dcpo', 'aggregation', (check) => {
  // Four-token and two-token rollouts with ratio 1, so that a token's loss is minus its advantage.
  const given = {
    ...batch([0, 0]),
    groupStart: [0, 2],
    sequenceStart: [0, 2, 6],
    logp: new Float32Array(6).fill(-1),
    oldLogp: new Float32Array(6).fill(-1),
    tokenAdvantage: Float32Array.of(-1, -2, -3, -3, -3, -6),
  }
  check.float32(optimizationStep(recipes.dcpo(), given).loss, 5.25)
  check.float32(optimizationStep(recipes.dcpo({ aggregate: 'token_mean' }), given).loss, 3)
})

edge('dcpo', 'rewards the other way round have the opposite advantages', () => {
  const mirrored = visits.map((rewards) => rewards.map((reward) => 1 - reward))
  const opposite = advantagesOf(recipes.dcpo(), mirrored).map((visit) => visit.map((a) => 0 - a))
  const plain = advantagesOf(recipes.dcpo())
  for (const [k, visit] of plain.entries()) expect(opposite[k]).toEqual(visit.map((a) => expect.closeTo(a, 12)))
})

edge('dcpo', 'the first visit is GRPO without eps', () => {
  const [first] = advantagesOf(recipes.dcpo({ ddof: 1 }), [[1, 0, 0.5, 0]])
  const std = Math.sqrt((0.625 ** 2 + 2 * 0.375 ** 2 + 0.125 ** 2) / 3)
  expect(first).toEqual([0.625, -0.375, 0.125, -0.375].map((x) => x / std))
})

edge('dcpo', 'a group of one, or of equal rewards, on the first visit has advantage 0', () => {
  expect(advantagesOf(recipes.dcpo(), [[1, 1, 1, 1]])).toEqual([[0, 0, 0, 0]])
  const one = prepareStep(recipes.dcpo(), { rewards: [1], groupStart: [0, 1], prompt: [7] })
  expect(Array.from(one.advantage!)).toEqual([0])
})

edge('dcpo', 'a run that is saved, restored and continued gives the same bits', () => {
  const recipe = recipes.dcpo()
  const after = prepareStep(recipe, batch(visits[1]!), prepareStep(recipe, batch(visits[0]!)).state).state!
  const restored = fromJSON(recipe, toJSON(after))
  expect(advantagesOf(recipe, visits.slice(2), restored)).toEqual(advantagesOf(recipe).slice(2))
})

edge('dcpo', 'a prompt that is not named', () => {
  expect(() => prepareStep(recipes.dcpo(), { rewards: [1], groupStart: [0, 1] } as never)).toThrow(
    'dcpo: prompt is missing from the batch, expected id[G]: names the prompt of each group, the same on every visit',
  )
})

edge('dcpo', 'a rejected rollout enters no statistic and has advantage 0, whatever its reward', () => {
  const alone = prepareStep(recipes.dcpo(), { rewards: [1, 0, 0], groupStart: [0, 3], prompt: ['p'] })
  for (const reward of [5, Number.NaN]) {
    const given = { rewards: [1, 0, reward, 0], groupStart: [0, 4], prompt: ['p'], rolloutMask: [1, 1, 0, 1] }
    const { advantage, state } = prepareStep(recipes.dcpo(), given)
    const [a, b, c] = alone.advantage! as Float64Array
    expect(Array.from(advantage!)).toEqual([a, b, 0, c])
    expect(state).toEqual(alone.state)
  }
})

edge('dcpo', 'equal rewards on every visit have advantage 0, also where their mean is rounded', () => {
  expect(advantagesOf(recipes.dcpo(), Array(7).fill([0.1, 0.1, 0.1, 0.1]))).toEqual(Array(7).fill([0, 0, 0, 0]))
  let state: State | undefined
  for (const size of [3, 2, 3, 1, 3]) {
    const rewards: number[] = Array(size).fill(0.1)
    const prepared = prepareStep(recipes.dcpo({ ddof: 1 }), { rewards, groupStart: [0, size], prompt: ['p'] }, state)
    state = prepared.state
    expect(Array.from(prepared.advantage!)).toEqual(Array(size).fill(0))
  }
  expect(state!.data.prompts.p).toEqual({ mean: 0.1, std: 0, times: 5 })
})

edge('dcpo', 'a group without rollouts, or with rejected ones alone, is no visit', () => {
  const before = prepareStep(recipes.dcpo(), batch([1, 0, 0, 0])).state
  const none = { rewards: [0.5, 0.5], groupStart: [0, 0, 2], prompt: ['p', 'q'], rolloutMask: [0, 0] }
  const { advantage, state } = prepareStep(recipes.dcpo(), none, before)
  expect(Array.from(advantage!)).toEqual([0, 0])
  expect(state).toEqual(before)
})

edge('dcpo', 'a probability that underflows has bounds also without widths', () => {
  const given = { ...tokens([1], [1], 1), oldLogp: Float32Array.of(-120), logp: Float32Array.of(-120) }
  const bounds = (options: object) => {
    const { ratioLow, ratioHigh } = optimizationStep(recipes.dcpo(options), given).weights
    return [ratioLow![0], ratioHigh![0]]
  }
  expect(bounds({ epsLow: 0, epsHigh: 0 })).toEqual([1, 1])
  expect(bounds({})).toEqual([0.5, 10])
})
