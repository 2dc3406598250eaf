import { afterEach, describe, expect, test } from 'vitest'
import {
  array,
  cpu,
  type HostArray,
  type LinearPolicyLossInputs,
  linearPolicyLoss,
  lossStats,
  type Objective,
  policyLoss,
  policyLossFromLogits,
  toBf16,
  toF16,
} from '../lib/index.js'
import { native } from '../lib/native.js'
import * as promises from '../lib/promises.js'
import { accurate, close, identical, refuses, ulp, values } from './compare.js'
import { policyBatch } from './policy_cases.js'
import { random } from './random.js'
import { type LinearInputs, linearGradients, linearLogits } from './references/linear.js'
import { policyObjective } from './references/policy_objective.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'

type FloatType = 'f32' | 'bf16' | 'f16'
interface Types {
  hidden: FloatType
  head: FloatType
  headBias?: FloatType
}

const floats = (dtype: FloatType, data: Float32Array, shape: number[]): HostArray<FloatType> => {
  if (dtype === 'f32') return array(data, shape)
  return dtype === 'bf16' ? array(toBf16(data), shape, 'bf16') : array(toF16(data), shape, 'f16')
}
const filled = (n: number, value: number) => new Float32Array(n).fill(value)
const gradientNames = ['gradHidden', 'gradHead', 'gradHeadBias'] as const
const [R, D, V] = [19, 23, 700]

/** The 26 tokens of policyBatch on 19 rows, of which row 0 is shared and the last named by nobody. */
function batch({ hidden, head, headBias }: Types, seed = 3) {
  const r = random(seed)
  const { tokenAdvantage, ratioLow, ratioHigh, entropy, ...policy } = policyBatch(seed)
  const T = policy.logp.length
  const inputs = {
    hidden: floats(hidden, r.normals(R * D), [R, D]),
    head: floats(head, r.normals(V * D, 0.4), [V, D]),
    ...(headBias && { headBias: floats(headBias, r.normals(V), [V]) }),
    token: Int32Array.from({ length: T }, () => r.integer(V)),
    row: Int32Array.from({ length: T }, (_, t) => (t % 6 === 0 ? 0 : r.integer(R - 1))),
  }
  const matrices: LinearInputs = {
    hidden: values(inputs.hidden),
    head: values(inputs.head),
    D,
    headBias: inputs.headBias && values(inputs.headBias),
  }
  const { logp, oldLogp, refLogp, ...rest } = policy
  // Ratios from 0.3 to 3, as policyBatch has them.
  const own = tokenLogprobReference({ logits: linearLogits(matrices), V, token: inputs.token, row: inputs.row }).logp
  const near = (x: Float32Array) => Float32Array.from(x, (y, t) => (own[t] as number) + y - (logp[t] as number))
  return { inputs, matrices, policy: { ...rest, oldLogp: near(oldLogp), refLogp: near(refLogp) }, T }
}
type Batch = ReturnType<typeof batch>

