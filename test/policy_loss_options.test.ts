// Every field of an objective reaches each of the three losses: those that form the log-probabilities themselves give the
// bits of policyLoss on these, the gradient of them, and another loss than without the field.
import { describe, expect, test } from 'vitest'
import { signatures } from '../lib/addon/signatures.js'
import { array, linearPolicyLoss, lossStats, type Objective, policyLoss, policyLossFromLogits } from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference } from './references/token_logprob.js'
import { accurate, identical } from './support/compare.js'
import { random } from './support/random.js'

const [R, V, D] = [18, 7, 4]
const r = random(5)
const logits = array(r.normals(R * V, 1.5), [R, V])
const [hidden, head] = [array(r.normals(R * D), [R, D]), array(r.normals(V * D), [V, D])]
const token = Int32Array.from({ length: R }, () => r.integer(V))
const sequenceStart = Int32Array.of(0, 8, 8, 9, 18)
const advantage = Float32Array.of(1.5, 1, -0.8, -1.2)
const mask = Uint8Array.from({ length: R }, (_, t) => Number(t % 5 !== 1))
/** So that the terms of a sequence differ. */
const weight = r.uniforms(R, 0.5, 1.5)

const operations = {
  policyLossFromLogits: (policy: object, objective: Objective) => {
    const { gradLogits, ...result } = policyLossFromLogits({ logits, token, ...policy } as never, objective)
    return { ...result, gradient: gradLogits }
  },
  linearPolicyLoss: (policy: object, objective: Objective) => {
    const { gradHidden, ...result } = linearPolicyLoss({ hidden, head, token, ...policy } as never, objective)
    return { ...result, gradient: gradHidden }
  },
}

/** The gradient of each, from those of the log-probabilities and the entropies. */
const chains: Record<keyof typeof operations, (of: Gradients, round?: (x: number) => number) => Float64Array> = {
  policyLossFromLogits: (of, round) => ofLogits(logits.data, of, round),
  linearPolicyLoss: (of, round) => {
    const matrices = { hidden: hidden.data, head: head.data, D }
    return linearGradients(matrices, ofLogits(linearLogits(matrices, round), of, round), round).gradHidden
  },
}
type Gradients = Pick<ReturnType<typeof policyLoss>, 'gradLogp' | 'gradEntropy'>
const ofLogits = (z: ArrayLike<number>, of: Gradients, round?: (x: number) => number) =>
  tokenLogprobBackwardReference({ logits: z, V, token, mask }, of.gradLogp.data, of.gradEntropy?.data, round)

