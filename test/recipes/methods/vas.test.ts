import { expect } from 'vitest'
import { fromJSON, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { vas } from '../../../lib/recipes/methods/vas.js'
import { random } from '../../support/random.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const P = [0, 0.125, 0.5, 0.875, 1]
const diversity = [0.9, 0.6, 0.4, 0.2, 0.1]
const prompts = ['a', 'b', 'c', 'd', 'e']
const batch = { rewards: [1, 0], groupStart: [0, 2] }
const scored = { ...batch, scored: prompts, correctness: P, diversity }

golden('vas', 'scores', (check) => {
  const onlyAccuracy = vas({ accuracyWeight: 1, diversityWeight: 0 })
  check.float64(P.map((p) => onlyAccuracy.sample.score(p)), [0, 0.109375, 0.25, 0.109375, 0]) // biome-ignore format: short
  const { scores } = prepareStep(vas(), scored).state!.data
  check.float64(Object.values(scores), [0.18, 0.2075, 0.28, 0.1275, 0.02])
})

golden('vas', 'probabilities of the paper and weights of the released code', (check) => {
  const scores = P.map((p, q) => vas().sample.score(p, diversity[q]))
  const published = [0.220858895706, 0.254601226994, 0.343558282209, 0.156441717791, 0.0245398773006]
  check.float64(vas().sample.probabilities(scores), published)
  check.float64(Object.values(prepareStep(vas(), scored).sample.probability), published)
  check.float64(vas({ form: 'code' }).sample.weights(scores), [0.615384591716, 0.721153818417, 0.999999961538, 0.413461522559, 0]) // biome-ignore format: short
})

edge('vas', 'half of a batch is drawn by score, half uniformly', () => {
  const { uniform } = random(21)
  const { data } = prepareStep(vas(), scored).state!
  const seen = Array(6).fill(0)
  for (let run = 0; run < 5000; run++)
    for (const q of vas().sample.draw(data, [...prompts, 'new'], 7, uniform)) seen[q]++
  const total = [0.18, 0.2075, 0.28, 0.1275, 0.02, 0]
  // Of seven prompts three come by score. Six standard deviations of a share in 35000 draws are below 0.016.
  total.forEach((x, q) => expect(Math.abs(seen[q] / 35000 - (3 / 7) * (x / 0.815) - 4 / 42)).toBeLessThan(0.016))
})

edge('vas', 'the released code walks through the prompts, and never draws the worst by score', () => {
  const { uniform } = random(22)
  const recipe = vas({ form: 'code' })
  let state = prepareStep(recipe, scored).state!
  const walked: number[] = []
  const byScore: number[] = []
  for (let step = 0; step < 40; step++) {
    const drawn = recipe.sample.draw(state.data, prompts, 6, uniform)
    byScore.push(...drawn.slice(0, 3))
    walked.push(...drawn.slice(3))
    state = fromJSON(recipe, toJSON(prepareStep(recipe, batch, state).state!))
  }
  expect(walked).toEqual(Array.from({ length: 120 }, (_, k) => (3 + k) % 5))
  expect(byScore).not.toContain(4)
  expect(new Set(byScore).size).toBe(4)
})

edge('vas', 'before the first scores, and where all are 0, prompts are equal', () => {
  const { uniform } = random(23)
  const drawn = vas({ mix: 1 }).sample.draw({ step: 0, scores: {} }, prompts, 200, uniform)
  expect(new Set(drawn).size).toBe(5)
  expect(vas().sample.probabilities([0, 0])).toEqual([0.5, 0.5])
  expect(vas({ form: 'code' }).sample.probabilities([0.3, 0.3])).toEqual([0.5, 0.5])
  expect(vas().sample.draw({ step: 0, scores: {} }, ['one'], 3, uniform)).toEqual([0, 0, 0])
})

edge('vas', 'scores are kept until they are refreshed, with momentum', () => {
  const recipe = vas({ momentum: 0.25, accuracyWeight: 1, diversityWeight: 1, every: 2 })
  const first = prepareStep(recipe, { ...batch, scored: ['a', 7], correctness: [0.5, 1] })
  expect(first.state!.data).toEqual({ step: 1, scores: { a: 0.25, 7: 0 } })
  expect(first.sample.refresh).toBe(false)
  const kept = prepareStep(recipe, batch, first.state)
  expect(kept.state!.data.scores).toEqual(first.state!.data.scores)
  expect(kept.sample.refresh).toBe(true)
  const again = prepareStep(recipe, { ...batch, scored: ['a'], correctness: [0], diversity: [1] }, kept.state)
  expect(again.state!.data).toEqual({ step: 3, scores: { a: 0.25 * 0.25 + 0.75, 7: 0 } })
  expect(first.state!.data.step).toBe(1)
})

golden('vas', 'the released code averages normalised scores', (check) => {
  const recipe = vas({ form: 'code', momentum: 0.5, accuracyWeight: 1, diversityWeight: 0 })
  const two = { ...batch, scored: ['a', 'b'] }
  // Scores (0.25, 0), then (0, 0.09): normalised they are (1, 0) and (0, 1).
  const first = prepareStep(recipe, { ...two, correctness: [0.5, 1] })
  const { state, sample } = prepareStep(recipe, { ...two, correctness: [0, 0.9] }, first.state)
  check.float64(Object.values(first.state!.data.scores), [0.25 / (0.25 + 1e-8), 0])
  check.float64(Object.values(state!.data.scores), [0.5 * (0.25 / (0.25 + 1e-8)), 0.5 * (0.09 / (0.09 + 1e-8))])
  check.float64(Object.values(sample.probability).map((p) => Math.round(p * 1e6) / 1e6), [0.5, 0.5]) // biome-ignore format: short
  const { uniform } = random(24)
  const drawn = vas({ form: 'code', mix: 1 }).sample.draw(state!.data, ['a', 'b'], 4000, uniform)
  // Six standard deviations of a share of one half in 4000 draws are 0.048.
  expect(Math.abs(drawn.filter((q) => q === 0).length / 4000 - 0.5)).toBeLessThan(0.048)
  // Nothing measured: nothing averaged. A prompt that was not measured again keeps its score in the range of all.
  const idle = prepareStep(recipe, batch, state)
  expect(idle.state!.data).toEqual({ ...state!.data, step: 3 })
  const third = prepareStep(recipe, { ...batch, scored: ['c'], correctness: [0.5] }, idle.state).state!.data
  check.float64(third.scores.c!, 0.25 / (0.25 + 1e-8))
  check.float64(third.scores.b!, 0.5 * state!.data.scores.b! + (0.5 * 0.09) / (0.25 + 1e-8))
})

edge('vas', 'without momentum the released code draws by the normalised scores as they are', () => {
  const recipe = vas({ form: 'code' })
  const once = prepareStep(recipe, scored)
  const again = prepareStep(recipe, scored, fromJSON(recipe, toJSON(once.state!)))
  const expected = recipe.sample.probabilities(P.map((p, q) => recipe.sample.score(p, diversity[q])))
  expect(Object.values(once.sample.probability)).toEqual(expected)
  expect(Object.values(again.sample.probability)).toEqual(expected)
})

edge('vas', 'the loss is GRPO’s; everything masked; a group of one', () => {
  learnsNothing(vas(), { rewards: [0, 1] })
  expect(Array.from(prepareStep(vas(), { rewards: [2], groupStart: [0, 1] }).advantage!)).toEqual([0])
})

edge('vas', 'a missing column, and what is no share', () => {
  const { correctness, diversity: _, ...rest } = scored
  expect(() => prepareStep(vas(), rest)).toThrow('vas: correctness is missing from the batch, expected number[Q]')
  for (const wrong of [1.5, -0.5, Number.NaN]) {
    expect(() => prepareStep(vas(), { ...rest, correctness: [0, 1, wrong, 0, 0] })).toThrow(`vas: correctness has ${wrong} at 2`) // biome-ignore format: a row
  }
  expect(() => prepareStep(vas(), { ...rest, correctness: [0] })).toThrow('vas: correctness has 1 values, expected 5')
})

edge('vas', 'a diversity below 0, or none, and no prompt to draw', () => {
  for (const wrong of [-0.5, Number.NaN]) {
    expect(() => prepareStep(vas(), { ...scored, diversity: [0, wrong, 0, 0, 0] })).toThrow(
      `vas: diversity has ${wrong} at 1, expected at least 0`,
    )
  }
  for (const form of ['paper', 'code'] as const) {
    const { draw } = vas({ form }).sample
    expect(() => draw({ step: 0, scores: {} }, [], 3, Math.random)).toThrow('vas: prompts is empty, expected some to draw 3 from') // biome-ignore format: short
    expect(draw({ step: 0, scores: {} }, [], 0, Math.random)).toEqual([])
  }
})
