// Options of a step: those of prepareStep hold for every update that does not replace them.
import { describe, expect, test } from 'vitest'
import { array, linearPolicyLoss, policyLossFromLogits } from '../../../lib/index.js'
import { optimizationStep, prepareStep, recipes, type StepOptions } from '../../../lib/recipes/index.js'
import { advantage, fixture } from '../fixture.js'

const [T, V] = [8, 4]
const logits = () => array(Float32Array.from({ length: T * V }, (_, i) => 3 * Math.sin(i)), [T, V]) // biome-ignore format: short
const token = Int32Array.from({ length: T }, (_, t) => t % V)
const { logp: _, ...rest } = fixture
const batch = { ...rest, advantage, token }
const recipe = recipes.dapo()
const whole = (options: StepOptions) => optimizationStep(recipe, { ...batch, logits: logits() }, undefined, options)
const update = (step: StepOptions, own?: StepOptions) =>
  prepareStep(recipe, batch, undefined, step).loss({ logits: logits() }, own)

describe('a loss by way of log-probabilities', () => {
  // Of simpo, which no operation has in one piece: forward, the loss, and back.
  const pairs = { ...rest, rewards: [1, 0], token, chosen: [0], rejected: [1] }
  const step = (policy: object, options: StepOptions) =>
    optimizationStep(recipes.simpo(), { ...pairs, ...policy } as never, undefined, options) as unknown as {
      loss: number
      gradLogits?: { data: Float32Array }
      gradHidden?: { data: Float32Array }
    }
  const eye = array(Float32Array.from({ length: V * V }, (_, i) => Number(i % (V + 1) === 0)), [V, V]) // biome-ignore format: short

  // The logits over a power of two are exact, and so are the gradients of them.
  test.each([0.5, 4])('a temperature of %d divides the logits there and back', (temperature) => {
    const divided = array(logits().data.map((x) => x / temperature), [T, V]) // biome-ignore format: short
    for (const policy of [(z: object) => ({ logits: z }), (z: object) => ({ hidden: z, head: eye })]) {
      for (const chunkRows of [null, 3]) {
        const there = step(policy(logits()), { temperature, chunkRows })
        const here = step(policy(divided), {})
        expect(there.loss).toBe(here.loss)
        const [own, expected] = [there, here].map((x) => (x.gradLogits ?? x.gradHidden)!.data)
        expect(own!.map((x) => x * temperature)).toEqual(expected)
        expect(Math.max(...own!.map(Math.abs))).toBeGreaterThan(0.01)
      }
    }
  })
})

