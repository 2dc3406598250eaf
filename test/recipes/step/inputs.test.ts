// What prepared.inputs hands to a loss operation gives the bits of prepared.loss, for every method and preset.
import { describe, expect, test } from 'vitest'
import { names, presetNames, recipeOf } from '../../../examples/recipes/describe.js'
import { columns, exampleBatch } from '../../../examples/recipes/example_batch.js'
import { type HostArray, linearPolicyLoss, policyLoss, policyLossFromLogits } from '../../../lib/index.js'
import {
  type AnyRecipe,
  type LossPolicy,
  prepareStep,
  presets,
  recipes,
  withCorrection,
} from '../../../lib/recipes/index.js'
import { refuses } from '../../support/compare.js'

const withOwnLoss = ['apo', 'disco', 'drpo', 'klCov', 'rdpo', 'real', 'regGrpo', 'simpo', 'srpo', 'tgdpo', 'tpo']
const withoutLoss = ['trainingFreeGrpo']
/** With its defaults. */
const withKlOfGaussians = ['tempFlow']
/** Weights or an objective that look at the current policy. */
const lookAtPolicy = ['clipCov', 'fipo', 'ipo']
const all = [...names, ...presetNames]

/** The log-probabilities of the example batch as logits, and as hidden states with a head that halves and reorders. */
const [T, V] = [columns.token.length, 5]
const logits: HostArray<'f32'> = {
  dtype: 'f32',
  shape: [T, V],
  data: Float32Array.from({ length: T * V }, (_, i) => Math.sin(3 * i) + (i % V) / 4),
}
const hidden: HostArray<'f32'> = { ...logits, data: logits.data.map((x) => x / 2) }
const head: HostArray<'f32'> = {
  dtype: 'f32',
  shape: [V, V],
  data: Float32Array.from({ length: V * V }, (_, i) => (i % (V + 1) === 0 ? 2 : 0.1)),
}

const policyOf = ({ logp, x, mean, std, oldMean, refMean }: Record<string, unknown>) =>
  (mean === undefined ? { logp } : { x, mean, std, oldMean, refMean }) as { logp: Float32Array }

function prepared(recipe: AnyRecipe, more: Record<string, unknown> = {}) {
  const { logp, mean, ...batch } = { ...exampleBatch(recipe), ...more }
  return prepareStep(recipe, batch)
}

const bitsOf = (x: HostArray<'f32' | 'f64' | 'bf16' | 'f16'>) => Buffer.from(x.data.buffer).toString('hex')
type Result = Record<string, HostArray<'f32' | 'f64'>>

/** The loss, its statistics and gradients are the same in all bits. */
function same(result: object, step: object, gradients: readonly string[]): void {
  const [x, y] = [result as Result, step as Result & { loss: number }]
  expect(x.loss!.data[0]).toBe(y.loss)
  for (const name of ['stats', ...gradients]) expect(bitsOf(x[name]!), name).toBe(bitsOf(y[name]!))
}

describe.each(all)('%s', (name) => {
  const recipe = recipeOf(name)
  const policy = policyOf(exampleBatch(recipe))
  const isGaussian = !('logp' in policy)
  const refused = [...withOwnLoss, ...withKlOfGaussians].includes(name)

  test('policyLoss on its inputs gives its bits', () => {
    const batch = prepared(recipe)
    if (withoutLoss.includes(name)) {
      return refuses(() => batch.inputs(policy), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'loss' })
    }
    if (refused) {
      refuses(() => batch.inputs(policy), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'inputs' })
      const why = withOwnLoss.includes(name) ? 'the method has a loss of its own' : 'the KL of two Gaussians'
      return expect(() => batch.inputs(policy)).toThrow(`${name}: inputs do not exist: ${why}`)
    }
    const { inputs, objective } = batch.inputs(policy)
    expect(Object.values({ ...inputs, ...objective })).not.toContain(undefined)
    same(policyLoss(inputs, objective), batch.loss(policy), isGaussian ? [] : ['gradLogp'])
  })

  test('without a policy its inputs lack logp alone', () => {
    if (withoutLoss.includes(name) || isGaussian) return
    const batch = prepared(recipe)
    if (withOwnLoss.includes(name) || lookAtPolicy.includes(name)) {
      refuses(() => batch.inputs(), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'policy' })
      return expect(() => batch.inputs()).toThrow(`${name}: policy is missing: the method looks at the logp of`)
    }
    const { inputs, objective, token } = batch.inputs()
    expect(inputs).not.toHaveProperty('logp')
    expect(token).toEqual(Int32Array.from(columns.token))
    const { logp } = policy
    same(policyLoss({ ...inputs, logp }, JSON.parse(JSON.stringify(objective))), batch.loss({ logp }), ['gradLogp'])
  })

  test('from logits and from hidden states', () => {
    if (withoutLoss.includes(name) || refused || isGaussian) return
    const batch = prepared(recipe)
    const options = { temperature: 0.7, softcap: 30, chunkRows: 5 }
    const ofLogits = batch.inputs({ logits }, options)
    same(policyLossFromLogits(ofLogits.inputs, ofLogits.objective), batch.loss({ logits }, options), ['gradLogits'])
    const ofHidden = batch.inputs({ hidden, head }, options)
    const gradients = ['gradHidden', 'gradHead']
    same(linearPolicyLoss(ofHidden.inputs, ofHidden.objective), batch.loss({ hidden, head }, options), gradients)
  })
})

