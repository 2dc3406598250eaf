// What the layer does for every method: columns of all kinds, one loss for all kinds of policies, options, states.
import { describe, expect, expectTypeOf, test } from 'vitest'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { array, type HostArray, lossStats, toBf16, tokenLogprob, tokenLogprobBackward } from '../../lib/index.js'
import {
  type AnyRecipe,
  fromJSON,
  optimizationStep,
  prepareStep,
  recipe as recipeOf,
  recipes,
  type SavedState,
  toJSON,
  withCorrection,
} from '../../lib/recipes/index.js'
import { refuses } from '../support/compare.js'
import { advantage, fixture } from './fixture.js'

const { simpo, dcpo, disco, dapo, grpo, d3s } = recipes
const batch = { ...fixture, advantage }
const recipe = dapo()

describe('columns', () => {
  const step = (more: object) => optimizationStep(recipe, { ...batch, ...more })
  const { loss } = step({})

  test.each([
    ['a plain list', (x: Float32Array) => Array.from(x)],
    ['a host array', (x: Float32Array) => array(x)],
    ['float64', (x: Float32Array) => Float64Array.from(x)],
  ])('%s is as good as a Float32Array', (_, as) => {
    expect(step({ oldLogp: as(fixture.oldLogp), logp: as(fixture.logp), mask: array(Uint8Array.from(fixture.mask)) }).loss).toBe(loss) // biome-ignore format: one call
  })

  test('a host array is one in a column of the method too', () => {
    const given = exampleBatch(simpo())
    const expected = optimizationStep(simpo(), given as never).loss
    const chosen = array(Int32Array.from(given.chosen as number[]))
    expect(optimizationStep(simpo(), { ...given, chosen } as never).loss).toBe(expected)
  })

  test.each(['oldLogp', 'refLogp', 'logp'] as const)('bits of bf16 are no numbers: %s', (name) => {
    const bits = toBf16(fixture[name])
    const expected = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: name }
    refuses(() => step({ [name]: bits }), expected)
    refuses(() => step({ [name]: array(bits, [8], 'bf16') }), expected)
  })

  test('advantages of rollouts and of tokens together are refused', () => {
    const tokenAdvantage = new Float32Array(8)
    refuses(() => step({ tokenAdvantage }), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'tokenAdvantage' })
  })

  test('a reference that the KL needs is a column that is missing', () => {
    const { refLogp, ...rest } = batch
    refuses(() => optimizationStep(grpo(), rest), {
      error: TypeError,
      code: 'ERR_GRPO_MISSING',
      argument: 'refLogp',
      message: /^grpo: refLogp is missing from the batch, .* as klCoef is 0\.04; with klCoef 0/,
    })
    expect(optimizationStep(grpo({ klCoef: 0 }), rest).loss).toBeCloseTo(-0.085, 6)
  })
})

