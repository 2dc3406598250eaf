// null stands for what is absent, in a batch and in a policy, as undefined does.
import { expect, test } from 'vitest'
import { exampleBatch } from '../../../examples/recipes/example_batch.js'
import { prepareStep, recipes } from '../../../lib/recipes/index.js'

const { logp, entropy, ...batch } = exampleBatch(recipes.dapo()) as Record<string, unknown>
const objective = { entropyCoef: 0.1 }

test('an entropy of null is none: that of the batch is taken, and without one the loss asks for it', () => {
  const expected = prepareStep(recipes.dapo(), { ...batch, entropy } as never).loss({ logp } as never, { objective })
  const given = prepareStep(recipes.dapo(), { ...batch, entropy } as never).loss({ logp, entropy: null } as never, { objective }) // biome-ignore format: one call
  expect(given.loss).toBe(expected.loss)
  expect(given.gradEntropy?.data).toEqual(expected.gradEntropy?.data)
  const without = prepareStep(recipes.dapo(), { ...batch, entropy: null } as never)
  expect(() => without.loss({ logp, entropy: null } as never, { objective })).toThrow('dapo: entropy is missing')
  expect(without.loss({ logp, entropy: null } as never).gradEntropy).toBeUndefined()
})

test('columns and parts of a policy of null are absent', () => {
  const { oldLogp, refLogp, ...others } = batch
  const expected = prepareStep(recipes.dapo(), others as never).loss({ logp } as never).loss
  const given = { ...others, oldLogp: null, refLogp: null, mask: null, logits: null }
  expect(prepareStep(recipes.dapo(), given as never).loss({ logp, logits: null, hidden: null } as never).loss).toBe(expected) // biome-ignore format: one line
})