// Of the fused losses the operation's own bits; of losses by way of log-probabilities the gradients of differences.
describe('what models make of logits', () => {
  const options = { temperature: 2, softcap: 2.5, validVocab: V - 1 }
  const rowTemperature = Float32Array.from({ length: T }, (_, r) => 0.5 + r / 4)
  const valid = token.map((id) => id % (V - 1))
  const eye = array(Float32Array.from({ length: V * V }, (_, i) => Number(i % (V + 1) === 0)), [V, V]) // biome-ignore format: short
  const { oldLogp, sequenceStart, mask } = fixture
  // Rows 2 and 5 were sampled from few ids.
  const keptStart = Int32Array.of(0, 0, 0, 2, 2, 2, 4, 4, 4)
  const kept = Int32Array.of(0, 2, 1, 2)
  const beside = { rowTemperature, keptStart, kept }
  const given = {
    token: valid,
    ...beside,
    oldLogp,
    sequenceStart,
    mask: Uint8Array.from(mask),
    advantage: Float32Array.from(advantage),
  }
  const plain = recipes.grpo({ klCoef: 0 })

  test('goes to the fused losses', () => {
    const step = (policy: object) =>
      prepareStep(plain, { ...batch, token: valid }, undefined, options).loss(policy as never)
    const fromLogits = step({ logits: logits(), ...beside }) as unknown as { loss: number; gradLogits: object }
    const objective = { aggregate: 'sequence_mean' } as const
    const expected = policyLossFromLogits({ logits: logits(), ...given }, { ...options, ...objective })
    expect(fromLogits.loss).toBe(expected.loss.data[0])
    expect(fromLogits.gradLogits).toEqual(expected.gradLogits)
    const fromHidden = step({ hidden: logits(), head: eye, ...beside }) as unknown as {
      loss: number
      gradHidden: object
    }
    const linear = linearPolicyLoss({ hidden: logits(), head: eye, ...given }, { ...options, ...objective })
    expect(fromHidden.loss).toBe(linear.loss.data[0])
    expect(fromHidden.gradHidden).toEqual(linear.gradHidden)
  })

  test.each(['logits', 'hidden'] as const)('and to losses by way of log-probabilities, from %s', (kind) => {
    const pairs = { ...rest, rewards: [1, 0], token: valid, chosen: [0], rejected: [1] }
    const of = (z: Float32Array) => {
      const policy = kind === 'logits' ? { logits: array(z, [T, V]) } : { hidden: array(z, [T, V]), head: eye }
      return optimizationStep(recipes.simpo(), { ...pairs, ...policy, ...beside } as never, undefined, options) as unknown as { loss: number; gradLogits?: { data: Float32Array }; gradHidden?: { data: Float32Array } } // biome-ignore format: one type
    }
    const z = logits().data as Float32Array
    const { gradLogits, gradHidden } = of(z)
    const gradient = (gradLogits ?? gradHidden)!.data
    const moved = (i: number, by: number) => of(z.map((x, j) => (j === i ? x + by : x))).loss
    for (const i of [0, 1, 6, 13])
      expect((moved(i, 2 ** -6) - moved(i, -(2 ** -6))) * 2 ** 5).toBeCloseTo(gradient[i]!, 3)
    expect(gradient[V - 1]).toBe(0)
    expect(Math.max(...gradient.map(Math.abs))).toBeGreaterThan(0.01)
  })
})

describe('options of prepareStep', () => {
  const options = { temperature: 0.5, objective: { clipHigh: 1, normalizer: 3 } }
  const expected = whole(options)

  test('hold for an update without options', () => {
    expect(expected.loss).not.toBe(whole({}).loss)
    expect(update(options).loss).toBe(expected.loss)
    expect(update(options).gradLogits).toEqual(expected.gradLogits)
  })

  test.each([
    ['none', {}],
    ['out', { out: { gradLogits: array(new Float32Array(T * V), [T, V]) } }],
    ['undefined', { temperature: undefined, objective: undefined } as unknown as StepOptions],
    ['an objective of other fields', { objective: { clipLow: 0.2 } }],
    ['an undefined field', { objective: { clipHigh: undefined } } as unknown as StepOptions],
  ])('hold beside options of the update: %s', (_, own) => {
    expect(update(options, own).loss).toBe(expected.loss)
  })

  test('are replaced one by one, fields of the objective too', () => {
    expect(update(options, { temperature: 2 }).loss).toBe(whole({ ...options, temperature: 2 }).loss)
    const other = whole({ temperature: 0.5, objective: { clipHigh: 1, normalizer: 6 } }).loss
    expect(other).not.toBe(expected.loss)
    expect(update(options, { objective: { normalizer: 6 } }).loss).toBe(other)
    expect(update(options, { objective: { normalizer: null } }).loss).toBe(
      whole({ temperature: 0.5, objective: { clipHigh: 1 } }).loss,
    )
  })

  test('an update changes nothing for the next one', () => {
    const prepared = prepareStep(recipe, batch, undefined, options)
    prepared.loss({ logits: logits() }, { temperature: 2, objective: { normalizer: 6 } })
    expect(prepared.loss({ logits: logits() }).loss).toBe(expected.loss)
  })

  test('chunkRows holds for hidden states: one that is refused is refused in every update', () => {
    const policy = { hidden: logits(), head: array(new Float32Array(V * V).fill(0.25), [V, V]) }
    const prepared = prepareStep(recipe, batch, undefined, { chunkRows: -1 })
    expect(() => prepared.loss(policy, { temperature: 2 })).toThrow('chunkRows is -1')
    expect(() => prepared.loss(policy, { chunkRows: 4 })).not.toThrow()
  })
})