/** Everything in float64, or the products and the softmax in plain float32. */
function reference(
  { inputs, matrices, policy }: Batch,
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
function agrees(b: Batch, options: Objective & { temperature?: number; chunkRows?: number | null }) {
  const { chunkRows, temperature, ...objective } = options
  const result = linearPolicyLoss({ ...b.inputs, ...b.policy }, options)
  const [exact, plain] = [reference(b, options), reference(b, options, Math.fround)]
  for (const name of ['logp', 'entropy', ...gradientNames] as const) {
    if (result[name]) accurate(result[name], exact[name], plain[name])
  }
  // One number's error may vanish by luck: what those of the log-probabilities and entropies can add up to.
  const worst = (x: number[], y: number[]) => Math.max(...x.map((v, i) => Math.abs(v - (y[i] as number))))
  const size = (x: number[]) => x.reduce((sum, v) => sum + Math.abs(v), 0)
  const error =
    size(exact.gradLogp) * worst(exact.logp, plain.logp) + size(exact.gradEntropy) * worst(exact.entropy, plain.entropy)
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
  test.each(types.flatMap((dtypes) => objectives.map((objective) => [dtypes, objective] as const)))(
    '%j, %j',
    (dtypes, objective) => {
      const b = batch(dtypes)
      for (const chunkRows of [null, 4]) agrees(b, { ...objective, chunkRows })
    },
  )

  test.each<Objective>([
    { surrogate: 'cispo', aggregate: 'constant', maxLength: 9 },
    { surrogate: 'sapo', aggregate: 'token_sum', countEmpty: true },
    { surrogate: 'reinforce', aggregate: 'sequence_sum' },
    { ratio: 'sequence_token', normalizer: 11 },
    { ratio: 'sequence_product', aggregate: 'sequence_mean' },
    { ratio: 'geometric', entropyCoef: 0.1, entropyAggregate: 'sequence_mean' },
    { dualClip: 1.5, logRatioClamp: 0.9 },
  ])('%j', (objective) => agrees(batch({ hidden: 'f32', head: 'f32' }, 5), objective))

  test('every instruction set', () => {
    const b = batch({ hidden: 'f32', head: 'bf16', headBias: 'f32' })
    const available = ['baseline', 'avx2', 'avx512', 'neon'].filter((name) => native.setInstructionSet(name))
    expect(available.length).toBeGreaterThan(0)
    for (const name of available) {
      cpu.instructionSet = name
      agrees(b, { klCoef: 0.1, entropyCoef: 0.05, chunkRows: 7 })
    }
  })

  test.each(['token', 'sequence'] as const)('central differences, %s ratios', (ratio) => {
    const b = batch({ hidden: 'f32', head: 'f32', headBias: 'f32' }, 8)
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
      for (const name of ['loss', 'logp', 'entropy', 'stats'] as const) identical(own[name], explicit[name])
      const { temperature, ...others } = objective
      const parts = policyLoss({ logp: own.logp, entropy: own.entropy, ...policy }, others)
      identical(own.loss, parts.loss)
      identical(own.stats, parts.stats)
      // The two products of gradLogits, in float64 of its float32 bits.
      const matrices = { hidden: hidden.data, head: head.data, D: size }
      const expected = linearGradients(matrices, explicit.gradLogits.data)
      const plain = linearGradients(matrices, explicit.gradLogits.data, Math.fround)
      for (const name of gradientNames) accurate(own[name] as HostArray, expected[name], plain[name])
    },
  )
})

