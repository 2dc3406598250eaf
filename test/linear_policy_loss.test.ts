import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  cpu,
  type HostArray,
  linearPolicyLoss,
  type Objective,
  policyLoss,
  policyLossFromLogits,
} from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { policyObjective } from './references/policy_objective.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { accurateRows, identical, ulp } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import {
  filled,
  gradientNames,
  type PolicyLinearBatch,
  policyLinearBatch,
  type Types,
  V,
} from './support/linear_cases.js'
import { policyBatch } from './support/policy_cases.js'
import { random } from './support/random.js'
import { fewOnDevice } from './support/sweep.js'

/** Everything in float64, or the products and the softmax in plain float32. */
function reference(
  { inputs, matrices, policy }: PolicyLinearBatch,
  options: Objective & { temperature?: number; chunkRows?: number | null },
  round = (x: number) => x,
) {
  const { temperature = 1, chunkRows, ...objective } = options
  const { token, row } = inputs
  const logits = { logits: linearLogits(matrices, round), V, token, row, mask: policy.mask, temperature }
  const { logp, entropy } = tokenLogprobReference(logits, round)
  const { loss, gradLogp, gradEntropy } = policyObjective({ ...policy, logp, entropy }, objective)
  const gradLogits = tokenLogprobBackwardReference(logits, gradLogp, gradEntropy, round)
  return { loss, logp, entropy, gradLogp, gradEntropy, ...linearGradients(matrices, gradLogits, round) }
}

/** Log-probabilities, entropies, gradients and loss, and that loss and statistics are policyLoss of the first two. */
function agrees(b: PolicyLinearBatch, options: Objective & { temperature?: number; chunkRows?: number | null }) {
  const { chunkRows, temperature, ...objective } = options
  const result = linearPolicyLoss({ ...b.inputs, ...b.policy }, options)
  const [exact, plain] = [reference(b, options), reference(b, options, Math.fround)]
  for (const name of ['logp', 'entropy', ...gradientNames] as const) {
    if (result[name]) accurateRows(result[name], exact[name], plain[name])
  }
  // One number's error may vanish by luck: what those of the log-probabilities and entropies can add up to. By differences,
  // since the gradient leaves out what a surrogate holds fixed.
  const step = 1e-6
  const moved = (t: number, by: number) => {
    const logp = exact.logp.map((x, i) => (i === t ? x + by : x))
    return policyObjective({ ...b.policy, logp, entropy: exact.entropy }, objective).loss
  }
  const slopes = exact.logp.map((_, t) => (moved(t, step) - moved(t, -step)) / (2 * step))
  const worst = (x: number[], y: number[]) => Math.max(...x.map((v, i) => Math.abs(v - (y[i] as number))))
  const size = (x: number[]) => x.reduce((sum, v) => sum + Math.abs(v), 0)
  const error =
    size(slopes) * worst(exact.logp, plain.logp) + size(exact.gradEntropy) * worst(exact.entropy, plain.entropy)
  const loss = result.loss.data[0] as number
  expect(Math.abs(loss - exact.loss)).toBeLessThanOrEqual(2 * error + ulp(exact.loss))
  const parts = policyLoss({ logp: result.logp, entropy: result.entropy, ...b.policy }, objective)
  identical(result.loss, parts.loss)
  identical(result.stats, parts.stats)
}

const threads = cpu.threads
const instructionSet = cpu.instructionSet
afterEach(() => {
  cpu.threads = threads
  cpu.instructionSet = instructionSet
})

const types: Types[] = [
  { hidden: 'f32', head: 'f32' },
  { hidden: 'f32', head: 'f32', headBias: 'f32' },
  { hidden: 'bf16', head: 'bf16', headBias: 'bf16' },
  { hidden: 'f16', head: 'f16' },
  { hidden: 'bf16', head: 'f32', headBias: 'f16' },
]
const objectives: (Objective & { temperature?: number })[] = [
  {},
  { klCoef: 0.1, entropyCoef: 0.05, aggregate: 'sequence_mean', temperature: 0.7 },
  { ratio: 'sequence', klCoef: 0.1, klWeight: 'ratio', entropyCoef: 0.05 },
]

