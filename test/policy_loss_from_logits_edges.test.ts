// policyLossFromLogits where rows are masked, clipped, shared, not finite, or empty; its bits and accuracy are held in
// policy_loss_from_logits.test.ts.
import { describe, expect, test } from 'vitest'
import { array, lossStats, type PolicyLossFromLogitsInputs, policyLossFromLogits } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { golden, identical, refuses } from './support/compare.js'
import { aggregates, ratios } from './support/policy_cases.js'
import { random } from './support/random.js'

const f32 = (...x: number[]) => Float32Array.from(x)
const i32 = (...x: number[]) => Int32Array.from(x)
const rows = (...list: number[][]) => array(f32(...list.flat()), [list.length, list[0]!.length])

/** One sequence of as many tokens as there are rows. */
const sequence = (logits: ReturnType<typeof rows>, token: number[], change: object = {}) =>
  ({
    logits,
    token: i32(...token),
    sequenceStart: i32(0, token.length),
    advantage: f32(1),
    ...change,
  }) as PolicyLossFromLogitsInputs
const run = (...parameters: Parameters<typeof policyLossFromLogits>) => {
  const { loss, gradLogits, logp, entropy, stats } = policyLossFromLogits(...parameters)
  const list = (x: { data: ArrayLike<number> }) => Array.from(x.data)
  const all = { gradLogits: list(gradLogits), logp: list(logp), entropy: list(entropy) }
  return { loss: list(loss)[0] as number, ...all, stats: lossStats(stats) }
}

describe('rows that get exactly 0', () => {
  const logits = () => rows([1, 2, 3], [3, 1, 0], [0, 5, 1], [2, 2, 0])
  const isZero = (gradLogits: number[]) =>
    [0, 1, 2, 3].map((r) => gradLogits.slice(3 * r, 3 * r + 3).every((g) => Object.is(g, 0)))

  test.each(ratios)('no advantage: %s', (ratio) => {
    const spoilt = rows([1, 2, 3], [3, Number.NaN, 0], [0, 5, 1], [2, 2, 0])
    const inputs = sequence(spoilt, [0, 1, 2, 1], { advantage: f32(0), oldLogp: f32(-1, -1, -1, -1) })
    const { loss, gradLogits } = run(inputs, { ratio })
    expect(loss).toBe(0)
    expect(isZero(gradLogits)).toEqual([true, true, true, true])
  })
  test('clipped tokens, weight 0, masked tokens', () => {
    const { logp } = run(sequence(logits(), [0, 1, 2, 1]))
    // The ratio of the first is e, beyond 1 + clipHigh; the others are 1.
    const oldLogp = Float32Array.from(logp, (x, t) => (t === 0 ? x - 1 : x))
    const change = { oldLogp, weight: f32(1, 0, 1, 1), mask: Uint8Array.of(1, 1, 0, 1) }
    const dirty = { logp: f32(7, 7, 7, 7), entropy: f32(7, 7, 7, 7) }
    const result = run(sequence(logits(), [0, 1, 2, 1], change), { out: dirty })
    expect(isZero(result.gradLogits)).toEqual([true, true, true, false])
    expect([result.logp[2], result.entropy[2]]).toEqual([0, 0])
    expect(result.stats).toMatchObject({ tokens: 3, clipFractionHigh: 1 / 3 })
  })
  test.each(ratios)('rows that no unmasked token names are not read: %s', (ratio) => {
    const nan = [Number.NaN, Number.NaN, Number.NaN]
    const dirty = rows([1, 2, 3], nan, [0, 5, 1], nan)
    const change = { row: i32(0, 2, -5), mask: Uint8Array.of(1, 1, 0), oldLogp: f32(-1, -1, Number.NaN) }
    const inputs = sequence(dirty, [0, 1, 99], change)
    const { loss, gradLogits, stats } = run(inputs, { ratio, entropyCoef: 0.1 })
    expect(Number.isFinite(loss)).toBe(true)
    expect(isZero(gradLogits)).toEqual([false, true, false, true])
    expect(stats.nonFinite).toBe(0)
    const inPlace = run(inputs, { ratio, entropyCoef: 0.1, out: { gradLogits: dirty } })
    expect(inPlace.gradLogits).toEqual(gradLogits)
  })
})

