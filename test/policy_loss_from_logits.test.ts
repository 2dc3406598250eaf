import { describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  type HostArray,
  type Objective,
  type PolicyLossFromLogitsInputs,
  policyLoss,
  policyLossFromLogits,
  toBf16,
  toF16,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { type PolicyCase, policyObjective } from './references/policy_objective.js'
import { type LogitsInputs, tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { cpuTest } from './support/backend_kind.js'
import { accurate, close, identical, values } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { dtypes, type Logits, type LogitsDType, logitsOf } from './support/logits_cases.js'
import {
  aggregates,
  fits,
  fixture,
  goldens,
  klOptions,
  ownOptions,
  policyBatch,
  ratios,
  surrogates,
  takesBounds,
  tenDecimals,
} from './support/policy_cases.js'
import { random } from './support/random.js'
import { few, fewOnDevice } from './support/sweep.js'

const names = ['loss', 'gradLogits', 'logp', 'entropy', 'stats'] as const
const number = (x: HostArray) => x.data[0] as number

/** Logits for the tokens of policyBatch: rows of V columns, of which the last names no token and the first several. */
function batch(seed: number, dtype: LogitsDType = 'f32', V = 67, R = 20) {
  const { logp: _, entropy: __, ratioLow, ratioHigh, tokenAdvantage, ...policy } = policyBatch(seed)
  const r = random(seed + 100)
  const T = 26
  const data = r.normals(R * V, 2)
  for (let i = 0; i < data.length; i++) if (r.uniform() < 0.03) data[i] = -Infinity
  const row = Int32Array.from({ length: T }, (_, t) => (t < 4 ? 0 : r.integer(R - 1)))
  const token = Int32Array.from({ length: T }, (_, t) => (t < 2 ? 5 : r.integer(V)))
  for (let t = 0; t < T; t++) data[row[t]! * V + token[t]!] = r.normal()
  const logits = logitsOf(dtype, data, V)
  // Old and reference log-probabilities near the policy's own, so that ratios lie on both sides of every bound.
  const { logp } = tokenLogprob({ logits, token, row }, { temperature: 0.8 })
  const near = () => logp.data.map((x) => x + 0.8 * (2 * r.uniform() - 1)) as Float32Array
  const inputs = { ...policy, oldLogp: near(), refLogp: near(), logits, token, row }
  return { inputs, bounds: { ratioLow, ratioHigh }, tokenAdvantage, R, T, V, r }
}

/** The three operations one after another, the gradient over the logits or apart. */
function chain(
  inputs: PolicyLossFromLogitsInputs,
  { temperature = 1, ...objective }: Objective & { temperature?: number },
  inPlace = false,
) {
  const { logits, token, row, ...policy } = inputs
  const rows = { logits, token, row, mask: policy.mask }
  const { logp, entropy, logsumexp } = tokenLogprob(rows, { temperature })
  const { loss, stats, gradLogp, gradEntropy } = policyLoss({ ...policy, logp, entropy }, objective)
  const grads = { logsumexp, entropy, gradLogp, gradEntropy }
  const out = inPlace ? { gradLogits: logits as Logits } : {}
  const { gradLogits } = tokenLogprobBackward({ ...rows, ...grads }, { temperature, out })
  return { loss, gradLogits, logp, entropy, stats }
}

type Case = LogitsInputs & Omit<PolicyCase, 'logp' | 'entropy'>

/** The same three in float64 from their definitions; with Math.fround what each hands to the next is float32. */
function reference(c: Case, objective: Objective, round?: (x: number) => number) {
  const { logp, entropy } = tokenLogprobReference(c, round)
  const { loss, gradLogp, gradEntropy } = policyObjective({ ...c, logp, entropy }, objective)
  const given = [gradLogp, gradEntropy].map((x) => (round ? x.map(round) : x))
  return { loss, logp, entropy, gradLogits: tokenLogprobBackwardReference(c, given[0]!, given[1], round) }
}
const plainCase = (inputs: ReturnType<typeof batch>['inputs'], V: number, temperature?: number): Case =>
  ({ ...inputs, logits: values(inputs.logits), V, temperature }) as Case

describe('golden numbers, through logits', () => {
  // Two columns, log p and log(1 - p): the gradient is g (1 - p) and its negative.
  const p = fixture.logp.map(Math.exp)
  const logits = p.flatMap((x) => [Math.log(x), Math.log(Math.max(0, 1 - x))])
  const token = Array<number>(8).fill(0)
  test.each(goldens)('%s', (_, change, objective, loss, gradient) => {
    const { logp: __, ...policy } = { ...fixture, ...change }
    const exact = reference({ ...policy, logits, V: 2, token }, objective)
    const byRow = [...gradient.slice(0, 3), 0, ...gradient.slice(3)].flatMap((g, t) => [
      g * (1 - p[t]!),
      g * (p[t]! - 1),
    ])
    tenDecimals([exact.loss, ...exact.gradLogits], [loss, ...byRow])

    const types = { sequenceStart: Int32Array, mask: Uint8Array }
    const arrays = Object.fromEntries(
      Object.entries(policy).map(([name, x]) => [
        name,
        x && (types[name as 'mask'] ?? Float32Array).from(x as number[]),
      ]),
    )
    const inputs = { ...arrays, logits: array(Float32Array.from(logits), [8, 2]), token: Int32Array.from(token) }
    const result = policyLossFromLogits(inputs as unknown as PolicyLossFromLogitsInputs, objective)
    const rounded = Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [name, x && 'dtype' in x ? x.data : x]),
    ) as unknown as Case
    const kept = { ...rounded, V: 2 }
    const [wide, plain] = [reference(kept, objective), reference(kept, objective, Math.fround)]
    accurate(result.gradLogits, wide.gradLogits, plain.gradLogits)
    accurate(result.loss, [wide.loss], [plain.loss])
  })
})

