import { describe, expect, test } from 'vitest'
import { lossStats, tokenLogprob } from '../../../lib/index.js'
import type { Objective } from '../../../lib/objective.js'
import { optimizationStep, recipe } from '../../../lib/recipes/index.js'
import { closeIn32 } from '../central_differences.js'

/** A method with every term; `own` says which of them have weights of their own. */
const method = recipe(
  {
    name: 'separate',
    paper: { title: 'A method of a test' },
    source: 'inferred',
    equation: 'PPO with a KL that is weighted by the ratio of the token, and an entropy bonus',
    columns: { share: 'f32[T]? the weight of the entropy of each token', before: 'f32[T]? the other policy of the KL' },
    options: { ratio: ['enum token|sequence', 'whose ratio the surrogate has'] },
  },
  ({ ratio }) => ({
    weights: ({ columns }) => ({ entropyWeight: columns.share, klOldLogp: columns.before }),
    objective: { ratio, klCoef: 0.3, klWeight: 'token_ratio', entropyCoef: 0.2, aggregate: 'sequence_mean' },
  }),
)

const [R, V] = [5, 4]
const random = (n: number, k: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(17 * i + k) * 1.5)
const logits = { dtype: 'f32', shape: [R, V], data: random(R * V, 1) } as const
const eye = { dtype: 'f32', shape: [V, V], data: Float32Array.from({ length: V * V }, (_, i) => Number(i % (V + 1) === 0)) } as const // biome-ignore format: short
const token = Int32Array.of(0, 3, 1, 2, 2)
const { logp, entropy } = tokenLogprob({ logits, token })
const near = (k: number) => logp.data.map((x, t) => x + 0.2 * (random(R, k)[t] as number))
// The last rollout has no tokens.
const batch = { token, sequenceStart: [0, 2, 5, 5], groupStart: [0, 3], advantage: [1, -0.5, 2], oldLogp: near(2), refLogp: near(3), mask: [1, 1, 1, 0, 1] } // biome-ignore format: short
const policies = { logp: { logp: logp.data, entropy: entropy.data }, logits: { logits }, hidden: { hidden: logits, head: eye } } as const // biome-ignore format: short
const ones = new Float32Array(R).fill(1)

/** Each field that the KL knows, so that its own term has to know it too. */
const objectives: Objective[] = [
  {},
  { klCoef: 0.5 },
  { kl: 'k1' },
  { kl: 'k2', klGradient: 'k2' },
  { klWeight: 'none' },
  { klWeightClamp: 1.01 },
  { klClamp: 0.1 },
  { klValueClamp: 0.01 },
  { klTermClamp: 0.01 },
  { logRatioClamp: 0.05 },
  { aggregate: 'sequence_sum' },
  { aggregate: 'constant', maxLength: 3 },
  { countEmpty: true },
  { normalizer: 8 },
]

type Step = ReturnType<typeof optimizationStep>
const numbers = ({ loss, gradLogp, gradEntropy, gradLogits, gradHidden, gradHead }: Step) => [
  loss,
  ...[gradLogp, gradEntropy, gradLogits, gradHidden, gradHead].flatMap((x) => (x ? Array.from(x.data as Float32Array) : [])),
] // biome-ignore format: short

describe('terms with weights of their own', () => {
  for (const ratio of ['token', 'sequence'] as const) {
    for (const [kind, policy] of Object.entries(policies)) {
      test(`${kind}, ratio of the ${ratio}: with weights of 1 and the same policy they are the fused loss`, () => {
        const run = (own: object, objective = {}) =>
          optimizationStep(method({ ratio }), { ...batch, ...policy, ...own } as never, undefined, {
            objective,
          }) as Step
        const plain = run({})
        for (const objective of objectives) {
          const fused = run({}, objective)
          if (Object.keys(objective).length > 0) expect(numbers(fused), JSON.stringify(objective)).not.toEqual(numbers(plain)) // biome-ignore format: one line
          for (const own of [{ share: ones }, { before: batch.oldLogp }, { share: ones, before: batch.oldLogp }]) {
            const separate = run(own, objective)
            closeIn32(numbers(separate), numbers(fused), 2)
            const [a, b] = [lossStats(separate.stats!), lossStats(fused.stats!)]
            for (const [name, value] of Object.entries(b)) expect(a[name as 'kl'], name).toBeCloseTo(value, 6)
          }
        }
      })
    }
  }

  test('a weight multiplies the bonus of its token, in the loss and in the gradient', () => {
    const share = Float32Array.of(2, 0, 0.5, Number.NaN, 1)
    const all = { ...batch, ...policies.logp }
    const [whole, part] = [optimizationStep(method(), all), optimizationStep(method(), { ...all, share })]
    const gradient = Array.from(whole.gradEntropy!.data, (g, t) => (batch.mask[t] === 0 ? 0 : g * share[t]!))
    closeIn32(part.gradEntropy!.data, gradient)
    expect(part.gradLogp.data).toEqual(whole.gradLogp.data)
    const bonus = (gradients: ArrayLike<number>) =>
      Array.from(gradients).reduce((sum, g, t) => sum + (g === 0 ? 0 : g * entropy.data[t]!), 0)
    closeIn32([part.loss - whole.loss], [bonus(gradient) - bonus(whole.gradEntropy!.data)], 8)
    expect(lossStats(part.stats!).entropy).toBe(lossStats(whole.stats!).entropy)
  })

  test('a KL to the current policy has the gradient of its score: x for k3', () => {
    const given = { ...batch, ...policies.logp, advantage: [0, 0, 0], before: logp.data }
    const { gradLogp, stats } = optimizationStep(method(), given, undefined, { objective: { entropyCoef: 0 } })
    const counts = [2, 2, 2, 2, 2]
    closeIn32(
      gradLogp.data,
      Array.from(logp.data, (x, t) => (batch.mask[t] === 0 ? 0 : (0.3 * (x - batch.refLogp[t]!)) / (2 * counts[t]!))),
      8,
    )
    const { klLoss, kl } = lossStats(stats!)
    expect(klLoss).toBeCloseTo(0.3 * kl, 12)
  })

  test('NaN and infinities of the KL are counted once', () => {
    const refLogp = batch.refLogp.map((x, t) => (t === 0 ? Number.NaN : x))
    const given = { ...batch, ...policies.logp, refLogp, before: logp.data }
    expect(lossStats(optimizationStep(method(), given).stats!).nonFinite).toBe(1)
    const far = { ...given, refLogp: batch.refLogp.map((x, t) => (t === 4 ? 1e30 : x)) }
    expect(lossStats(optimizationStep(method(), far).stats!).nonFinite).toBe(1)
  })
})
