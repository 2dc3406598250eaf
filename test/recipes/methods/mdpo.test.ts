import { expect } from 'vitest'
import { fromJSON, optimizationStep, prepareStep, toJSON } from '../../../lib/recipes/index.js'
import { mdpo } from '../../../lib/recipes/methods/mdpo.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { advantage, fixture, unmasked } from '../fixture.js'
import { edge, golden } from '../golden.js'

golden('mdpo', 'closed form for a table', (check) => {
  const next = mdpo().sample.closedForm([0.5, 0.3, 0.2], [1, -1, 0.5], 0.5)
  check.float64(next, [0.6526358751, 0.1440547926, 0.2033093322])
})

edge('mdpo', 'the closed form maximises the mean advantage minus the KL to the old policy over t', () => {
  const [old, A, t] = [[0.5, 0.3, 0.2], [1, -1, 0.5], 0.5] as const // biome-ignore format: short
  const p = mdpo().sample.closedForm(old, A, t)
  const objective = (logits: number[]) => {
    const total = logits.reduce((a, u) => a + Math.exp(u), 0)
    return logits.reduce(
      (a, u, i) => a + (Math.exp(u) / total) * (A[i]! - (u - Math.log(total) - Math.log(old[i]!)) / t),
      0,
    )
  }
  closeIn64(centralDifferences(objective, p.map(Math.log)), [0, 0, 0]) // biome-ignore format: short
})

edge('mdpo', 'the closed form: an action of probability 0 keeps it; lengths that differ', () => {
  const { closedForm } = mdpo().sample
  expect(Array.from(closedForm([1, 0], [0, 1000], 1))).toEqual([1, 0])
  expect(Array.from(closedForm([0.5, 0.5], [5000, 0], 1))).toEqual([1, 0])
  expect(() => closedForm([1, 0], [1], 1)).toThrow('mdpo: advantage has 1 values, expected 2 (from old)')
})

edge('mdpo', 't of the iterations: from 1 to 1 / K in the paper, from 1 + 1 / K to 2 / K in the code', () => {
  const schedule = (recipe: ReturnType<typeof mdpo>) => [0, 1, 3, 4, 9].map(recipe.sample.stepSize)
  expect(schedule(mdpo({ iterations: 4 }))).toEqual([1, 0.75, 0.25, 0.25, 0.25])
  expect(schedule(mdpo({ iterations: 4, schedule: 'code' }))).toEqual([1.25, 1, 0.5, 0.5, 0.5])
})

// The unclipped loss of the fixture, with an estimator of the KL to the old policy over t.
const places = [0, 1, 2, 4, 5, 6, 7]
const estimators = {
  k3: (d: number) => Math.exp(-d) - 1 + d,
  k2: (d: number) => d ** 2 / 2,
}

edge('mdpo', 'loss and gradient of the fixture: no token is killed, and the coefficient grows', () => {
  for (const kl of ['k3', 'k2'] as const) {
    for (const klWeight of ['none', 'ratio'] as const) {
      const recipe = mdpo({ iterations: 2, kl, klWeight })
      const first = optimizationStep(recipe, { ...fixture, advantage })
      const second = optimizationStep(recipe, { ...fixture, advantage }, first.state)
      const steps = [[first, 1], [second, 0.5]] as const // biome-ignore format: a table
      for (const [step, t] of steps) {
        const exact = (logp: number[]) =>
          places.reduce((total, i) => {
            const d = logp[i]! - fixture.oldLogp[i]!
            const estimate = estimators[kl](d) * (klWeight === 'ratio' ? Math.exp(d) : 1)
            return total + (-Math.exp(d) * advantage[i < 4 ? 0 : 1]! + estimate / t) / 7
          }, 0)
        closeIn32([step.loss], [exact(Array.from(fixture.logp))])
        closeIn32(unmasked(step.gradLogp!.data), unmasked(centralDifferences(exact, fixture.logp)))
      }
    }
  }
})

edge('mdpo', 'advantages are standardised over the batch, across groups of any size', () => {
  const { advantage } = prepareStep(mdpo(), { rewards: [1, 0, 0, 3], groupStart: [0, 1, 4] })
  closeIn32(advantage!, [0, -1, -1, 2].map((x) => x / Math.sqrt(6 / 4))) // biome-ignore format: short
  const rejected = prepareStep(mdpo(), { rewards: [1, 3, 100], groupStart: [0, 3], rolloutMask: [1, 1, 0] })
  expect(Array.from(rejected.advantage!)).toEqual([-1, 1, 0])
})

edge('mdpo', 'equal rewards, one rollout: advantage 0', () => {
  expect(Array.from(prepareStep(mdpo(), { rewards: [0.1, 0.1, 0.1], groupStart: [0, 3] }).advantage!)).toEqual([
    0, 0, 0,
  ])
  expect(Array.from(prepareStep(mdpo(), { rewards: [5], groupStart: [0, 1] }).advantage!)).toEqual([0])
})

edge('mdpo', 'everything masked: loss 0, gradients 0', () => {
  const step = optimizationStep(mdpo(), { ...fixture, advantage, mask: new Uint8Array(8) })
  expect([step.loss, ...step.gradLogp!.data]).toEqual(Array(9).fill(0))
})

edge('mdpo', 'the iteration is counted, and survives a restart', () => {
  const recipe = mdpo({ iterations: 8 })
  const batch = { ...fixture, advantage }
  const after = optimizationStep(recipe, batch, optimizationStep(recipe, batch).state)
  expect(after.state!.data).toEqual({ iteration: 2 })
  const restored = fromJSON(recipe, toJSON(after.state!))
  expect(optimizationStep(recipe, batch, restored).loss).toBe(optimizationStep(recipe, batch, after.state).loss)
})

edge('mdpo', 'without the old policy', () => {
  const { oldLogp, ...batch } = fixture
  expect(() => optimizationStep(mdpo(), { ...batch, advantage })).toThrow(/mdpo: oldLogp is missing from the batch/)
})