describe('terms that no single operation has', () => {
  const kind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'inputs' }

  test('an entropy bonus with a weight for each token', () => {
    const recipe = presets.trl({ entropyCoef: 0.1, topEntropyQuantile: 0.5 })
    const policy = policyOf(exampleBatch(recipe))
    refuses(() => prepared(recipe).inputs(policy), kind)
    expect(() => prepared(recipe).inputs()).toThrow('trl: inputs do not exist: the entropy bonus has a weight')
  })

  test('a KL that is weighted by another ratio', () => {
    const recipe = presets.nemo({ klCoef: 0.1, klType: 'k2' })
    refuses(() => prepared(recipe).inputs(policyOf(exampleBatch(recipe))), kind)
    const message = 'nemo: inputs do not exist: the KL is weighted by another ratio than that of the surrogate'
    expect(() => prepared(recipe).inputs(policyOf(exampleBatch(recipe)))).toThrow(message)
    expect(() => prepared(recipe).inputs()).toThrow('nemo: policy is missing: the method looks at the logp')
  })
})

describe('the options of a step', () => {
  const recipe = recipes.dapo()
  const policy = policyOf(exampleBatch(recipe))

  test('are those of prepareStep, and of the call in their place', () => {
    const { logp, ...batch } = exampleBatch(recipe)
    const step = prepareStep(recipe, batch, undefined, { objective: { normalizer: 7 }, temperature: 2 })
    expect(step.inputs(policy).objective).toEqual({
      clipLow: 0.2,
      clipHigh: 0.28,
      aggregate: 'token_mean',
      normalizer: 7,
    })
    expect(step.inputs(undefined, { objective: { normalizer: 3 } }).objective).toMatchObject({ normalizer: 3 })
    const { objective } = step.inputs({ logits }, { softcap: 9 })
    expect(objective).toMatchObject({ temperature: 2, softcap: 9, validVocab: null, normalizer: 7 })
    refuses(() => step.inputs(policy, { signal: null } as never), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'signal' }) // biome-ignore format: one line
  })

  test('weights of a correction are among the inputs', () => {
    const corrected = withCorrection(recipe, {
      importance: { mode: 'token_truncate', high: 1.05 },
      reject: [{ statistic: 'token_k1', high: 1.1 }],
    })
    const batch = prepared(corrected)
    const { inputs, objective } = batch.inputs()
    expect((inputs.weight as Float32Array).some((w) => w === Math.fround(1.05))).toBe(true)
    expect(Array.from(inputs.mask as Uint8Array)).toContain(0)
    same(policyLoss({ ...inputs, ...policy }, objective), batch.loss(policy), ['gradLogp'])
  })

  test('a policy among the columns of the batch is not taken for the one that is not given', () => {
    const batch = prepareStep(recipes.fipo(), exampleBatch(recipes.fipo()) as never)
    refuses(() => batch.inputs(), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'policy' })
  })

  test('an unknown name and a missing reference are refused as the loss refuses them', () => {
    const batch = prepared(recipe)
    refuses(() => batch.inputs({ logps: [1] } as LossPolicy), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'logps' }) // biome-ignore format: one line
    const grpo = prepared(recipes.grpo(), { refLogp: undefined })
    refuses(() => grpo.inputs(), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'refLogp' })
  })
})