describe('the same bits', () => {
  const b = batch({ hidden: 'bf16', head: 'f32', headBias: 'f32' })
  const inputs = { ...b.inputs, ...b.policy }
  test.each((['token', 'sequence'] as const).flatMap((ratio) => [1, 3, 64].map((chunkRows) => ({ ratio, chunkRows }))))(
    '%j: loss, logp, entropy, gradHidden and statistics',
    ({ ratio, chunkRows }) => {
      const objective = { ratio, klCoef: 0.1, entropyCoef: 0.05 }
      const expected = linearPolicyLoss(inputs, objective)
      const actual = linearPolicyLoss(inputs, { ...objective, chunkRows })
      for (const name of ['loss', 'logp', 'entropy', 'gradHidden', 'stats'] as const)
        identical(actual[name], expected[name])
    },
  )
  test.each([1, 2, 3, 8])('%d threads: everything', (count) => {
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
  test('a call that is aborted rejects', async () => {
    const big = { hidden: array(filled(512 * 256, 1), [512, 256]), head: array(filled(20_000 * 256, 1), [20_000, 256]) }
    const tokens = { token: new Int32Array(512), advantage: filled(1, 1), sequenceStart: Int32Array.of(0, 512) }
    const abort = new AbortController()
    setTimeout(() => abort.abort(), 5)
    const call = promises.linearPolicyLoss({ ...big, ...tokens }, { signal: abort.signal, chunkRows: 8 })
    await expect(call).rejects.toThrow(/abort/)
  })
})

describe('edges', () => {
  const b = batch({ hidden: 'f32', head: 'f32', headBias: 'f32' })
  const inputs = { ...b.inputs, ...b.policy }
  const withRow = (r: number, value: number) => {
    const data = (b.inputs.hidden.data as Float32Array).slice()
    data.fill(value, r * D, (r + 1) * D)
    return { ...inputs, hidden: array(data, [R, D]) }
  }
  const own = { row: Int32Array.from({ length: b.T }, (_, t) => t % R), mask: filledBytes(b.T, 1) }
  function filledBytes(n: number, value: number) {
    return new Uint8Array(n).fill(value)
  }

  test.each(['token', 'sequence'] as const)('NaN in a row that no unmasked token names: %s ratios', (ratio) => {
    const row = own.row.slice()
    const mask = own.mask.slice()
    row.forEach((r, t) => {
      if (r === 4) [mask[t], row[t]] = [0, 99]
    })
    const token = inputs.token.map((id, t) => (mask[t] ? id : -1))
    const [good, bad] = [inputs, withRow(4, Number.NaN)].map((x) =>
      linearPolicyLoss({ ...x, row, mask, token }, { ratio, entropyCoef: 0.1 }),
    ) as [ReturnType<typeof linearPolicyLoss>, ReturnType<typeof linearPolicyLoss>]
    for (const name of ['loss', 'logp', 'entropy', 'stats', ...gradientNames] as const) {
      identical(bad[name] as HostArray, good[name] as HostArray)
    }
    expect(Array.from(bad.gradHidden.data.subarray(4 * D, 5 * D))).toEqual(Array(D).fill(0))
    expect(lossStats(bad.stats).nonFinite).toBe(0)
  })

  // Without advantage a token has no coefficient, but its log-probability is an output: NaN there and nowhere else.
  test.each(['token', 'sequence'] as const)('NaN in a row whose tokens have coefficient 0: %s ratios', (ratio) => {
    const sequenceStart = Int32Array.from([0, 13, 26])
    const advantage = new Float32Array([1.5, 0])
    const row = Int32Array.from({ length: 26 }, (_, t) => (t < 13 ? t % 5 : 5 + (t % 5)))
    const policy = { weight: undefined, refLogp: undefined, mask: undefined, advantage, sequenceStart, row }
    for (const chunkRows of [1, 4, 64]) {
      const good = linearPolicyLoss({ ...inputs, ...policy }, { ratio, chunkRows, clipHigh: null })
      const bad = linearPolicyLoss({ ...withRow(7, Number.NaN), ...policy }, { ratio, chunkRows, clipHigh: null })
      for (const name of gradientNames) identical(bad[name] as HostArray, good[name] as HostArray)
      expect(bad.gradHead.data.every(Number.isFinite)).toBe(true)
      expect(bad.gradHead.data.some((g) => g !== 0)).toBe(true)
      expect(Array.from(bad.gradHidden.data.subarray(7 * D, 8 * D))).toEqual(Array(D).fill(0))
      expect(Array.from(bad.logp.data, Number.isNaN)).toEqual(Array.from(row, (r) => r === 7))
    }
  })

  test('NaN in a row that counts reaches the loss and is counted', () => {
    const { loss, stats, gradHidden } = linearPolicyLoss({ ...withRow(3, Number.NaN), ...own, weight: undefined }, {})
    expect(loss.data[0]).toBeNaN()
    expect(lossStats(stats).nonFinite).toBe(own.row.filter((r) => r === 3).length)
    expect(Array.from(gradHidden.data.subarray(3 * D, 4 * D)).every(Number.isNaN)).toBe(true)
    expect(Array.from(gradHidden.data.subarray(4 * D, 5 * D)).some(Number.isNaN)).toBe(false)
  })

  test('all masked: loss 0, gradients 0', () => {
    const none = { ...inputs, mask: filledBytes(b.T, 0) }
    for (const ratio of ['token', 'sequence'] as const) {
      const result = linearPolicyLoss(none, { ratio, entropyCoef: 1 })
      for (const name of ['loss', 'logp', 'entropy', ...gradientNames] as const) {
        expect((result[name] as HostArray).data.every((x) => x === 0)).toBe(true)
      }
    }
  })

  test('no tokens, no rows', () => {
    const none = {
      head: array(filled(6, 1), [3, 2]),
      token: new Int32Array(0),
      advantage: new Float32Array(0),
      sequenceStart: new Int32Array(1),
    }
    const hidden = array(new Float32Array(0), [0, 2])
    const out = { gradHead: array(filled(6, 7), [3, 2]) }
    for (const ratio of ['token', 'sequence'] as const) {
      const result = linearPolicyLoss({ ...none, hidden }, { ratio, out })
      expect([result.loss.data[0], ...result.gradHead.data]).toEqual([0, 0, 0, 0, 0, 0, 0])
      const rows = { hidden: array(filled(2, 1), [1, 2]), row: new Int32Array(0) }
      expect(Array.from(linearPolicyLoss({ ...none, ...rows }, { ratio }).gradHidden.data)).toEqual([0, 0])
    }
  })

  test('outputs that are not wanted', () => {
    for (const ratio of ['token', 'sequence'] as const) {
      const all = linearPolicyLoss(inputs, { ratio })
      const without = (...names: (keyof typeof all)[]) =>
        linearPolicyLoss(inputs, { ratio, out: Object.fromEntries(names.map((name) => [name, null])) })
      identical(without('gradHidden', 'gradHead', 'gradHeadBias').loss, all.loss)
      identical(without('logp', 'entropy', 'loss', 'stats').gradHead, all.gradHead)
      identical(without('gradHead', 'gradHeadBias').gradHidden, all.gradHidden)
    }
  })
})

describe('plan', () => {
  const measure = (inputs: LinearPolicyLossInputs, options: Parameters<typeof linearPolicyLoss>[1]) => {
    native.scratchPeak(true)
    linearPolicyLoss(inputs, options)
    return native.scratchPeak(true)
  }
  const cases = (['f32', 'bf16', 'f16'] as const).flatMap((dtype) =>
    (['token', 'sequence'] as const).flatMap((ratio) =>
      [null, 1, 7, 40].map((chunkRows) => ({ dtype, ratio, chunkRows })),
    ),
  )
  test.each(cases)('holds a call to its word: %j', ({ dtype, ratio, chunkRows }) => {
    const [rows, size, vocabulary, T, S] = [90, 32, 1500, 120, 9]
    const r = random(1)
    const inputs = {
      hidden: floats(dtype, r.normals(rows * size), [rows, size]),
      head: floats(dtype, r.normals(vocabulary * size), [vocabulary, size]),
      headBias: floats(dtype, r.normals(vocabulary), [vocabulary]),
      token: Int32Array.from({ length: T }, () => r.integer(vocabulary)),
      row: Int32Array.from({ length: T }, (_, t) => t % rows),
      oldLogp: r.normals(T),
      advantage: r.normals(S),
      sequenceStart: Int32Array.from({ length: S + 1 }, (_, s) => Math.floor((T * s) / S)),
    }
    const sizes = { R: rows, T, S, D: size, V: vocabulary, dtype }
    for (const count of [1, 3]) {
      cpu.threads = count
      const { headBias, ...bare } = inputs
      for (const own of [inputs, bare]) {
        // Without bounds every row has a gradient.
        const peak = measure(own, { ratio, chunkRows, clipLow: null, clipHigh: null })
        const { peakBytes } = linearPolicyLoss.plan(sizes, { ratio, chunkRows })
        expect(peak).toBeLessThanOrEqual(peakBytes)
        expect(peak).toBeGreaterThanOrEqual(0.9 * peakBytes)
        const masked = { ...own, mask: r.mask(T, 0.3) }
        expect(measure(masked, { ratio, chunkRows })).toBeLessThanOrEqual(peakBytes)
      }
    }
  })

  test('16-bit gradHead of few rows: one chunk, whose logits take less than sums over chunks', () => {
    const [rows, size, vocabulary] = [300, 640, 600]
    const r = random(6)
    const inputs = {
      hidden: floats('bf16', r.normals(rows * size, 0.1), [rows, size]),
      head: floats('bf16', r.normals(vocabulary * size, 0.5), [vocabulary, size]),
      token: Int32Array.from({ length: rows }, () => r.integer(vocabulary)),
      advantage: filled(1, 1),
      sequenceStart: Int32Array.of(0, rows),
    }
    const sizes = { R: rows, T: rows, S: 1, D: size, V: vocabulary, dtype: 'bf16' } as const
    cpu.threads = 2
    const peak = measure(inputs, {})
    expect(peak).toBeLessThanOrEqual(linearPolicyLoss.plan(sizes).peakBytes)
    expect(peak).toBeLessThan(measure(inputs, { chunkRows: 256 }))
    const whole = linearPolicyLoss(inputs, { chunkRows: rows })
    identical(linearPolicyLoss(inputs).gradHead, whole.gradHead)
  })

  test('never the whole logits, and no more for more rows', async () => {
    const sizes = { R: 16_384, T: 16_384, D: 4096, V: 151_936, dtype: 'bf16' } as const
    const { peakBytes } = linearPolicyLoss.plan(sizes, { out: { gradHead: null } } as object)
    const logits = 4 * sizes.R * sizes.V
    const sums = 4 * sizes.V * sizes.D
    expect(peakBytes).toBeLessThan(sums + logits / 50)
    expect(linearPolicyLoss.plan({ ...sizes, dtype: 'f32' }).peakBytes).toBeLessThan(logits / 50)
    const more = linearPolicyLoss.plan({ ...sizes, R: 4 * sizes.R, T: 4 * sizes.R }).peakBytes
    expect(more - peakBytes).toBeLessThan(64 * 3 * sizes.R)
    expect(await promises.linearPolicyLoss.plan(sizes)).toEqual({ peakBytes })
  })

  test('bad sizes', () => {
    const good = { R: 4, T: 4, D: 2, V: 8, dtype: 'f32' } as const
    const plan =
      (bad: object, options = {}) =>
      () =>
        linearPolicyLoss.plan({ ...good, ...bad }, options)
    const shape = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_SHAPE', argument })
    for (const value of [-1, 0.5, 2 ** 31, Number.NaN, '4', undefined]) refuses(plan({ R: value }), shape('R'))
    refuses(plan({ V: -1 }), shape('V'))
    refuses(plan({ dtype: 'i32' }), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'dtype' })
    refuses(plan({ rows: 4 }), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'rows' })
    refuses(plan({}, { chunk: 4 }), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'chunk' })
    refuses(plan({}, { chunkRows: 0 }), { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'chunkRows' })
    refuses(plan({ device: 0 }), { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'device' })
  })
})

