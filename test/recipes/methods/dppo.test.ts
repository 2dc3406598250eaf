import { expect } from 'vitest'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { dppo } from '../../../lib/recipes/methods/dppo.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

const batch = { ...fixture, advantage }

golden('dppo', 'total variation: loss and gradient', (check) => {
  const step = optimizationStep(dppo({ clipLow: 0.05, clipHigh: 0.1, ratioCap: 20 }), batch)
  check.float32(step.loss, -0.1047796713, 12) // the losses of the tokens are 12 times larger
  check.float32(unmasked(step.gradLogp!.data), [0, -0.2142857143, -0.15, 0, 0.4, 0.1142857143, 0.1257142857])
})

golden('dppo', 'the KL of the two-valued distributions, where it begins to close the trust region', (check) => {
  const expected = [0.0871766869, 0.0332770452, 0.022335657, 0.1676038597, 0.0015986185]
  const moved = [0, 2, 4, 5, 7] // p is p' at the others
  const tokenAdvantage = Float32Array.from(fixture.logp, (x, t) => Math.sign(x - fixture.oldLogp[t]!))
  const { logp, oldLogp, mask, sequenceStart } = fixture
  const given = { logp, oldLogp, mask, sequenceStart, tokenAdvantage }
  const inside = (t: number, width: number) => {
    const recipe = dppo({ divergence: 'kl', clipLow: width, clipHigh: width })
    return optimizationStep(recipe, given).gradLogp!.data[t] !== 0
  }
  const found = moved.map((t) => {
    let [low, high] = [0, 1]
    for (let i = 0; i < 50; i++) {
      const middle = (low + high) / 2
      if (inside(t, middle)) high = middle
      else low = middle
    }
    return high
  })
  // Differences of log-probabilities that are up to 8 times as large.
  check.float32(found, expected, 8)
})

edge('dppo', 'the trust region closes only where the advantage pushes, also with 0 divergence allowed', () => {
  const none = { clipLow: 0, clipHigh: 0 } as const
  for (const divergence of ['tv', 'kl'] as const) {
    const signs = unmasked(optimizationStep(dppo({ divergence, ...none }), batch).gradLogp!.data).map(Math.sign)
    // r = 1.4, 1, 0.7 with A > 0; 0.7, 3.5, 1, 1.1 with A < 0. At r = 1 p is p', to the bit.
    expect(signs).toEqual([0, -1, -1, 0, 1, 1, 1])
  }
})

edge('dppo', 'the ratio is capped at 3, as verl has it', () => {
  expect(optimizationStep(dppo(), batch).gradLogp!.data[5]).toBeCloseTo((0.8 * 3) / 7, 6)
})

edge('dppo', 'a group of one, equal rewards, and everything masked: loss 0, gradient 0', () => {
  for (const divergence of ['tv', 'kl'] as const) {
    const recipe = dppo({ divergence })
    const one = optimizationStep(recipe, { ...fixture, rewards: [1, 0] })
    const equal = optimizationStep(recipe, { ...fixture, groupStart: [0, 2], rewards: [1, 1] })
    const masked = optimizationStep(recipe, { ...batch, mask: new Uint8Array(8) })
    for (const step of [one, equal, masked]) {
      expect([step.loss, ...step.gradLogp!.data].every((x) => x === 0)).toBe(true)
    }
  }
})

edge('dppo', 'ragged groups', () => {
  const ragged = { ...fixture, sequenceStart: [0, 2, 4, 8], groupStart: [0, 2, 3], rewards: [1, 0, 5] }
  const { data } = optimizationStep(dppo({ clipHigh: 1, clipLow: 1 }), ragged).gradLogp!
  expect(Array.from(data, Math.sign)).toEqual([-1, -1, 1, 0, 0, 0, 0, 0])
})

edge('dppo', 'rewards that are missing', () => {
  expect(() => prepareStep(dppo(), fixture)).toThrow('dppo: rewards is missing from the batch')
})
