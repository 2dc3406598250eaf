import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { gspo, gspoToken, luspo } from '../../../lib/recipes/methods/gspo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const three = (x: number, y: number) => [x, x, x, y, y, y, y]
const killed = [-1.5, 0.8]

golden('gspo', 'loss and gradient', (check) => {
  for (const recipe of [gspo({ clipLow: 0.2, clipHigh: 0.2 }), gspo()]) {
    // The second sequence has A < 0 and s = 1.28: nothing is clipped either way.
    const step = optimizationStep(recipe, { ...fixture, advantage })
    check.float32(step.loss, -0.2324594303)
    check.float32(unmasked(step.gradLogp!.data), three(-0.2483220971, 0.1281267152))
  }
})

golden('gspo', 'clipped rollouts', (check) => {
  const wide = optimizationStep(gspo({ clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, advantage: killed })
  check.float32(wide.loss, 0.2649662913)
  check.float32(unmasked(wide.gradLogp!.data), three(0.2483220971, 0))
  const published = optimizationStep(gspo(), { ...fixture, advantage: killed })
  check.float32(published.loss, 0.349615)
  check.float32(unmasked(published.gradLogp!.data), three(0, 0))
})

golden('gspo', 'weighted by length, as TRL with dapo', (check) => {
  const recipe = gspo({ clipLow: 0.2, clipHigh: 0.2, aggregate: 'token_mean' })
  const step = optimizationStep(recipe, { ...fixture, advantage })
  check.float32(step.loss, -0.0528204086, 12) // the losses of the two rollouts are 12 times larger
  check.float32(unmasked(step.gradLogp!.data), three(-0.2128475118, 0.1464305317))
})

golden('gspoToken', 'the numbers of GSPO where the advantage is that of the rollout', (check) => {
  const step = optimizationStep(gspoToken(), { ...fixture, advantage })
  check.float32(step.loss, -0.2324594303)
  check.float32(unmasked(step.gradLogp!.data), three(-0.2483220971, 0.1281267152))
})

golden('gspoToken', 'advantages of tokens: -A s over the tokens of the rollout', (check) => {
  const tokenAdvantage = Float32Array.of(1, 2, -1, 0, 0.5, -1, -2, 1)
  const step = optimizationStep(gspoToken({ clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, tokenAdvantage })
  // s = 0.9933 is inside the interval; s = 1.2813 is above it and kills A > 0.
  const [s, z] = [0.9932883884, 1.2812671524]
  check.float32(unmasked(step.gradLogp!.data), [-s / 6, -s / 3, s / 6, 0, z / 8, z / 4, 0])
})

golden('luspo', 'loss and gradient', (check) => {
  const step = optimizationStep(luspo({ clipLow: 0.2, clipHigh: 0.2 }), { ...fixture, advantage })
  check.float32(step.loss, -0.1848714299, 12)
  check.float32(unmasked(step.gradLogp!.data), three(-0.7449662913, 0.512506861))
})

for (const recipe of [gspo(), gspoToken(), luspo()]) {
  const { name } = recipe

  edge(name, 'a group of one, and equal rewards: advantage, loss and gradient 0', () => {
    for (const rewards of [
      [1, 0],
      [1, 1],
    ]) {
      const groupStart = rewards[1] === 0 ? [0, 1, 2] : [0, 2]
      const step = optimizationStep(recipe, { ...fixture, groupStart, rewards })
      expect(Array.from(step.advantage!)).toEqual([0, 0])
      expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
    }
  })

  edge(name, 'everything masked: loss 0, gradients 0', () => {
    const step = optimizationStep(recipe, { ...fixture, advantage, mask: new Uint8Array(8) })
    expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
  })

  edge(name, 'what lies under the mask is not read', () => {
    const logp = fixture.logp.map((x, t) => (fixture.mask[t] ? x : Number.NaN))
    const expected = optimizationStep(recipe, { ...fixture, advantage })
    expect(optimizationStep(recipe, { ...fixture, logp, advantage }).gradLogp).toEqual(expected.gradLogp)
  })

  edge(name, 'ragged groups, an empty rollout among them', () => {
    const batch = {
      ...fixture,
      mask: undefined,
      sequenceStart: [0, 3, 3, 8],
      groupStart: [0, 2, 3],
      rewards: [1, 0, 1],
    }
    const step = optimizationStep(recipe, batch)
    expect(step.advantage![2]).toBe(0)
    expect(Array.from(step.gradLogp!.data.slice(3))).toEqual([0, 0, 0, 0, 0])
  })

  edge(name, 'rewards that are missing', () => {
    const { groupStart, ...batch } = fixture
    expect(() => prepareStep(recipe, { ...batch, groupStart })).toThrow(`${name}: rewards is missing from the batch`)
  })
}
