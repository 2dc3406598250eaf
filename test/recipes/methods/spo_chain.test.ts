import { expect } from 'vitest'
import { moments } from '../../../lib/index.js'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { spoChain } from '../../../lib/recipes/methods/spo_chain.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing } from '../masked.js'

const log = (...p: number[]) => Float32Array.from(p, Math.log)
const oldLogp = log(0.95, 0.5, 0.99, 0.8, 0.3, 0.97, 0.85, 0.6)
const low = [1, 3, 4, 6, 7]
const withoutCutpoints = { ...fixture, advantage, cutpoints: [[], []], values: [[], []] }
const example = {
  oldLogp,
  sequenceStart: [0, 8],
  groupStart: [0, 1],
  rewards: [1],
  cutpoints: [[0, 3, 6]],
  values: [[0.4, 0.6, 0.2]],
}

golden('spoChain', 'cutpoints', (check) => {
  check.float64(spoChain({ interval: 2 }).sample.cutpoints(oldLogp), [0, 3, 6])
  // With every one of them the low positions themselves: one after each cutpoint.
  check.float64(spoChain({ interval: 1 }).sample.cutpoints(oldLogp).map((place) => place + 1), low) // biome-ignore format: short
})

golden('spoChain', 'segment advantages', (check) => {
  const all = spoChain({ whiten: false, maxProbability: 1 })
  check.float32(prepareStep(all, example).tokenAdvantage!, [0, 0.2, 0.2, 0.2, -0.4, -0.4, -0.4, 0.8])
  const masked = prepareStep(spoChain({ whiten: false }), example).tokenAdvantage!
  check.float32(masked, [0, 0.2, 0, 0.2, -0.4, 0, -0.4, 0.8])
})

golden('spoChain', 'whitening over the loss tokens', (check) => {
  const raw = prepareStep(spoChain({ whiten: false }), example)
  const { mean, m2, count } = moments({ x: raw.tokenAdvantage!, mask: raw.mask })
  // The five numbers were rounded to float32, the largest to 2 ** -24 of 1.
  check.float32([mean, m2 / (count - 1)], [0.08, 0.252])
  const { tokenAdvantage } = prepareStep(spoChain(), example)
  check.float32(
    low.map((t) => tokenAdvantage![t]!),
    [0.239045717124, 0.239045717124, -0.956182868496, -0.956182868496, 1.43427430274],
  )
})