describe('logits that are extreme', () => {
  test('one possible token: logp 0, entropy 0, gradient 0', () => {
    const result = run(sequence(rows([-Infinity, 7, -Infinity], [0, 1e4, 0]), [1, 1]), { entropyCoef: 0.1 })
    expect([result.logp, result.entropy]).toEqual([
      [0, 0],
      [0, 0],
    ])
    expect(result.gradLogits.every((g) => g === 0)).toBe(true)
    expect(run(sequence(array(f32(3), [1, 1]), [0]), { entropyCoef: 0.1 }).gradLogits).toEqual([0])
  })
  test('all equal, near 1e4: the gradient is that of equal logits', () => {
    const { gradLogits, logp } = run(sequence(rows([1e4, 1e4, 1e4, 1e4]), [2]))
    expect(logp).toEqual([Math.fround(-Math.log(4))])
    expect(gradLogits).toEqual([0.25, 0.25, -0.75, 0.25])
  })
  test.each(ratios)('adding a constant to every row changes no bit: %s', (ratio) => {
    const r = random(1)
    const data = r.normals(6 * 50, 3).map((x) => Math.round(x * 256) / 256)
    const token = [0, 7, 7, 49, 20, 3]
    const oldLogp = r.uniforms(6, -6, -2)
    const at = (shift: number) => {
      const logits = array(
        data.map((x) => x + shift),
        [6, 50],
      )
      return policyLossFromLogits(sequence(logits, token, { oldLogp }), { ratio, entropyCoef: 0.1 })
    }
    const [here, there] = [at(0), at(8192)]
    for (const name of ['loss', 'gradLogits', 'logp', 'entropy', 'stats'] as const) identical(there[name], here[name])
  })
  test.each([[[0, Number.NaN, 1]], [[0, Infinity, 1]], [[-Infinity, -Infinity, -Infinity]]])(
    '%j: NaN in its row and in the loss, counted',
    (list) => {
      const logits = rows(list, [1, 2, 3])
      for (const ratio of ['token', 'sequence_token'] as const) {
        const inputs = {
          ...sequence(logits, [0, 1], { oldLogp: f32(-1, -1), advantage: f32(1, 1) }),
          sequenceStart: i32(0, 1, 2),
        }
        const result = run(inputs, { ratio })
        expect(result.loss).toBeNaN()
        expect(result.stats.nonFinite).toBe(1)
        expect(result.gradLogits.map(Number.isNaN)).toEqual([true, true, true, false, false, false])
        expect(result.logp[1]).not.toBeNaN()
      }
    },
  )
  test('a token of probability 0: ratio 0, counted', () => {
    const { loss, logp, gradLogits, stats } = run(sequence(rows([0, -Infinity, 0]), [1], { oldLogp: f32(-1) }))
    expect([loss, logp[0]]).toEqual([0, -Infinity])
    expect(gradLogits).toEqual([0, 0, 0])
    expect(stats).toMatchObject({ ratioMean: 0, nonFinite: 1 })
  })
})

