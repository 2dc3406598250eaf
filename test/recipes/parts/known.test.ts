// A NaN where a correction compares: of a column of the batch an error, of the current policy it reaches the loss.
import { describe, expect, test } from 'vitest'
import { lossStats } from '../../../lib/index.js'
import { type AnyRecipe, optimizationStep, presets, recipes } from '../../../lib/recipes/index.js'
import { type Correction, withCorrection } from '../../../lib/recipes/parts/corrections.js'
import { refuses } from '../../support/compare.js'
import { advantage, fixture } from '../fixture.js'

const batch = { ...fixture, advantage, entropy: Float32Array.of(0.1, 0.5, 0.2, 0.3, 0.9, 0.4, 0.6, 0.7) }
type Column = 'rolloutLogp' | 'oldLogp' | 'entropy' | 'logp'
const place = 5
const padding = 3
const without = (name: Column, t: number) => {
  const column = batch[name].slice()
  column[t] = Number.NaN
  return { ...batch, [name]: column }
}
const corrected = (correction: Correction) => withCorrection(recipes.grpo({ klCoef: 0 }), correction)
const step = (recipe: AnyRecipe, given: object) => optimizationStep(recipe, given as never)
const bits = ({ loss, gradLogp }: ReturnType<typeof step>) => [loss, ...gradLogp!.data]

const forms = ['token', 'sequence', 'sequence_mean'].flatMap((level) =>
  ['truncate', 'mask'].map((outside) => ({ mode: `${level}_${outside}` })),
)
const importance = [...forms, { mode: 'token_gate' }, { mode: 'token_gate_truncate', normalize: true }]
const statistics = ['token_k1', 'token_k2', 'token_k3', 'seq_sum_k1', 'seq_mean_k2', 'seq_max_k3'] as const
const corrections = [
  ...importance.map((one) => ({ importance: one }) as Correction),
  ...statistics.map((statistic) => ({ reject: [{ statistic, high: 50 }] }) as Correction),
]

const vespo = { lossType: 'vespo', importanceSamplingMode: 'token_mask' } as const
const cases: [what: string, columns: readonly Column[], AnyRecipe][] = [
  ...corrections.map((one) => [JSON.stringify(one), ['rolloutLogp', 'oldLogp'], corrected(one)] as never),
  ['the off-policy mask', ['rolloutLogp'], corrected({ offPolicy: 0.1 })],
  ['the entropy quantile', ['entropy'], corrected({ topEntropy: 0.5 })],
  ['vespo', ['rolloutLogp', 'oldLogp'], recipes.vespo({ correction: 'token_truncate' })],
  ['vespo that masks', ['rolloutLogp', 'oldLogp'], recipes.vespo({ correction: 'token_mask' })],
  ['presets.trl', ['rolloutLogp', 'oldLogp'], presets.trl({})],
  ['presets.trl, vespo', ['rolloutLogp', 'oldLogp'], presets.trl(vespo)],
  ['presets.verl', ['rolloutLogp', 'oldLogp'], presets.verl({ rolloutIs: 'token', rolloutIsLow: 0.5 })],
  ['presets.openrlhf', ['rolloutLogp', 'oldLogp'], presets.openrlhf({ isCorrection: 'icepop' })],
  ['presets.slime', ['rolloutLogp', 'oldLogp'], presets.slime({ useTis: true })],
  ['presets.slime, off-policy mask', ['oldLogp'], presets.slime({ opsmDelta: 0.1 })],
  ['presets.nemo', ['rolloutLogp', 'oldLogp'], presets.nemo({ correction: 'seq-mask-tis', correctionMax: 5 })],
]

describe.each(cases)('%s', (_, columns, recipe) => {
  test.each(columns)('%s is NaN at a token that counts: named', (name) => {
    const message = new RegExp(`^\\w+: ${name} has NaN at ${place}, expected a number of a token that counts: mask it`)
    const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: name, message }
    refuses(() => step(recipe, without(name, place)), expected)
  })
  test.each(columns)('%s is NaN under the mask: as if it were a number', (name) => {
    expect(bits(step(recipe, without(name, padding)))).toEqual(bits(step(recipe, batch)))
  })
})

test('the off-policy mask looks at oldLogp where the engine reported nothing', () => {
  const { rolloutLogp, ...given } = without('oldLogp', place)
  const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'oldLogp' }
  refuses(() => step(corrected({ offPolicy: 0.1 }), given), expected)
})

// Without oldLogp the current policy stands in its place.
describe.each([...corrections, { offPolicy: 0.1 } as Correction])('%o', (correction) => {
  const { oldLogp, ...given } = without('logp', place)
  test('a policy that is NaN at a token has a loss that is NaN, and the token is counted', () => {
    const { loss, stats } = step(corrected(correction), given)
    expect(loss).toBeNaN()
    expect(lossStats(stats as never).nonFinite).toBeGreaterThan(0)
  })
})
