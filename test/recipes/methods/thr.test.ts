import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { thr } from '../../../lib/recipes/methods/thr.js'
import { random } from '../../support/random.js'
import { edge, golden } from '../golden.js'

// onehot(y) - p on three tokens. The first rollout is right, the second one wrong.
const tokens = {
  hiddenState: [1, 0, 0.5, 0.5, 1, 0.2, -0.3, 1],
  predictionError: [1 - 0.6, -0.3, -0.1, -0.2, 1 - 0.5, -0.3, 1 - 0.5, -0.4, -0.1, -0.3, -0.3, 1 - 0.4],
  sequenceStart: [0, 2, 4],
}
const logp = Float32Array.of(-0.5, -0.7, -0.7, -0.9)
const float32 = (x: readonly number[]) => Float32Array.from(x)
const columns = {
  ...tokens,
  hiddenState: float32(tokens.hiddenState),
  predictionError: float32(tokens.predictionError),
}
const batch = { ...columns, rewards: [1, 0], groupStart: [0, 2], logp, oldLogp: logp }
const { influence } = thr().sample

golden('thr', 'the matrix, the scores and the threshold', (check) => {
  const { matrix, score, anchor } = influence({ ...tokens, correct: [1, 0] })
  check.float64(matrix, [0.3, -0.1, -0.05, 0.25, -0.25, -0.15])
  check.float64(score, [0.16, 0.09, 0.168, -0.0675])
  check.float64(anchor, 0.125)
})

golden('thr', 'the predecessor’s form softens the first wrong token alone', (check) => {
  const A = 0.5 / (Math.SQRT1_2 + 1e-4)
  const { tokenAdvantage } = prepareStep(thr({ form: 'nthr' }), batch)
  // Half of the group is right, so eta is 0.
  check.float32(tokenAdvantage!, [A, A, 0, -A])
})

golden('thr', 'the reweighting: dominant tokens, by the sign of their influence', (check) => {
  const A = 0.5 / (Math.SQRT1_2 + 1e-4)
  // sign(A) s = 0.16, 0.09, -0.168, 0.0675 against 0.125
  for (const p of [0, 0.25, -0.25]) {
    const { tokenAdvantage } = prepareStep(thr({ p }), batch)
    check.float32(tokenAdvantage!, [A * (1 + p), 0, -A * (1 - p), 0])
  }
})

edge('thr', 'the score is the sum over pairs of tokens of the products of their similarities', () => {
  const r = random(3)
  const [D, V, sequenceStart, correct] = [3, 4, [0, 2, 5, 5, 9], [1, 0, 0, 1]]
  const hiddenState = r.normals(9 * D)
  const predictionError = r.normals(9 * V)
  const mask = [1, 1, 1, 0, 1, 1, 0, 1, 1]
  const { score } = influence({ hiddenState, predictionError, sequenceStart, correct, mask })
  const dot = (x: Float32Array, n: number, s: number, t: number) =>
    Array.from({ length: n }, (_, k) => x[s * n + k]! * x[t * n + k]!).reduce((sum, value) => sum + value, 0)
  const positive = [0, 1, 5, 7, 8]
  for (let t = 0; t < 9; t++) {
    const pairs = positive.map((s) => dot(predictionError, V, s, t) * dot(hiddenState, D, s, t))
    expect(score[t]).toBeCloseTo(mask[t] ? pairs.reduce((sum, x) => sum + x, 0) : 0, 12)
  }
})

edge('thr', 'groups of one, all right or all wrong are left as they are', () => {
  const left = (rewards: number[], groupStart: number[]) => {
    const { tokenAdvantage } = prepareStep(thr(), { ...batch, rewards, groupStart, correct: [1, 1] })
    return Array.from(tokenAdvantage!)
  }
  expect(left([1, 0], [0, 1, 2])).toEqual([0, 0, 0, 0])
  const [a, b, c, d] = left([1, 0], [0, 2])
  expect([a, c]).toEqual([b, d])
  expect(a).toBe(-c!)
  expect(a).toBeGreaterThan(0)
})

edge('thr', 'right rollouts without tokens leave the group as it is, and masked tokens count nowhere', () => {
  const masked = prepareStep(thr(), { ...batch, mask: [0, 0, 1, 1] }).tokenAdvantage!
  expect(Array.from(masked.subarray(0, 2))).toEqual([0, 0])
  expect(masked[2]).toBe(masked[3])
  expect(masked[2]).toBeLessThan(0)
  const none = optimizationStep(thr(), { ...batch, mask: [0, 0, 0, 0] })
  expect(none.loss).toBe(0)
  expect(none.gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('thr', 'the denominator stays: a token without advantage counts in the mean of its rollout', () => {
  const { gradLogp, tokenAdvantage } = optimizationStep(thr(), batch)
  // Two rollouts of two tokens each, ratio 1: -A / 4.
  expect(Array.from(gradLogp!.data, (x) => 0 - 4 * x)).toEqual(Array.from(tokenAdvantage!, (x) => 0 + x))
})

edge('thr', 'ragged groups: each has its own matrix; a rejected rollout is in none', () => {
  const second = { hiddenState: float32([2, 1, 1, -1]), predictionError: float32([0.3, 0.2, -0.5, 0.6, -0.4, -0.2]) }
  const both = {
    hiddenState: float32([...tokens.hiddenState, ...second.hiddenState, 9, 9]),
    predictionError: float32([...tokens.predictionError, ...second.predictionError, 9, 9, 9]),
    sequenceStart: [0, 2, 4, 5, 6, 7],
    rewards: [1, 0, 0, 1, 1],
    groupStart: [0, 2, 5],
    rolloutMask: [1, 1, 1, 1, 0],
  }
  const together = Array.from(prepareStep(thr({ p: 0.5 }), both).tokenAdvantage!)
  const alone = prepareStep(thr({ p: 0.5 }), {
    ...second,
    sequenceStart: [0, 1, 2],
    rewards: [0, 1],
    groupStart: [0, 2],
  })
  expect(together.slice(0, 4)).toEqual(Array.from(prepareStep(thr({ p: 0.5 }), batch).tokenAdvantage!))
  expect(together.slice(4)).toEqual([...alone.tokenAdvantage!, 0])
})

edge('thr', 'missing columns, and columns of another size', () => {
  const { hiddenState, ...without } = batch
  expect(() => prepareStep(thr(), without as never)).toThrow(
    'thr: hiddenState is missing from the batch, expected f32[T,D]',
  )
  expect(() => prepareStep(thr(), { ...batch, predictionError: float32([1, 2, 3]) })).toThrow(
    'thr: predictionError has 3 values, expected a multiple of 4',
  )
})