describe('rows and tokens', () => {
  test('a prompt whose last row predicts the first token of every response', () => {
    // Advantages that cancel: each token pulls the row its own way, and what is left are the two entries of the tokens.
    const inputs = {
      ...sequence(rows([1, 2, 3]), [0, 2], { row: i32(0, 0), advantage: f32(1, -1) }),
      sequenceStart: i32(0, 1, 2),
    }
    const { gradLogits } = run(inputs, { aggregate: 'token_sum' })
    expect(gradLogits).toEqual([-1, 0, 1])
  })
  test('each row of the gradient sums to 0', () => {
    const r = random(2)
    const logits = array(r.normals(30 * 200, 3), [30, 200])
    const token = Array.from({ length: 90 }, () => r.integer(200))
    const row = Int32Array.from({ length: 90 }, () => r.integer(30))
    for (const ratio of ratios) {
      const inputs = sequence(logits, token, { row, oldLogp: r.uniforms(90, -9, -5) })
      const { gradLogits } = run(inputs, { ratio, entropyCoef: 0.3, clipLow: null, clipHigh: null })
      for (let i = 0; i < 30; i++) {
        const entries = gradLogits.slice(200 * i, 200 * i + 200)
        const size = entries.reduce((sum, g) => sum + Math.abs(g), 0)
        // Rounding of each entry to float32, and the last digits of its exponential.
        expect(Math.abs(entries.reduce((sum, g) => sum + g, 0))).toBeLessThanOrEqual(2 ** -21 * size)
      }
    }
  })
  test('micro-batches with a normalizer: gradients to the bit', () => {
    const r = random(4)
    const data = r.normals(12 * 40, 2)
    const token = Int32Array.from({ length: 12 }, () => r.integer(40))
    const [oldLogp, advantage] = [r.uniforms(12, -5, -2), r.normals(4)]
    const part = (first: number, end: number) => {
      const logits = array(data.slice(120 * first, 120 * end), [3 * (end - first), 40])
      const sequenceStart = Int32Array.from({ length: end - first + 1 }, (_, s) => 3 * s)
      const tokens = { token: token.slice(3 * first, 3 * end), oldLogp: oldLogp.slice(3 * first, 3 * end) }
      const inputs = { logits, ...tokens, sequenceStart, advantage: advantage.slice(first, end) }
      return policyLossFromLogits(inputs, { aggregate: 'sequence_mean', normalizer: 4 })
    }
    const joined = [part(0, 1), part(1, 4)].flatMap(({ gradLogits }) => Array.from(gradLogits.data))
    expect(joined).toEqual(Array.from(part(0, 4).gradLogits.data))
  })
  test('no tokens, no rows, everything masked', () => {
    for (const ratio of ratios)
      for (const aggregate of aggregates) {
        const options = { ratio, aggregate, maxLength: 3, entropyCoef: 0.1 }
        const none = { ...sequence(rows([1, 2]), [], { row: i32() }), sequenceStart: i32(0, 0) }
        expect(run(none, options)).toMatchObject({ loss: 0, gradLogits: [0, 0], logp: [] })
        const noRows = { ...none, logits: array(new Float32Array(0), [0, 2]), row: undefined }
        expect(run(noRows, options)).toMatchObject({ loss: 0, gradLogits: [] })
        const masked = sequence(rows([1, 2]), [0], { mask: Uint8Array.of(0) })
        expect(run(masked, options)).toMatchObject({ loss: 0, gradLogits: [0, 0], logp: [0], entropy: [0] })
      }
  })
})

test('a step down the gradient lowers the loss', () => {
  const r = random(6)
  const logits = array(r.normals(40 * 30), [40, 30])
  const token = Array.from({ length: 40 }, () => r.integer(30))
  const before = policyLossFromLogits(sequence(logits, token))
  const inputs = sequence(logits, token, { oldLogp: before.logp, advantage: f32(1.5) })
  const { loss, gradLogits } = policyLossFromLogits(inputs)
  golden(loss, [-1.5], 1)
  logits.data.forEach((x, i) => (logits.data[i] = x - 0.5 * (gradLogits.data[i] as number)))
  expect(policyLossFromLogits(inputs).loss.data[0]).toBeLessThan(-1.5)
})

test('promises give the same bits', async () => {
  const inputs = sequence(rows([1, 2, 3], [0, 1, 0]), [0, 1])
  const [a, b] = [policyLossFromLogits(inputs), await promises.policyLossFromLogits(inputs)]
  for (const name of ['loss', 'gradLogits', 'stats'] as const) identical(a[name], b[name])
})

test('T differs from R where row is absent; a temperature of 0', () => {
  const inputs = sequence(rows([1, 2], [3, 4]), [0])
  refuses(() => policyLossFromLogits(inputs), { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'token' })
  const option = { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'temperature' }
  refuses(() => policyLossFromLogits({ ...inputs, row: i32(1) }, { temperature: 0 }), option)
})