golden('spoChain', 'loss and gradient', (check) => {
  const step = optimizationStep(spoChain({ klCoef: 0 }), withoutCutpoints)
  check.float32(step.loss, 0.11, 12) // the tokens' losses are 12 times as large, and cancel
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

edge('spoChain', 'the KL is summed over loss tokens and averaged over rollouts', () => {
  const loss = (klCoef: number) => optimizationStep(spoChain({ klCoef }), withoutCutpoints).loss
  const kl = Array.from(fixture.logp, (logp, t) => {
    const x = logp - fixture.refLogp[t]!
    return fixture.mask[t] ? Math.exp(-x) - 1 + x : 0
  })
  const expected = kl.reduce((total, k) => total + k, 0) / 2
  expect((loss(100) - loss(0)) / 100).toBeCloseTo(expected, 6)
})

edge('spoChain', 'a probability of exactly the bound keeps its advantage and does not enter the loss', () => {
  const batch = { ...example, oldLogp: log(0.9, 0.95, 0.5), sequenceStart: [0, 3], cutpoints: [[-1]], values: [[0.5]] }
  const prepared = prepareStep(spoChain({ whiten: false }), batch)
  expect(Array.from(prepared.tokenAdvantage!)).toEqual([0.5, 0, 0.5])
  expect(Array.from(prepared.mask!)).toEqual([0, 0, 1])
  expect(spoChain({ interval: 1 }).sample.cutpoints(log(0.9, 0.95, 0.5))).toEqual([1])
})

edge('spoChain', 'a first token of low probability gives the prompt as a cutpoint', () => {
  const { cutpoints } = spoChain().sample
  expect(cutpoints(log(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.95))).toEqual([-1, 4])
  expect(cutpoints(log(0.95, 0.99))).toEqual([])
  expect(cutpoints([])).toEqual([])
})

edge('spoChain', 'no cutpoint: all 0; no value of the prompt: the first segment is 0; ragged rollouts', () => {
  const batch = {
    oldLogp: log(0.5, 0.5, 0.5, 0.5, 0.5),
    sequenceStart: [0, 2, 2, 5],
    groupStart: [0, 1, 3],
    rewards: [1, 1, 0],
    cutpoints: [[], [], [-1, 1]],
    values: [[], [], [0.75, 0.5]],
  }
  const { tokenAdvantage } = prepareStep(spoChain({ whiten: false }), batch)
  expect(Array.from(tokenAdvantage!)).toEqual([0, 0, -0.25, -0.25, -0.5])
})

edge('spoChain', 'rejected rollouts enter neither the whitening nor the loss', () => {
  const rejected = {
    oldLogp: Float32Array.of(...oldLogp, ...oldLogp),
    sequenceStart: [0, 8, 16],
    groupStart: [0, 2],
    rewards: [1, 7],
    rolloutMask: [1, 0],
    cutpoints: [[0, 3, 6], [0, 3, 6]], // biome-ignore format: short
    values: [[0.4, 0.6, 0.2], [5, 5, 5]], // biome-ignore format: short
  }
  const { tokenAdvantage, mask } = prepareStep(spoChain(), rejected)
  expect(tokenAdvantage!.subarray(0, 8)).toEqual(prepareStep(spoChain(), example).tokenAdvantage)
  expect(mask!.subarray(8).some((m) => m === 1)).toBe(false)
})

edge('spoChain', 'equal values, and everything masked: nothing is learned', () => {
  const equal = { ...example, logp: oldLogp, values: [[0.5, 0.5, 0.5]], rewards: [0.5] }
  expect(optimizationStep(spoChain({ klCoef: 0 }), equal).loss).toBe(0)
  learnsNothing(spoChain(), { rewards: [1, 0], cutpoints: [[-1], [0]], values: [[1], [0]] })
})

edge('spoChain', 'columns that do not fit', () => {
  const { cutpoints, ...rest } = example
  expect(() => prepareStep(spoChain(), rest as never)).toThrow('spoChain: cutpoints is missing from the batch')
  const refused = (batch: object, text: string) =>
    expect(() => prepareStep(spoChain(), { ...example, ...batch })).toThrow(text)
  refused({ values: [[0.4]] }, 'spoChain: values has 1 at 0, expected 3: one per cutpoint')
  refused({ values: [] }, 'spoChain: values is no list of 1 lists, expected one for each rollout')
  refused({ cutpoints: [[0, 0, 6]] }, 'spoChain: cutpoints has 0 at 0, expected whole places that rise from -1')
  refused({ cutpoints: [[0, 3, 7]] }, 'and end before the last of 8 tokens')
  refused({ cutpoints: [[0, 2.5, 6]] }, 'spoChain: cutpoints has 2.5 at 0, expected whole places')
  refused({ cutpoints: [7] }, 'spoChain: cutpoints is 7, expected a list for each rollout')
})

edge('spoChain', 'the KL is a mean over all rollouts that are not rejected, also those without a loss token', () => {
  const logp = Float32Array.of(-1, -0.01)
  const given = {
    logp,
    oldLogp: logp,
    refLogp: Float32Array.of(-2, -0.01),
    rewards: [0, 0],
    groupStart: [0, 2],
    sequenceStart: [0, 1, 2],
    cutpoints: [[], []],
    values: [[], []],
  }
  const recipe = spoChain({ klCoef: 1, whiten: false })
  const k3 = Math.exp(-1) - 1 + 1
  expect(optimizationStep(recipe, given).loss).toBeCloseTo(k3 / 2, 6)
  expect(optimizationStep(recipe, { ...given, rolloutMask: [1, 0] }).loss).toBeCloseTo(k3, 6)
  expect(optimizationStep(recipe, { ...given, rolloutMask: [0, 0] }).loss).toBe(0)
})

edge('spoChain', 'the parts of a batch add up to it, with the totals', () => {
  const log8 = log(0.9, 0.25, 0.3, 0.95, 0.4, 0.5, 0.6, 0.7)
  const whole = {
    logp: fixture.logp,
    oldLogp: log8,
    refLogp: fixture.refLogp,
    sequenceStart: [0, 1, 4, 8],
    tokenAdvantage: Float32Array.of(1, -1, 0.5, 2, -0.25, 1, 3, -2),
    cutpoints: [[], [], []],
    values: [[], [], []],
  }
  const parts = [
    [0, 2],
    [2, 3],
  ].map(([first, last]) => {
    const [begin, end] = [whole.sequenceStart[first!]!, whole.sequenceStart[last!]!]
    return {
      logp: whole.logp.slice(begin, end),
      oldLogp: whole.oldLogp.slice(begin, end),
      refLogp: whole.refLogp.slice(begin, end),
      tokenAdvantage: whole.tokenAdvantage.slice(begin, end),
      sequenceStart: whole.sequenceStart.slice(first, last! + 1).map((t) => t - begin),
      cutpoints: whole.cutpoints.slice(first, last),
      values: whole.values.slice(first, last),
    }
  })
  for (const klCoef of [0, 0.5]) {
    const recipe = spoChain({ klCoef })
    const together = optimizationStep(recipe, whole)
    const tokens = Array.from(together.mask!).filter((m) => m === 1).length
    expect(tokens).toBe(6) // and the first rollout has none
    const steps = parts.map((part) => optimizationStep(recipe, { ...part, totalTokens: tokens, totalRollouts: 3 }))
    expect(steps.reduce((total, { loss }) => total + loss, 0)).toBeCloseTo(together.loss, 6)
    const gradient = steps.flatMap(({ gradLogp }) => Array.from(gradLogp!.data))
    gradient.forEach((x, t) => expect(x).toBeCloseTo(together.gradLogp!.data[t]!, 6))
  }
  expect(() => optimizationStep(spoChain(), { ...whole, totalTokens: 6 })).toThrow('spoChain: totalRollouts is missing from the batch, expected it beside totalTokens') // biome-ignore format: short
})

edge('spoChain', 'cutpoints and values may be typed arrays', () => {
  const typed = { ...example, cutpoints: [Int32Array.of(0, 3, 6)], values: [Float64Array.of(0.4, 0.6, 0.2)] }
  expect(prepareStep(spoChain(), typed).tokenAdvantage).toEqual(prepareStep(spoChain(), example).tokenAdvantage)
})