describe('the policy', () => {
  test('an entropy of the batch is in the statistics of a loss that has no bonus of it', () => {
    const logp = batch.logp
    const entropy = logp.map((_, t) => 1 + t / 4)
    const { mask } = batch as { mask?: ArrayLike<number> }
    const kept = Array.from(entropy).filter((_, t) => mask?.[t] !== 0)
    const mean = kept.reduce((sum, x) => sum + x) / kept.length
    const ofBatch = prepareStep(grpo({ klCoef: 0 }), { ...batch, entropy }).loss({ logp })
    const ofPolicy = prepareStep(grpo({ klCoef: 0 }), batch).loss({ logp, entropy })
    for (const { stats } of [ofBatch, ofPolicy]) expect(lossStats(stats!).entropy).toBeCloseTo(mean, 6)
  })

  const vocabulary = 4
  const logits = array(
    Float32Array.from({ length: 12 * vocabulary }, (_, i) => Math.sin(i)),
    [12, vocabulary],
  )
  const token = Int32Array.from({ length: 12 }, (_, t) => t % vocabulary)

  // The program of docs/micro_batches.md: log-probabilities part by part, one loss, gradients part by part.
  test.each(['dapo', 'd3s', 'disco', 'klCov', 'dcpo'] as const)('%s in two micro-batches is the whole', (name) => {
    const method: AnyRecipe = recipes[name]()
    const { logp, entropy, ...given } = { ...exampleBatch(method), token } as Record<string, unknown>
    const whole = optimizationStep(method, { ...given, logits } as never) as { gradLogits: HostArray; loss: number }
    const parts = [[0, 5], [5, 12]].map(([begin, end]) => ({
      logits: array(logits.data.slice(begin! * vocabulary, end! * vocabulary), [end! - begin!, vocabulary]),
      token: token.slice(begin, end),
      begin: begin!,
      end: end!,
    })) // biome-ignore format: a table
    const forward = parts.map((part) => tokenLogprob(part2(part)))
    const join = (of: (x: (typeof forward)[number]) => HostArray<'f32'>) =>
      Float32Array.from(forward.flatMap((x) => Array.from(of(x).data)))
    const all = { logp: join((x) => x.logp), entropy: join((x) => x.entropy) }
    const step = prepareStep(method, { ...given, ...all } as never).loss(all)
    expect(step.loss).toBe(whole.loss)
    const gradLogits = parts.flatMap((part, i) => {
      const { entropy, logsumexp } = forward[i]!
      const gradLogp = step.gradLogp.data.slice(part.begin, part.end)
      return Array.from(tokenLogprobBackward({ ...part2(part), entropy, logsumexp, gradLogp }).gradLogits.data)
    })
    const largest = Math.max(...Array.from(whole.gradLogits.data, Math.abs))
    Array.from(whole.gradLogits.data).forEach((x, i) => expect(Math.abs(x - gradLogits[i]!)).toBeLessThan(2 ** -22 * largest)) // biome-ignore format: one line
  })
  const part2 = ({ logits, token }: { logits: HostArray<'f32'>; token: Int32Array }) => ({ logits, token })

  test('entropy may come with it, as any list', () => {
    const noisy = { ...recipe, objective: { entropyCoef: 0.1 } }
    const entropy = Array.from({ length: 8 }, (_, t) => t / 8)
    const prepared = prepareStep(noisy, batch)
    const expected = optimizationStep(noisy, { ...batch, entropy: Float32Array.from(entropy) }).loss
    expect(prepared.loss({ logp: fixture.logp, entropy }).loss).toBe(expected)
    refuses(() => prepared.loss({ logp: fixture.logp }), {
      error: TypeError,
      code: 'ERR_GRPO_MISSING',
      argument: 'entropy',
    })
  })

  test('none, two, or one of another length are refused', () => {
    const prepared = prepareStep(recipe, batch)
    refuses(() => prepared.loss(undefined as never), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'policy' })
    refuses(() => prepared.loss({}), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'policy' })
    refuses(() => prepared.loss({ logp: fixture.logp, logits }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'logits',
    })
    refuses(() => prepared.loss({ logp: new Float32Array(3) }), { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'logp' }) // biome-ignore format: one line
  })

  test('gradients have the types of what was given', () => {
    const prepared = prepareStep(recipe, batch)
    expectTypeOf(prepared.loss({ logp: fixture.logp }).gradLogp.data).toEqualTypeOf<Float32Array>()
    expectTypeOf(prepared.state).toEqualTypeOf<undefined>()
    expectTypeOf(prepareStep(dcpo(), { ...batch, prompt: ['a', 'b'] }).state.data.prompts).toBeObject()
  })
})

