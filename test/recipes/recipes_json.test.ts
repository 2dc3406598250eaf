// docs/recipes.json says what a program without JavaScript needs: held against the methods, on batches of all kinds.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { makeOf, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { groupAdvantage, type HostArray, policyLoss } from '../../lib/index.js'
import { optimizationStep, prepareStep } from '../../lib/recipes/index.js'
import type { RecipesFile } from '../docs/recipes_json.js'

const file = JSON.parse(readFileSync(join(__dirname, '../../docs/recipes.json'), 'utf8')) as RecipesFile
const entries = { ...file.methods, ...file.presets }
const entry = (name: string) => entries[name]!
const all = [...names, ...presetNames]

const bits = (x: HostArray<'f32' | 'f64' | 'bf16' | 'f16'> | Float32Array) => {
  const { buffer, byteOffset, byteLength } = 'buffer' in x ? x : x.data
  return Buffer.from(buffer, byteOffset, byteLength).toString('hex')
}
const f32 = (x: unknown) => x as Float32Array | undefined

test('has every method and preset, in their order', () => {
  expect(Object.keys(file.methods)).toEqual(names)
  expect(Object.keys(file.presets)).toEqual(presetNames)
})

const expressible = all.filter((name) => entry(name).expressible)

test('says which methods are groupAdvantage and policyLoss with these options', () => {
  const known = [
    ...['bnpo', 'cispo', 'dapo', 'dppo', 'drGrpo', 'gmpo', 'grpo', 'gspo', 'gspoToken', 'latr', 'luspo', 'nemoGrpo'],
    ...['sapo', 'scafGrpo', 'vas', 'vespo', 'nemo', 'slime', 'verl'],
  ]
  expect(expressible).toEqual(expect.arrayContaining(known))
})

test('has the objective of three quarters of the methods', () => {
  const known = names.filter((name) => entry(name).objective !== null)
  expect(known.length).toBeGreaterThanOrEqual((3 / 4) * names.length)
})

const mask = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
type Values = Readonly<Record<string, unknown>>
const batches: Readonly<Record<string, Values>> = {
  'its example': {},
  'a batch with masked tokens and a rejected rollout': { mask, rolloutMask: [1, 1, 0, 1, 1, 1, 1, 1] },
  'uneven rewards and groups, one rollout alone': { rewards: [0.5, -2, 1, 0.25, 3, 3, 3, 7], groupStart: [0, 4, 7, 8] },
}

/** What a program without JavaScript knows of a method with these options: they set fields, in the order of the file. */
function withOptions(name: string, chosen: Values) {
  const parts = { advantage: { ...entry(name).advantage }, objective: { ...entry(name).objective } } as Record<string, Values> // biome-ignore format: one line
  for (const [option, { sets = [] }] of Object.entries(entry(name).options as Record<string, { sets?: string[] }>)) {
    if (!(option in chosen)) continue
    for (const field of sets) {
      const [part, key] = field.split('.') as [string, string]
      parts[part] = { ...parts[part], [key]: chosen[option] }
    }
  }
  return parts
}

/** groupAdvantage and policyLoss give the bits of a step with these options. */
function same(name: string, chosen: Values, more: Values = {}): void {
  const method = makeOf(name)(chosen)
  const batch: Record<string, unknown> = { ...exampleBatch(method), ...more }
  const step = optimizationStep(method, batch)
  const { advantage: ofGroups, objective } = withOptions(name, chosen)
  const { advantage } = groupAdvantage(
    {
      rewards: Float32Array.from(batch.rewards as number[]),
      groupStart: Int32Array.from(batch.groupStart as number[]),
      mask: batch.rolloutMask === undefined ? undefined : Uint8Array.from(batch.rolloutMask as number[]),
    },
    ofGroups as object,
  )
  expect(bits(advantage)).toBe(bits(step.advantage as Float32Array))
  const { loss, gradLogp, stats } = policyLoss(
    {
      logp: f32(batch.logp)!,
      oldLogp: f32(batch.oldLogp),
      refLogp: f32(batch.refLogp),
      entropy: f32(batch.entropy),
      advantage,
      sequenceStart: Int32Array.from(batch.sequenceStart as number[]),
      mask: batch.mask === undefined ? undefined : Uint8Array.from(mask),
    },
    objective as object,
  )
  expect(loss.data[0]).toBe(step.loss)
  expect(bits(gradLogp)).toBe(bits((step as unknown as { gradLogp: HostArray<'f32'> }).gradLogp))
  expect(bits(stats)).toBe(bits(step.stats!))
}

interface Option {
  readonly kind: string
  readonly default: unknown
  readonly choices?: readonly string[]
  readonly sets?: readonly string[]
}