describe('bad input', () => {
  const matrix = (rows: number[][]) => array(Float32Array.from(rows.flat()), [rows.length, rows[0]?.length ?? 0])
  const good = {
    hidden: matrix([
      [1, 2],
      [3, 4],
    ]),
    head: matrix([
      [1, 2],
      [3, 4],
      [5, 6],
    ]),
    token: new Int32Array([0, 2]),
    advantage: filled(1, 1),
    sequenceStart: Int32Array.of(0, 2),
  }
  const refusesInput = (bad: object, error: typeof TypeError | typeof RangeError, code: string, argument: string) =>
    refuses(() => linearPolicyLoss({ ...good, ...bad }), { error, code: `ERR_GRPO_${code}`, argument })
  const refusesOption = (options: object, argument: string, inputs = {}) =>
    refuses(() => linearPolicyLoss({ ...good, ...inputs }, options), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument,
    })

  test('ids, offsets and shapes', () => {
    refusesInput({ token: new Int32Array([0, 3]) }, RangeError, 'VALUE', 'token')
    refusesInput({ row: new Int32Array([0, 2]) }, RangeError, 'VALUE', 'row')
    refusesInput({ sequenceStart: Int32Array.of(0, 1) }, RangeError, 'VALUE', 'sequenceStart')
    refusesInput({ sequenceStart: Int32Array.of(1, 2) }, RangeError, 'VALUE', 'sequenceStart')
    refusesInput({ head: matrix([[1, 2, 3]]) }, RangeError, 'SHAPE', 'head')
    refusesInput({ headBias: filled(2, 0) }, RangeError, 'SHAPE', 'headBias')
    refusesInput({ oldLogp: filled(3, 0) }, RangeError, 'SHAPE', 'oldLogp')
    const three = { token: new Int32Array(3), sequenceStart: Int32Array.of(0, 3) }
    refusesInput(three, RangeError, 'SHAPE', 'token')
    refuses(() => linearPolicyLoss({ ...good, ...three }), {
      error: RangeError,
      code: 'ERR_GRPO_SHAPE',
      message: /linearPolicyLoss: token has length 3, expected 2 \(R = 2 from hidden\).* row /,
    })
  })
  test('what an objective needs', () => {
    refusesInput({ advantage: undefined }, TypeError, 'MISSING', 'advantage')
    refusesInput({ tokenAdvantage: filled(2, 1) }, RangeError, 'VALUE', 'tokenAdvantage')
    refusesOption({ klCoef: 0.1 }, 'klCoef')
    refusesOption({ aggregate: 'constant' }, 'maxLength')
    refusesOption({ ratio: 'geometric', surrogate: 'sapo' }, 'surrogate')
    const byToken = { advantage: undefined, tokenAdvantage: filled(2, 1) }
    refuses(() => linearPolicyLoss({ ...good, ...byToken }, { ratio: 'geometric' }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'tokenAdvantage',
    })
  })
  test('options', () => {
    for (const temperature of [0, -1, Number.NaN]) refusesOption({ temperature }, 'temperature')
    refusesOption({ chunkRows: 0 }, 'chunkRows')
    refusesOption({ chunkRows: 1.5 }, 'chunkRows')
  })
  test('nothing is written when a call is refused', () => {
    const out = { gradHead: array(filled(6, 7), [3, 2]), loss: array(filled(1, 7)) }
    expect(() => linearPolicyLoss(good, { klCoef: 1, out })).toThrow(RangeError)
    close([...out.gradHead.data, ...out.loss.data], Array(7).fill(7), 0)
  })
})
