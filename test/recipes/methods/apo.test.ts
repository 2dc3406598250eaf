import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { apo } from '../../../lib/recipes/methods/apo.js'
import { rdpo } from '../../../lib/recipes/methods/rdpo.js'
import { softmax } from '../../../lib/recipes/parts/sequence_scores.js'
import { closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

const before = [0.5, 0.3, 0.2]
const after = [0.6, 0.25, 0.15]

golden('apo', 'extrapolation of three outcomes', (check) => {
  const next = apo({ alpha: 0.3 }).sample.extrapolateProbabilities(before, after)
  check.float64(next, [0.6286884446, 0.2348094054, 0.13650215])
})

edge('apo', 'for a log-linear policy the extrapolation of parameters is that of probabilities', () => {
  const { extrapolate, extrapolateProbabilities } = apo({ alpha: 0.7 }).sample
  const logits = extrapolate(Float64Array.from(before, Math.log), Float64Array.from(after, Math.log))
  closeIn64(softmax(logits), extrapolateProbabilities(before, after))
  expect(extrapolate(Float32Array.of(1), Float32Array.of(2))).toEqual(Float32Array.of(Math.fround(2.7)))
})

edge('apo', 'alpha 0, or a round that changed nothing, leaves the policy as it is', () => {
  closeIn64(apo({ alpha: 0 }).sample.extrapolateProbabilities(before, after), after)
  closeIn64(apo().sample.extrapolateProbabilities(before, before), before)
  expect(apo({ alpha: 0 }).sample.extrapolate(Float64Array.of(1, 2), Float64Array.of(3, 5))).toEqual(
    Float64Array.of(3, 5),
  )
})

edge('apo', 'probabilities of 0, lengths that differ, momentum of 1', () => {
  const { extrapolate, extrapolateProbabilities } = apo().sample
  expect(Array.from(extrapolateProbabilities([0.5, 0.5, 0], [1, 0, 0]))).toEqual([1, 0, 0])
  expect(() => extrapolateProbabilities([1, 0], [0.5, 0.5])).toThrow('apo: before is 0 at 1, but after is 0.5')
  expect(() => extrapolate(new Float32Array(2), new Float32Array(3))).toThrow(
    'apo: after has 3 values, expected 2 (from before)',
  )
  expect(() => apo({ alpha: 1 })).toThrow('apo: alpha is 1, expected a finite number >= 0 < 1')
})

const pair = {
  sequenceStart: [0, 2, 3],
  logp: Float32Array.of(-0.5, -1, -1.5),
  oldLogp: Float32Array.of(-1.5, -1.5, -1),
  chosen: [0],
  rejected: [1],
}

edge('apo', 'the loss of a round is DPO, with the policy that sampled as the reference', () => {
  const { loss, gradLogp } = optimizationStep(apo(), { ...pair, refLogp: new Float32Array(3) })
  closeIn32([loss], [Math.log1p(Math.exp(-0.2))])
  const dpo = optimizationStep(rdpo({ form: 'dpo' }), { ...pair, refLogp: pair.oldLogp })
  expect([loss, ...gradLogp!.data]).toEqual([dpo.loss, ...dpo.gradLogp!.data])
})

edge('apo', 'no pairs, everything masked, a missing column', () => {
  for (const change of [{ chosen: [], rejected: [] }, { mask: [0, 0, 0] }]) {
    const { loss, gradLogp } = optimizationStep(apo(), { ...pair, ...change })
    expect([loss, ...gradLogp!.data]).toEqual([0, 0, 0, 0])
  }
  const { oldLogp, ...batch } = pair
  expect(() => optimizationStep(apo(), batch)).toThrow(/apo: oldLogp is missing from the batch/)
})