describe('the bits of tokenLogprob, policyLoss and tokenLogprobBackward', () => {
  const same = (inputs: PolicyLossFromLogitsInputs, options: Objective & { temperature?: number }) => {
    const [fused, three] = [policyLossFromLogits(inputs, options), chain(inputs, options)]
    for (const name of names) identical(fused[name], three[name])
  }
  const cases = surrogates
    .flatMap((surrogate) => ratios.filter((ratio) => fits(surrogate, ratio)).map((ratio) => ({ surrogate, ratio })))
    .map((one, i) => ({ ...one, turn: i % 7 }))
  test.each(cases)('$surrogate, $ratio', ({ surrogate, ratio, turn }) => {
    const turns = fewOnDevice([turn], [0, 1, 2, 3, 4, 5, 6])
    let seed = 0
    for (const kl of klOptions) {
      if (ratio === 'geometric' && kl.klWeight === 'ratio') continue
      // What follows changes with the seed by twos to fives: each surrogate and ratio has a seventh of its own.
      if (!turns.includes(++seed % 7)) continue
      const dtype = dtypes[seed % 3]!
      const { inputs, bounds, tokenAdvantage } = batch(seed, dtype)
      const aggregate = aggregates[seed % 5]!
      const entropyCoef = seed % 2 ? 0.05 : 0
      const temperature = seed % 4 ? 0.8 : 1
      const own = seed % 3 === 0 && ratio !== 'geometric' ? { advantage: undefined, tokenAdvantage } : {}
      const limits = ratio === 'token' && takesBounds(surrogate) && seed % 5 === 0 ? bounds : {}
      const rest = { aggregate, maxLength: 5, entropyCoef, temperature, ...ownOptions(surrogate, seed) }
      const objective = { surrogate, ratio, ...rest, ...kl }
      same({ ...inputs, ...own, ...limits }, objective)
    }
  })
  cpuTest('with every instruction set, one thread and several', () => {
    const threads = native.threads()
    const set = native.instructionSet()
    for (const name of instructionSetNames) {
      if (!native.setInstructionSet(name)) continue
      for (const count of [1, 3]) {
        native.setThreads(count)
        for (const dtype of dtypes) same(batch(31, dtype, 1301).inputs, { klCoef: 0.1, entropyCoef: 0.01 })
      }
    }
    native.setInstructionSet(set)
    native.setThreads(threads)
  })
  test('token t in row t without `row`', () => {
    const { inputs, V, T, r } = batch(32)
    same({ ...inputs, row: undefined, logits: array(r.normals(T * V), [T, V]) }, { klCoef: 0.1 })
  })
})