const kl = { klCoef: 0.3 }
const weighted = { ...kl, ratio: 'sequence', klWeight: 'token_ratio' } as const
const bonus = { entropyCoef: 0.1 }
const vespo = { surrogate: 'vespo', ratio: 'sequence_product' } as const
const dppo = { surrogate: 'dppo_tv', clipLow: 0.2, clipHigh: 0.2 } as const
/** A field, what it stands beside, and its value. */
const fields: [name: keyof Objective, beside: Objective, value: unknown][] = [
  ...(['cispo', 'sapo', 'reinforce', 'dppo_kl'] as const).map((x) => ['surrogate', {}, x] as [keyof Objective, Objective, unknown]), // biome-ignore format: one line
  ...(['sequence', 'sequence_product', 'geometric'] as const).map((x) => ['ratio', {}, x] as [keyof Objective, Objective, unknown]), // biome-ignore format: one line
  ['ratio', { ratio: 'sequence' }, 'sequence_token'],
  ['clipLow', {}, 0.4],
  ['clipHigh', {}, 0.4],
  ['dualClip', { clipHigh: 0.1 }, 1.05],
  ['logRatioClamp', {}, 0.1],
  ['klCoef', {}, 0.3],
  ['klCoef', {}, -0.3],
  ...(['k1', 'k2', 'abs'] as const).map((x) => ['kl', kl, x] as [keyof Objective, Objective, unknown]),
  ['klGradient', kl, 'k2'],
  ['klWeight', kl, 'ratio'],
  ['klWeight', { ...kl, ratio: 'sequence' }, 'token_ratio'],
  ['klWeight', { ...weighted, klWeight: 'ratio' }, 'token_ratio'],
  ['klClamp', kl, 0.1],
  ['klValueClamp', kl, 0.01],
  ['klWeightClamp', weighted, 1.01],
  ['klTermClamp', weighted, 0.01],
  ['entropyCoef', {}, 0.1],
  ['entropyCoef', {}, -0.1],
  ['entropyCoef', { ratio: 'sequence' }, -0.1],
  ['entropyAggregate', bonus, 'sequence_mean'],
  ['tauPositive', { surrogate: 'sapo' }, 2],
  ['tauNegative', { surrogate: 'sapo' }, 2],
  ...(['sequence_mean', 'sequence_sum', 'token_sum'] as const).map((x) => ['aggregate', {}, x] as [keyof Objective, Objective, unknown]), // biome-ignore format: one line
  ['maxLength', { aggregate: 'constant', maxLength: 5 }, 9],
  ['countEmpty', { aggregate: 'sequence_mean' }, true],
  ['normalizer', {}, 5],
  ['powerPositive', vespo, 1],
  ['decayPositive', vespo, 1],
  ['powerNegative', vespo, 1],
  ['decayNegative', vespo, 1],
  ['droBeta', { surrogate: 'dro', droBeta: 0.7 }, 0.2],
  ['ratioCap', dppo, 0.9],
]

describe.each(Object.keys(operations) as (keyof typeof operations)[])('%s', (operation) => {
  const run = operations[operation]
  const given = { sequenceStart, advantage, mask, weight }
  const own = run(given, {}).logp.data
  const near = (spread: number) => own.map((x) => x + spread * r.normal())
  const policy = { ...given, oldLogp: near(0.6), refLogp: near(0.4) }
  const known = new Map<string, ReturnType<typeof run>>()
  const once = (objective: Objective) => {
    const key = JSON.stringify(objective)
    const result = known.get(key) ?? run(policy, objective)
    known.set(key, result)
    return result
  }

  test.each(fields)('%s beside %j: %j', (name, beside, value) => {
    const objective = { ...beside, [name]: value } as Objective
    const [without, result] = [once(beside), once(objective)]
    const parts = policyLoss({ ...policy, logp: result.logp, entropy: result.entropy }, objective)
    identical(result.loss, parts.loss)
    identical(result.stats, parts.stats)
    accurate(result.gradient, chains[operation](parts), chains[operation](parts, Math.fround))
    // A gradient of its own, where the loss is the same.
    const numbers = ({ loss, gradient }: ReturnType<typeof run>) => [loss.data[0], ...Array.from(gradient.data as Float32Array)] // biome-ignore format: one line
    expect(numbers(result)).not.toEqual(numbers(without))
    if (name !== 'klGradient' && value !== 'sequence_token') expect(result.loss.data[0]).not.toBe(without.loss.data[0])
  })
})

test('there is a case for each field', () => {
  // But for what is no part of the objective: gradient_options.test.ts.
  const names = signatures.policyLoss.options.map(({ name }) => name).filter((name) => name !== 'gradScale')
  expect([...new Set<string>(fields.map(([name]) => name))].sort()).toEqual(names.sort())
})

test('a ratio on a bound of its interval is not clipped', () => {
  const logp = Float32Array.of(-1, -2)
  const inputs = { logp, oldLogp: logp, advantage: Float32Array.of(1, -1), sequenceStart: Int32Array.of(0, 1, 2) }
  const { stats } = policyLoss(inputs, { clipLow: 0, clipHigh: 0 })
  expect(lossStats(stats)).toMatchObject({ clipFractionLow: 0, clipFractionHigh: 0 })
})
