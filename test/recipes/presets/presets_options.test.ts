// Which options of a preset reach the advantages: the others are of the loss, and no option is of both.
import { describe, expect, test } from 'vitest'
import { parseOption } from '../../../lib/addon/signatures.js'
import { type AnyRecipe, prepareStep } from '../../../lib/recipes/index.js'
import { presets } from '../../../lib/recipes/presets/index.js'
import { fixture } from '../fixture.js'

const batch = { ...fixture, sequenceStart: [0, 2, 4, 6, 8], groupStart: [0, 4], rewards: [1.5, 0.25, -3, 0.5] }
type Make = (options?: object) => AnyRecipe

const advantagesOf = (recipe: AnyRecipe) => {
  const { advantage, tokenAdvantage } = prepareStep(recipe, batch as never)
  return { advantage: advantage && Array.from(advantage), tokenAdvantage: tokenAdvantage && Array.from(tokenAdvantage) }
}

/** Other values of an option. */
function othersOf(name: string, text: string): unknown[] {
  const { kind, choices, fallback, nullable } = parseOption(name, text)
  if (kind === 'boolean') return [!fallback]
  if (kind === 'enum') return choices.filter((choice) => choice !== fallback)
  return [...(nullable ? [null] : []), 0.1, 0.4, 1, 2, 40].filter((value) => value !== fallback)
}

const expected: Record<keyof typeof presets, string[]> = {
  trl: ['scaleRewards'],
  verl: ['advEstimator', 'normAdvByStd'],
  openrlhf: ['advantageEstimator', 'klCoef', 'useKlLoss', 'klEstimator', 'rewardClipLow', 'rewardClipHigh'],
  nemo: ['useLeaveOneOutBaseline', 'normalizeRewards'],
  slime: ['grpoStdNormalization'],
  unsloth: ['scaleRewards'],
  liger: [],
}

describe.each(Object.keys(presets) as (keyof typeof presets)[])('%s', (name) => {
  const make = presets[name] as unknown as Make
  const { options = {} } = make().description

  test('the options of the advantages', () => {
    const plain = advantagesOf(make())
    const changes = (option: string, value: unknown) => {
      try {
        return JSON.stringify(advantagesOf(make({ [option]: value }))) !== JSON.stringify(plain)
      } catch {
        return false // refused, alone or beside the defaults
      }
    }
    const found = Object.entries(options).flatMap(([option, [text]]) =>
      othersOf(option, text).some((value) => changes(option, value)) ? [option] : [],
    )
    expect(found).toEqual(expected[name])
  })
})