describe('against float64', () => {
  test.each(dtypes.flatMap((dtype) => ratios.map((ratio) => ({ dtype, ratio }))))(
    '$dtype, $ratio',
    ({ dtype, ratio }) => {
      // One loss could be exact by luck in the plain version: all of them are held together.
      const losses: number[][] = []
      for (const seed of fewOnDevice([1, 2, 3, 4], [5, 6, 7, 8])) {
        const { inputs, V } = batch(seed, dtype)
        const objective = {
          ratio,
          klCoef: 0.1,
          entropyCoef: 0.02,
          aggregate: aggregates[seed % 5]!,
          maxLength: 5,
        } as const
        const result = policyLossFromLogits(inputs, { ...objective, temperature: 0.8 })
        const c = plainCase(inputs, V, 0.8)
        const [exact, plain] = [reference(c, objective), reference(c, objective, Math.fround)]
        for (const name of ['gradLogits', 'logp', 'entropy'] as const) accurate(result[name], exact[name], plain[name])
        losses.push([number(result.loss), exact.loss, plain.loss])
      }
      const [actual, exact, plain] = [0, 1, 2].map((i) => losses.map((x) => x[i] as number))
      accurate(array(Float32Array.from(actual!)), exact!, plain!)
    },
  )

  // The CUDA kernels keep such rows in the shared memory of 1, 2, 4 and 8 blocks.
  const longRows: [LogitsDType, number][] = [
    ['bf16', 5003],
    ['f16', 50_257],
    ['f32', 40_000],
    ['bf16', 151_936],
  ]
  test.each(few<[LogitsDType, number]>(longRows, [['f32', 151_936]]))('long rows of %s: %i columns', (dtype, V) => {
    const { inputs } = batch(9, dtype, V, 5)
    const objective = { klCoef: 0.1, entropyCoef: 0.02 } as const
    const result = policyLossFromLogits(inputs, { ...objective, temperature: 0.8 })
    const c = plainCase(inputs, V, 0.8)
    const [exact, plain] = [reference(c, objective), reference(c, objective, Math.fround)]
    for (const name of ['gradLogits', 'logp', 'entropy'] as const) accurate(result[name], exact[name], plain[name])
    const apart = chain(inputs, { ...objective, temperature: 0.8 })
    for (const name of names) identical(result[name], apart[name])
  })

  // More tokens than a block of a cluster has threads, and than the block of rows that are read twice has.
  test.each([300, 700])('a row of %i tokens, in place', (tokens) => {
    const [R, T, V] = [2, tokens + 1, 50_000]
    const r = random(12)
    const logits = logitsOf('bf16', r.normals(R * V, 2), V)
    const token = Int32Array.from({ length: T }, () => r.integer(V) % (r.integer(2) ? V : 99))
    const row = Int32Array.from({ length: T }, (_, t) => (t === 150 ? 1 : 0))
    const inputs = { logits, token, row, sequenceStart: new Int32Array([0, T]), tokenAdvantage: r.normals(T) }
    const expected = chain(inputs, { entropyCoef: 0.1 })
    const copy = { ...logits, data: logits.data.slice() } as Logits
    identical(chain({ ...inputs, logits: copy }, { entropyCoef: 0.1 }, true).gradLogits, expected.gradLogits)
    const result = policyLossFromLogits(inputs, { entropyCoef: 0.1, out: { gradLogits: logits } })
    for (const name of names) identical(result[name], expected[name])
  })

  test.each(['token', 'sequence', 'sequence_product'] as const)('central differences: %s', (ratio) => {
    const { inputs, V } = batch(5, 'f32', 6)
    const objective = { ratio, klCoef: 0.1, klWeight: 'ratio', entropyCoef: 0.05 } as const
    const { gradLogits } = policyLossFromLogits(inputs, { ...objective, temperature: 0.8 })
    const c = plainCase(inputs, V, 0.8)
    const loss = (i: number, by: number) =>
      reference({ ...c, logits: Array.from(c.logits, (x, j) => (j === i ? x + by : x)) }, objective).loss
    const step = 1e-5
    close(
      gradLogits.data,
      Array.from(c.logits, (_, i) => (loss(i, step) - loss(i, -step)) / (2 * step)),
      1e-6,
    )
  })
})