describe('options of a step', () => {
  test('a normalizer takes the place of what a loss of its own is a mean over', () => {
    const given = exampleBatch(simpo()) as never
    const mean = optimizationStep(simpo(), given)
    const sum = optimizationStep(simpo(), given, undefined, { objective: { normalizer: 1 } })
    const pairs = (exampleBatch(simpo()).chosen as number[]).length
    expect(sum.loss).toBeCloseTo(pairs * mean.loss, 6)
    expect(optimizationStep(simpo(), given, undefined, { objective: { normalizer: 0 } }).loss).toBe(0)
  })

  test('and scales all gradients of such a loss', () => {
    const gradLogp = Float32Array.from(fixture.logp, (_, t) => t + 1)
    const gradEntropy = gradLogp.map((x) => -2 * x)
    const own = recipeOf(
      { name: 'own', paper: { title: 'A method of a test' }, source: 'inferred', equation: 'L = 3' },
      () => ({ objective: () => ({ loss: 3, gradLogp, gradEntropy, count: 4 }) }),
    )
    const given = { ...batch, logp: fixture.logp, entropy: new Float32Array(fixture.logp.length) }
    for (const [normalizer, scale] of [
      [null, 1],
      [4, 1],
      [8, 0.5],
      [1, 4],
      [0, 0],
    ] as const) {
      // biome-ignore format: a line
      const step = optimizationStep(own(), given, undefined, { objective: { normalizer } })
      expect(step.loss).toBe(3 * scale)
      expect(step.gradLogp.data).toEqual(gradLogp.map((x) => scale * x))
      expect(step.gradEntropy!.data).toEqual(gradEntropy.map((x) => scale * x))
    }
  })

  test('what a loss of its own does not take is refused', () => {
    const options = { error: RangeError, code: 'ERR_GRPO_OPTION' }
    const given = exampleBatch(disco()) as never
    const step = (objective: object) => optimizationStep(disco(), given, undefined, { objective })
    refuses(() => step({ normalizer: 2 }), { ...options, argument: 'normalizer' })
    refuses(() => step({ clipLow: 0.1 }), { ...options, argument: 'clipLow' })
  })

  test('an option at the wrong place is refused, before anything runs', () => {
    const wrong = { normalizer: 2 } as object
    refuses(() => prepareStep(recipe, batch, undefined, wrong), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'normalizer',
    })
    refuses(() => prepareStep(recipe, batch).loss({ logp: batch.logp }, wrong), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'normalizer',
    })
  })

  test('a method that was not called', () => {
    refuses(() => prepareStep(dapo as never, batch as never), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'recipe',
      message: /call it/,
    })
    refuses(() => withCorrection(dapo as never, {}), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'recipe',
      message: /call it/,
    })
    refuses(() => fromJSON(dapo as never, '{}'), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'recipe',
      message: /call it/,
    })
  })
})

describe('states', () => {
  const method = d3s({ steps: 10 })
  const { state } = prepareStep(method, { ...exampleBatch(method), progress: undefined } as never)

  test('a state goes through text, whatever it was typed as', () => {
    const restored: SavedState = fromJSON(method, toJSON(state))
    expect(restored).toEqual(state)
    const text = toJSON({ ...state, data: { step: -0 } })
    expect(Object.is(fromJSON(method, text).data.step, -0)).toBe(true)
  })

  test.each([
    ['of another method', { ...state, method: 'spo' }, RangeError],
    ['of another version', { ...state, version: 7 }, RangeError],
    ['a whole result', { state }, TypeError],
    ['nothing', null, TypeError],
  ])('%s is refused', (_, given, error) => {
    const code = error === TypeError ? 'ERR_GRPO_TYPE' : 'ERR_GRPO_VALUE'
    const expected = { error: error as typeof TypeError, code, argument: 'state' }
    refuses(() => prepareStep(method, {} as never, given as never), expected)
    refuses(() => fromJSON(method, JSON.stringify(given)), expected)
  })

  test('what JSON cannot hold is refused', () => {
    refuses(() => toJSON({ ...state, data: Number.NaN }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'state',
    })
    refuses(() => toJSON({ loss: 1 } as never), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'state' })
    refuses(() => fromJSON(method, 'no text'), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'state' })
  })

  test('a method without state takes none', () => {
    refuses(() => prepareStep(recipe, batch, state), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'state' })
  })
})
