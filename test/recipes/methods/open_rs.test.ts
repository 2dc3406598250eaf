import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { openRs } from '../../../lib/recipes/methods/open_rs.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const rewards = (options: Parameters<typeof openRs>[0], correct: number, characters: number[], format = 0) => {
  const n = characters.length
  const flags = { correct: Array(n).fill(correct), format: Array(n).fill(format) }
  return prepareStep(openRs(options), { ...flags, characters, groupStart: [0, n] }).rewards!
}
const cosine = { cosineWeight: 1, clamp: false }

golden('openRs', 'cosine of right answers', (check) => {
  check.float64(rewards(cosine, 1, [0, 250, 500, 1000, 2000]), [1, 0.9267766952966369, 0.75, 0.5, 1])
})

golden('openRs', 'cosine of wrong answers with the defaults of the function', (check) => {
  const options = { ...cosine, minWrong: -1, maxWrong: -0.5 }
  check.float64(rewards(options, 0, [0, 250, 500, 1000, 2000]), [-1, -0.9267766952966369, -0.75, -0.5, -1])
})

golden('openRs', 'cosine of wrong answers with the defaults of the command line', (check) => {
  check.float64(rewards(cosine, 0, [0, 500, 1000]), [0, -0.25, -0.5])
})

golden('openRs', 'the total', (check) => check.float64(rewards({}, 1, [500], 1), 2.5))

golden('openRs', 'the loss is a token mean', (check) => {
  const columns = { correct: [1, 0], format: [1, 1], characters: [1, 1] }
  const step = optimizationStep(openRs({ klCoef: 0 }), { ...fixture, ...columns, advantage })
  check.float32(step.loss, 0.11, 12) // token losses of 1.35 in size on average
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('openRs', 'beyond maxLength the cosine is clamped unless asked otherwise', () => {
  expect(Array.from(rewards({ formatWeight: 0 }, 1, [1000, 2000]))).toEqual([1, 1])
  expect(Array.from(rewards({ formatWeight: 0, clamp: false }, 1, [2000]))).toEqual([2])
})

edge('openRs', 'correctness alone has a weight of its own', () => {
  expect(Array.from(rewards({ accuracyWeight: 3, cosineWeight: 0 }, 1, [10], 1))).toEqual([4])
})

edge('openRs', 'equal rewards, and ragged groups with a group of one', () => {
  const given = { correct: [1, 0, 0, 1], format: [1, 1, 1, 1], characters: [9, 5, 5, 5], groupStart: [0, 1, 3, 4] }
  expect(Array.from(prepareStep(openRs(), given).advantage!)).toEqual([0, 0, 0, 0])
  const { advantage } = prepareStep(openRs(), { ...given, groupStart: [0, 1, 4] })
  expect(Array.from(advantage!, Math.sign)).toEqual([0, -1, -1, 1])
})

edge('openRs', 'everything masked', () =>
  learnsNothing(openRs(), { correct: [1, 0], format: [1, 1], characters: [1, 1] }),
)

edge('openRs', 'characters is missing', () => {
  const given = { correct: [1], format: [1], groupStart: [0, 1] }
  expect(() => prepareStep(openRs(), given as never)).toThrow('openRs: characters is missing from the batch')
})

edge('openRs', 'a reference answer that cannot be parsed: accuracy and cosine are 1, whatever the length', () => {
  const given = { correct: [0, 0, 1], format: [1, 0, 0], characters: [900, 250, 250], groupStart: [0, 3] }
  const recipe = openRs({ accuracyWeight: 3, maxCorrect: 5 })
  const { rewards } = prepareStep(recipe, { ...given, unparsable: [1, 1, 0] })
  const cosine = 0.5 + 0.5 * 4.5 * (1 + Math.cos(Math.PI / 4))
  expect(Array.from(rewards!)).toEqual([3 + 1 + 2, 3 + 2, expect.closeTo(3 + 2 * cosine, 12)])
})