describe('against float64', () => {
  const all = types.flatMap((dtypes, i) =>
    objectives.map((objective, j) => ({ dtypes, objective, chunks: (i + j) % 2 ? [null, 4] : [4, null] })),
  )
  test.each(all)('$dtypes, $objective', ({ dtypes, objective, chunks }) => {
    const b = policyLinearBatch(dtypes)
    const [first, second] = chunks
    for (const chunkRows of fewOnDevice([first], [second])) agrees(b, { ...objective, chunkRows })
  })

  test.each<Objective>([
    { surrogate: 'cispo', aggregate: 'constant', maxLength: 9 },
    { surrogate: 'sapo', aggregate: 'token_sum', countEmpty: true },
    { surrogate: 'reinforce', aggregate: 'sequence_sum' },
    { surrogate: 'vespo', ratio: 'sequence_product' },
    { surrogate: 'dro', droBeta: 0.7, aggregate: 'sequence_mean' },
    { surrogate: 'dppo_tv', clipLow: 0.01, clipHigh: 0.01, ratioCap: 2 },
    { surrogate: 'dppo_kl', clipLow: 0.01, clipHigh: 0.01 },
    { ratio: 'sequence_token', normalizer: 11 },
    { ratio: 'sequence_product', aggregate: 'sequence_mean' },
    { ratio: 'geometric', entropyCoef: 0.1, entropyAggregate: 'sequence_mean' },
    { dualClip: 1.5, logRatioClamp: 0.9 },
  ])('%j', (objective) => agrees(policyLinearBatch({ hidden: 'f32', head: 'f32' }, 5), objective))

  test('every instruction set', () => {
    const b = policyLinearBatch({ hidden: 'f32', head: 'bf16', headBias: 'f32' })
    const all = backend === 'cpu' ? instructionSetNames : ['baseline']
    const available = all.filter((name) => native.setInstructionSet(name))
    expect(available.length).toBeGreaterThan(0)
    for (const name of available) {
      cpu.instructionSet = name
      agrees(b, { klCoef: 0.1, entropyCoef: 0.05, chunkRows: 7 })
    }
  })

  test.each(['token', 'sequence'] as const)('central differences, %s ratios', (ratio) => {
    const b = policyLinearBatch({ hidden: 'f32', head: 'f32', headBias: 'f32' }, 8)
    const objective = { ratio, klCoef: 0.2, entropyCoef: 0.1, temperature: 0.9 }
    const result = linearPolicyLoss({ ...b.inputs, ...b.policy }, objective)
    const r = random(1)
    for (const [name, input] of [
      ['gradHidden', 'hidden'],
      ['gradHead', 'head'],
      ['gradHeadBias', 'headBias'],
    ] as const) {
      const x = Array.from(b.matrices[input] as ArrayLike<number>)
      // Along random directions: the sum over all entries of gradient times direction.
      for (let k = 0; k < 3; k++) {
        const direction = x.map(() => r.normal())
        const loss = (by: number) =>
          reference(
            { ...b, matrices: { ...b.matrices, [input]: x.map((y, i) => y + by * (direction[i] as number)) } },
            objective,
          ).loss
        const step = 1e-5
        const slope = (loss(step) - loss(-step)) / (2 * step)
        const gradient = (result[name] as HostArray).data
        const terms = direction.map((d, i) => d * (gradient[i] as number))
        const size = terms.reduce((sum, term) => sum + Math.abs(term), 0)
        // The gradient is computed in float32; the differences are good to the square of the step.
        expect(Math.abs(terms.reduce((sum, term) => sum + term, 0) - slope)).toBeLessThanOrEqual(1e-6 * size)
      }
    }
  })
})

