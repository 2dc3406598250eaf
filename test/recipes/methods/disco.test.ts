import { describe, expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { disco } from '../../../lib/recipes/methods/disco.js'
import { centralDifferences, closeIn32 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const rows = [[-1, -0.5], [-0.8, -1.2], [-2, -1], [-0.7, -0.9]] // biome-ignore format: a table
const oldRows = [[-1.1, -0.6], [-0.9, -1.1], [-1.8, -1], [-0.7, -1]] // biome-ignore format: a table
const tokens = (list: number[][]) => Float32Array.from(list.flat())
const question = {
  rewards: [1, 0, 0, 1],
  groupStart: [0, 4],
  sequenceStart: [0, 2, 4, 6, 8],
  logp: tokens(rows),
  oldLogp: tokens(oldRows),
}
/** Without the constraint the loss is -J. */
const free = { beta: 0 } as const

/** The score of a row, against a negative whose score is known. */
function scoreOf(i: number, score: 'log_likelihood' | 'likelihood_ratio'): number {
  const batch = {
    rewards: [1, 0],
    groupStart: [0, 2],
    sequenceStart: [0, 2, 4],
    logp: tokens([rows[i]!, [0, 0]]),
    oldLogp: tokens([oldRows[i]!, [0, 0]]),
  }
  const { loss } = optimizationStep(disco({ ...free, score, negatives: 'mean' }), batch)
  return -loss + (score === 'likelihood_ratio' ? 1 : 0)
}

describe('one question', () => {
  golden('disco', 'log-likelihood scores and objectives', (check) => {
    check.float32([0, 1, 2, 3].map((i) => scoreOf(i, 'log_likelihood')), [-0.75, -1, -1.5, -0.8]) // biome-ignore format: short
    check.float32(-optimizationStep(disco({ ...free, negatives: 'mean' }), question).loss, 0.475)
    check.float32(-optimizationStep(disco(free), question).loss, 0.4718753254665903)
    const { gradLogp } = optimizationStep(disco(free), question)
    check.float32([2, 4].map((t) => 2 * gradLogp!.data[t]!), [0.512497396484, 0.487502603516]) // biome-ignore format: short
  })
  golden('disco', 'likelihood-ratio scores and objectives', (check) => {
    const score = 'likelihood_ratio'
    // The ratios are of differences of log-probabilities ten times as large.
    check.float32([0, 1, 2, 3].map((i) => scoreOf(i, score)), [1.105170918076, 1.005004168056, 0.909365376539, 1.052585459038]) // biome-ignore format: short
    check.float32(
      -optimizationStep(disco({ ...free, score, negatives: 'mean' }), question).loss,
      0.1216934162593386,
      10,
    )
    check.float32(-optimizationStep(disco({ ...free, score }), question).loss, 0.12055050443614768, 10)
  })
  golden('disco', 'the constraint', (check) => {
    check.float32(optimizationStep(disco({ negatives: 'mean' }), question).loss, -0.475)
    // Of a question without a negative the constraint alone is left. With beta 1 and delta 0 the code's value is K^2.
    // K is what is left of log-probabilities a hundred times as large; with k3, of the squares of their tenths.
    const right = { ...question, rewards: [1, 1, 1, 1] }
    const swapped = { ...right, logp: question.oldLogp, oldLogp: question.logp }
    const square = { value: 'product', beta: 1, delta: 0 } as const
    const minusK = Math.sqrt(optimizationStep(disco(square), swapped).loss)
    check.float32(-minusK, -0.0125, 100)
    const K = Math.sqrt(optimizationStep(disco({ ...square, kl: 'k3' }), right).loss)
    check.float32(K, 0.0055314804270664986, 20)
    const { loss } = optimizationStep(disco({ kl: 'k3', value: 'product' }), right)
    check.float32(loss / K, 5.431480427066498, 20)
    check.float32(loss, 0.030044127672313122, 40)
  })
})

// Ragged: four prompts with 3, 1, 2 and 3 rollouts. The second is lone, the third all wrong; of the last one a rollout is
// masked wholly. One place is NaN under the mask.
const N = 9
const sequenceStart = [0, 2, 3, 6, 7, 9, 10, 12, 13, 15]
const ragged = {
  rewards: [1, 0, 0, 1, 0, 0, 1, 0, 0],
  groupStart: [0, 3, 4, 6, 9],
  sequenceStart,
  mask: [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
  logp: Float32Array.of(-1, -0.5, -0.75, -2, Number.NaN, -0.25, -1.5, -0.5, -1, -2, -0.875, -1.25, -0.5, -9, -9),
  oldLogp: Float32Array.of(-0.875, -0.5, -0.5, -1.75, -1, -0.25, -1.25, -0.5, -0.75, -2.5, -1, -1, -0.25, -1, -1),
}

/** The loss as it is published, in float64. */
function published(logp: number[], byRatio: boolean, tau: number, kl: 'k1' | 'k3'): number {
  const places = Array.from({ length: N }, (_, i) =>
    Array.from({ length: sequenceStart[i + 1]! - sequenceStart[i]! }, (_, k) => sequenceStart[i]! + k).filter(
      (t) => ragged.mask[t],
    ),
  )
  const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length
  const d = (t: number) => logp[t]! - ragged.oldLogp[t]!
  const s = places.map((list) => mean(list.map((t) => (byRatio ? Math.exp(d(t)) : logp[t]!))))
  const logMeanExp = (x: number[]) => tau * Math.log(mean(x.map((v) => Math.exp(v / tau))))
  // The first and the last prompt have both outcomes; rollout 8 has no token.
  const J = [s[0]! - logMeanExp([s[1]!, s[2]!]), s[6]! - logMeanExp([s[7]!])].reduce((a, b) => a + b) / 4
  const K = mean(places.flat().map((t) => -d(t) + (kl === 'k3' ? Math.exp(d(t)) - 1 : 0)))
  return -J + 500 * Math.max(K - 1e-4, 0) ** 2
}

edge('disco', 'ragged groups: loss and gradient of the published equation', () => {
  const cases = [['log_likelihood', 10], ['likelihood_ratio', 1]] as const // biome-ignore format: a table
  for (const [score, tau] of cases) {
    for (const kl of ['k1', 'k3'] as const) {
      const step = optimizationStep(disco({ score, kl }), ragged)
      const exact = (logp: number[]) => published(logp, score === 'likelihood_ratio', tau, kl)
      const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
      closeIn32([step.loss], [exact(finite)])
      closeIn32(step.gradLogp!.data, centralDifferences(exact, finite))
    }
  }
})

edge('disco', 'the two values of the constraint have one gradient, that of the square', () => {
  const [square, product] = (['square', 'product'] as const).map((value) => optimizationStep(disco({ value }), ragged))
  expect(square!.loss).not.toBe(product!.loss)
  expect(square!.gradLogp!.data).toEqual(product!.gradLogp!.data)
})

edge('disco', 'DisCO-b is the limit of a large tau', () => {
  const far = optimizationStep(disco({ ...free, tau: 1e7 }), ragged)
  const even = optimizationStep(disco({ ...free, negatives: 'mean' }), ragged)
  closeIn32([far.loss], [even.loss])
  closeIn32(far.gradLogp!.data, even.gradLogp!.data)
})

edge('disco', 'a batch without both outcomes for any prompt: the constraint alone', () => {
  for (const outcome of [1, 0]) {
    const rewards = Array<number>(4).fill(outcome)
    const { loss, gradLogp } = optimizationStep(disco(), { ...question, rewards })
    expect(loss).toBe(0)
    expect(gradLogp!.data.every((x) => x === 0)).toBe(true)
    const moved = { ...question, rewards, logp: question.oldLogp, oldLogp: question.logp }
    expect(optimizationStep(disco(), moved).loss).toBeGreaterThan(0)
  }
})

edge('disco', 'groups of one', () => {
  const lone = { ...question, groupStart: [0, 1, 2, 3, 4] }
  expect(optimizationStep(disco(), lone).loss).toBe(0)
})

edge('disco', 'a rollout that is rejected is in neither list', () => {
  const step = optimizationStep(disco(free), { ...question, rolloutMask: [1, 1, 0, 1] })
  closeIn32([step.loss], [-(-0.775 + 1)])
  expect(Array.from(step.gradLogp!.data.subarray(4, 6), Math.abs)).toEqual([0, 0])
})

edge('disco', 'everything masked: loss 0, gradients 0', () => {
  const { loss, gradLogp } = optimizationStep(disco(), { ...question, mask: new Uint8Array(8) })
  expect(Math.abs(loss)).toBe(0)
  expect(gradLogp!.data.every((x) => x === 0)).toBe(true)
})

edge('disco', 'batches that it cannot take', () => {
  expect(() => optimizationStep(disco(), { ...question, rewards: [1, 0, 0.5, 0] })).toThrow(
    'disco: rewards has 0.5 at 2, expected 0 or 1',
  )
  const { oldLogp, ...batch } = question
  expect(() => optimizationStep(disco(), batch)).toThrow(/disco: oldLogp is missing from the batch, expected f32\[T\]/)
  expect(() => optimizationStep(disco(), { ...question, logp: question.logp.subarray(1) })).toThrow(
    'disco: logp has length 7, expected 8 (T from sequenceStart)',
  )
})

edge('disco', 'the reward of a rejected rollout is not looked at', () => {
  const rolloutMask = [1, 1, 0, 1]
  const unknown = { ...question, rewards: [1, 0, Number.NaN, 1], rolloutMask }
  expect(optimizationStep(disco(), unknown)).toEqual(
    expect.objectContaining({ loss: optimizationStep(disco(), { ...question, rolloutMask }).loss }),
  )
})