describe('where the gradient is written', () => {
  test.each(ratios)('in place, in rows that lie apart, in float32, or nowhere: %s', (ratio) => {
    for (const dtype of dtypes) {
      const { inputs, R, V } = batch(6, dtype)
      const objective = { ratio, klCoef: 0.1, entropyCoef: 0.01 }
      const expected = policyLossFromLogits(inputs, objective)
      const none = policyLossFromLogits(inputs, { ...objective, out: { gradLogits: null, logp: null } })
      expect(Object.keys(none)).toEqual(['loss', 'entropy', 'stats'])
      for (const name of ['loss', 'entropy', 'stats'] as const) identical(none[name], expected[name])

      const wide = array(new Float32Array(R * V), [R, V])
      policyLossFromLogits(inputs, { ...objective, out: { gradLogits: wide } })
      if (dtype !== 'f32') {
        const rounded = dtype === 'bf16' ? toBf16(wide.data) : toF16(wide.data)
        // Entries of targets are rounded from float64 once, so that rounding float32 again may differ in a tie.
        const wrong = rounded.filter((x, i) => x !== expected.gradLogits.data[i]).length
        expect(wrong).toBeLessThanOrEqual(1)
      } else identical(wide, expected.gradLogits)

      const stride = V + 5
      const spread = inputs.logits.data.slice(0, 0).constructor as new (n: number) => Float32Array
      const apart = { ...inputs.logits, data: new spread(R * stride) } as Logits
      for (let row = 0; row < R; row++)
        apart.data.set(inputs.logits.data.subarray(row * V, (row + 1) * V), row * stride)
      const strided = policyLossFromLogits(
        { ...inputs, logits: apart },
        { ...objective, stride, out: { gradLogits: apart } },
      )
      expect(strided.gradLogits.data).toBe(apart.data)
      for (let row = 0; row < R; row++) {
        const [here, there] = [apart.data, expected.gradLogits.data] as [Float32Array, Float32Array]
        expect(here.slice(row * stride, row * stride + V)).toEqual(there.slice(row * V, (row + 1) * V))
        expect(here.slice(row * stride + V, (row + 1) * stride).every((x) => x === 0)).toBe(true)
      }

      const inPlace = policyLossFromLogits(inputs, { ...objective, out: { gradLogits: inputs.logits } })
      for (const name of names) identical(inPlace[name], expected[name])
    }
  })

  // scratchPeak counts the CPU kernels' memory.
  cpuTest('memory beside the outputs does not grow with the vocabulary, and little with tokens and rows', () => {
    for (const ratio of ratios) {
      const { row } = batch(7).inputs
      const peaks = [67, 6700].map((V) => {
        const { inputs } = batch(7, 'bf16', V)
        native.scratchPeak(true)
        policyLossFromLogits({ ...inputs, row }, { ratio, entropyCoef: 0.01, out: { gradLogits: inputs.logits } })
        return native.scratchPeak(true)
      })
      expect(peaks[1]).toBe(peaks[0])
      const [T, R, S] = [26, 20, 7]
      // Sums of one block of tokens, and an alignment to 64 bytes for each of at most ten arrays.
      expect(peaks[0]).toBeLessThanOrEqual(48 * T + 32 * R + 32 * S + 17 * 8 + 10 * 64)
    }
  })

  // Copies on a device would take 9 GB.
  cpuTest('more than 2^31 elements between two rows', () => {
    const stride = 2 ** 31 + 64
    const logits = array(new Uint16Array(stride + 2), [2, 2], 'bf16') // zeros: pages that nobody touches cost nothing
    const inputs = { logits, token: new Int32Array([1, 1]), sequenceStart: new Int32Array([0, 1, 2]) }
    const advantage = new Float32Array([0, 4])
    const { loss, logp } = policyLossFromLogits({ ...inputs, advantage }, { stride, out: { gradLogits: logits } })
    expect([number(loss), logp.data[1]]).toEqual([-2, Math.fround(-Math.log(2))])
    expect(Array.from(logits.data.subarray(stride))).toEqual(Array.from(toBf16(new Float32Array([1, -1]))))
  })
})