describe('the same as its parts', () => {
  // Small whole numbers: the products are exact, the logits those that policyLossFromLogits is given.
  const r = random(4)
  const whole = (n: number) => Float32Array.from({ length: n }, () => r.integer(5) - 2)
  const [rows, size, vocabulary] = [26, 8, 400]
  const hidden = array(whole(rows * size), [rows, size])
  const head = array(whole(vocabulary * size), [vocabulary, size])
  const headBias = array(whole(vocabulary))
  const logits = array(
    Float32Array.from(linearLogits({ hidden: hidden.data, head: head.data, D: size, headBias: headBias.data })),
    [rows, vocabulary],
  )
  const { logp, oldLogp, refLogp, entropy, tokenAdvantage, ratioLow, ratioHigh, ...rest } = policyBatch(2)
  const token = Int32Array.from({ length: rows }, () => r.integer(vocabulary))
  const first = policyLossFromLogits({ logits, token, ...rest }).logp.data
  const noise = (spread: number) => first.map((x) => x + spread * (r.uniform() - 0.5))
  const policy = { ...rest, oldLogp: noise(1), refLogp: noise(1) }

  test.each(['token', 'sequence', 'sequence_token', 'sequence_product', 'geometric'] as const)(
    '%s ratios: the bits of policyLossFromLogits and of policyLoss',
    (ratio) => {
      const objective = { ratio, klCoef: 0.1, entropyCoef: 0.05, temperature: 0.5 }
      const explicit = policyLossFromLogits({ logits, token, ...policy }, objective)
      const own = linearPolicyLoss({ hidden, head, headBias, token, ...policy }, objective)
      const { temperature, ...others } = objective
      const parts = policyLoss({ logp: own.logp, entropy: own.entropy, ...policy }, others)
      identical(own.loss, parts.loss)
      identical(own.stats, parts.stats)
      // On a device the two operations take different exponentials, each within its limits against float64.
      if (backend !== 'cpu') return
      for (const name of ['loss', 'logp', 'entropy', 'stats'] as const) identical(own[name], explicit[name])
      // The two products of gradLogits, in float64 of its float32 bits.
      const matrices = { hidden: hidden.data, head: head.data, D: size }
      const expected = linearGradients(matrices, explicit.gradLogits.data)
      const plain = linearGradients(matrices, explicit.gradLogits.data, Math.fround)
      for (const name of gradientNames) accurateRows(own[name] as HostArray, expected[name], plain[name])
    },
  )
})

describe('the same bits', () => {
  const b = policyLinearBatch({ hidden: 'bf16', head: 'f32', headBias: 'f32' })
  const inputs = { ...b.inputs, ...b.policy }
  const chunks = fewOnDevice([3, 64], [1])
  test.each((['token', 'sequence'] as const).flatMap((ratio) => chunks.map((chunkRows) => ({ ratio, chunkRows }))))(
    '%j: loss, logp, entropy, gradHidden and statistics',
    ({ ratio, chunkRows }) => {
      const objective = { ratio, klCoef: 0.1, entropyCoef: 0.05 }
      const expected = linearPolicyLoss(inputs, objective)
      const actual = linearPolicyLoss(inputs, { ...objective, chunkRows })
      for (const name of ['loss', 'logp', 'entropy', 'gradHidden', 'stats'] as const)
        identical(actual[name], expected[name])
    },
  )
  cpuTest.each([1, 2, 3, 8])('%d threads: everything', (count) => {
    const expected = linearPolicyLoss(inputs, { chunkRows: 5, entropyCoef: 0.1 })
    cpu.threads = count
    const actual = linearPolicyLoss(inputs, { chunkRows: 5, entropyCoef: 0.1 })
    for (const name of ['loss', 'logp', 'entropy', 'stats', ...gradientNames] as const) {
      identical(actual[name] as HostArray, expected[name] as HostArray)
    }
  })
  test('from the promises', async () => {
    const { gradHead } = await promises.linearPolicyLoss(inputs)
    identical(gradHead, linearPolicyLoss(inputs).gradHead)
  })
  // A device's call is enqueued whole; device_array.test.ts has what a signal does there.
  cpuTest('a call that is aborted rejects', async () => {
    const big = { hidden: array(filled(512 * 256, 1), [512, 256]), head: array(filled(20_000 * 256, 1), [20_000, 256]) }
    const tokens = { token: new Int32Array(512), advantage: filled(1, 1), sequenceStart: Int32Array.of(0, 512) }
    const abort = new AbortController()
    setTimeout(() => abort.abort(), 5)
    const call = promises.linearPolicyLoss({ ...big, ...tokens }, { signal: abort.signal, chunkRows: 8 })
    await expect(call).rejects.toThrow(/abort/)
  })
})