/** A value that is not the default, and that the method takes alone. */
function otherValue(name: string, option: string, { kind, choices = [], default: fallback }: Option): unknown {
  const values = { enum: choices.toReversed(), boolean: [true, false], integer: [0, 1] }[kind] ?? [0.3, 2.5]
  return values.find((value) => {
    if (value === fallback) return false
    try {
      return makeOf(name)({ [option]: value }) !== undefined
    } catch {
      return false
    }
  })
}

describe.each(expressible)('%s', (name) => {
  test.each(Object.keys(batches))('groupAdvantage and policyLoss give its bits: %s', (kind) => {
    same(name, {}, batches[kind])
  })

  test('and with the options that set fields, one by one and all numbers together', () => {
    const options = Object.entries(entry(name).options as Record<string, Option>).filter(([, option]) => option.sets)
    const values = Object.fromEntries(options.map(([option, spec]) => [option, otherValue(name, option, spec)]))
    expect(Object.values(values)).not.toContain(undefined)
    for (const [option, value] of Object.entries(values)) same(name, { [option]: value })
    // A choice may exclude numbers: the loss cispo of nemo takes no ratioClipC.
    const numbers = options.filter(([, { kind }]) => kind !== 'enum').map(([option]) => [option, values[option]])
    same(name, Object.fromEntries(numbers))
  })
})

test('options that set fields are most of those of the plain methods', () => {
  const { clipLow, eps, scale } = entry('grpo').options as Record<string, Option>
  expect([clipLow?.sets, eps?.sets, scale?.sets]).toEqual([
    ['objective.clipLow'],
    ['advantage.eps'],
    ['advantage.scale'],
  ])
  expect((entry('adaGrpo').options as Record<string, Option>).clip?.sets).toEqual(['objective.clipLow', 'objective.clipHigh']) // biome-ignore format: one line
  // Its cap becomes cap - 1, and the shaping of dapo is no option of an operation.
  expect((entry('cispo').options as Record<string, Option>).cap?.sets).toBeUndefined()
  expect((entry('dapo').options as Record<string, Option>).maxLength?.sets).toBeUndefined()
})

describe.each(all)('%s', (name) => {
  const { objective, advantages, advantage, options, columns, state, ...said } = entry(name)
  const recipe = recipeOf(name)

  test('its objective is that of a step, or null with the reason', () => {
    const { logp, mean, ...batch } = exampleBatch(recipe)
    const policy = (mean === undefined ? { logp } : { mean }) as { logp: Float32Array }
    const gaussian = Object.fromEntries(Object.entries(batch).filter(([key]) => /^(x|std|oldMean|refMean)$/.test(key)))
    const call = () => prepareStep(recipe, batch).inputs({ ...policy, ...gaussian })
    const { loss } = said
    if (objective === null) {
      if (loss === 'batch') return expect(call).not.toThrow()
      return expect(call).toThrow(loss === 'own' ? 'has a loss of its own' : 'does not exist')
    }
    expect(loss).toBe('objective')
    if (name === 'tempFlow') return expect(recipe.objective).toEqual(objective) // its KL is no term of an operation
    expect(call().objective).toEqual(objective)
  })

  test('its advantages are those of groupAdvantage, or are none, or its own', () => {
    const step = prepareStep(recipe, exampleBatch(recipe))
    if (advantages === 'none') return expect([step.advantage, step.tokenAdvantage]).toEqual([undefined, undefined])
    expect(advantage === null).toBe(advantages === 'batch')
    if (advantage === null) return
    const { groupStart } = exampleBatch(recipe) as { groupStart: number[] }
    if (said.rewards === 'none') expect(step.rewards).toEqual(Float64Array.from(exampleBatch(recipe).rewards as number[])) // biome-ignore format: one line
    const again = groupAdvantage({ rewards: Float32Array.from(step.rewards!), groupStart: Int32Array.from(groupStart) }, advantage) // biome-ignore format: one line
    expect(bits(again.advantage)).toBe(bits(step.advantage as Float32Array))
  })

  test('its options are the defaults of the function, and its columns and state the description', () => {
    const defaults = Object.fromEntries(Object.entries(options).map(([key, option]) => [key, (option as { default: unknown }).default])) // biome-ignore format: one line
    expect(recipe.options ?? {}).toEqual(defaults)
    expect(makeOf(name)(defaults).options).toEqual(recipe.options)
    expect(Object.keys(columns)).toEqual(Object.keys(recipe.description.columns ?? {}))
    expect(state).toEqual(recipe.state ? { version: recipe.state.version, initial: recipe.state.initial() } : null)
  })
})
