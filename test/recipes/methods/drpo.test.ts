import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { drpo } from '../../../lib/recipes/methods/drpo.js'
import { centralDifferences, closeIn32 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

/** Rollouts of these lengths, every token of which has the score as its log-probability; the old policy is the same. */
function batch(score: number[], rewards: number[], length: number[]) {
  const logp = Float32Array.from(score.flatMap((s, i) => Array<number>(length[i]!).fill(s)))
  const sequenceStart = [0]
  for (const n of length) sequenceStart.push(sequenceStart.at(-1)! + n)
  return { rewards, groupStart: [0, score.length], sequenceStart, logp, oldLogp: logp }
}
const length = [100, 400, 300, 200]
const question = batch([-0.5, -0.8, -0.6, -1], [1, 1, 0, 0], length)
/** The gradient of J with respect to the scores. */
function gradScore(lambda: number): number[] {
  const { gradLogp } = optimizationStep(drpo({ lambda, maxLength: 1000 }), question)
  return length.map((n, i) => -n * gradLogp!.data[question.sequenceStart[i]!]!)
}

golden('drpo', 'one question', (check) => {
  // J is what is left of scores three times as large.
  check.float32(-optimizationStep(drpo({ maxLength: 1000 }), question).loss, 0.283772371366, 3)
  check.float32(gradScore(0.1), [0.952574126822, 0.0474258731776, -0.50999866688, -0.49000133312])
  check.float32(gradScore(0.1).slice(0, 2), [0.952574126822, 0.0474258731776])
  check.float32(gradScore(1).slice(0, 2), [0.574442516812, 0.425557483188])
  // A positive with score 0 leaves the term of the negatives.
  check.float32(optimizationStep(drpo(), batch([0, -0.6, -1], [1, 0, 0], [1, 1, 1])).loss, -0.798000133319)
})

golden('drpo', 'the constraint at K = 3e-4', (check) => {
  // Of a question without a negative the constraint alone is left; its gradient is the coefficient over the tokens.
  const right = { ...batch([-3e-4, -3e-4], [1, 1], [1, 1]), oldLogp: new Float32Array(2) }
  const { loss, gradLogp } = optimizationStep(drpo({ value: 'product' }), right)
  check.float32(-2 * gradLogp!.data[0]!, 0.2)
  check.float32(loss, 6e-5)
})

// Three prompts, the last one without a negative; a masked place with NaN; short rollouts weigh more.
const ragged = {
  rewards: [1, 1, 0, 0, 1],
  groupStart: [0, 4, 4, 5],
  sequenceStart: [0, 2, 3, 6, 7, 9],
  mask: [1, 1, 1, 1, 0, 1, 1, 1, 1],
  logp: Float32Array.of(-1, -0.5, -0.75, -2, Number.NaN, -0.25, -1.5, -0.5, -1),
  oldLogp: Float32Array.of(-0.875, -0.5, -0.5, -1.75, -1, -0.25, -1.25, -0.5, -0.75),
}
function published(logp: number[]): number {
  const s = [(logp[0]! + logp[1]!) / 2, logp[2]!, (logp[3]! + logp[5]!) / 2, logp[6]!]
  const [a, b] = [2, 1].map((n) => Math.exp((1 - n / 8) / 0.1)) as [number, number]
  const J = (a * s[0]! + b * s[1]!) / (a + b) - 10 * Math.log((Math.exp(s[2]! / 10) + Math.exp(s[3]! / 10)) / 2)
  const K = [0, 1, 2, 3, 5, 6, 7, 8].reduce((total, t) => total + (ragged.oldLogp[t]! - logp[t]!) / 8, 0)
  return -J / 3 + 500 * Math.max(K - 1e-4, 0) ** 2
}

edge('drpo', 'ragged groups, one of them empty: loss and gradient of the published equation', () => {
  const { loss, gradLogp } = optimizationStep(drpo({ maxLength: 8 }), ragged)
  const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
  closeIn32([loss], [published(finite)])
  closeIn32(gradLogp!.data, centralDifferences(published, finite))
})

edge('drpo', 'a large lambda weighs all positives alike', () => {
  const { gradLogp } = optimizationStep(drpo({ lambda: 1e9 }), question)
  closeIn32([-100 * gradLogp!.data[0]!, -400 * gradLogp!.data[100]!], [0.5, 0.5])
})

edge('drpo', 'equal outcomes, groups of one, everything masked: loss 0, gradients 0', () => {
  for (const change of [{ rewards: [1, 1, 1, 1] }, { groupStart: [0, 1, 2, 3, 4] }, { mask: new Uint8Array(1000) }]) {
    const { loss, gradLogp } = optimizationStep(drpo(), { ...question, ...change })
    expect(Math.abs(loss)).toBe(0)
    expect(gradLogp!.data.every((x) => x === 0)).toBe(true)
  }
})

edge('drpo', 'batches that it cannot take', () => {
  expect(() => optimizationStep(drpo(), { ...question, rewards: [2, 1, 0, 0] })).toThrow('drpo: rewards has 2 at 0')
  const { rewards, ...batch } = question
  expect(() => optimizationStep(drpo(), batch)).toThrow(/drpo: rewards is missing from the batch/)
})

edge('drpo', 'the reward of a rejected rollout is not looked at', () => {
  const given = (reward: number) => ({ ...question, rewards: [1, reward, 0, 0], rolloutMask: [1, 0, 1, 1] })
  expect(optimizationStep(drpo(), given(Number.NaN)).loss).toBe(optimizationStep(drpo(), given(0)).loss)
})
