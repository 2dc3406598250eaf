import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { array, cpu, type HostArray, type LinearPolicyLossInputs, linearPolicyLoss, lossStats } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { cpuTest } from './support/backend_kind.js'
import { close, identical, refuses } from './support/compare.js'
import { D, filled, floats, gradientNames, matrix, policyLinearBatch, R } from './support/linear_cases.js'
import { random } from './support/random.js'

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

describe('edges', () => {
  const b = policyLinearBatch({ hidden: 'f32', head: 'f32', headBias: 'f32' })
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
  cpuTest.each(cases)('holds a call to its word: %j', ({ dtype, ratio, chunkRows }) => {
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

  cpuTest('16-bit gradHead of few rows: one chunk, whose logits take less than sums over chunks', () => {
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

  test.each(['token', 'sequence'] as const)('more for more of each size, %s ratios', (ratio) => {
    const sizes = { R: 300, T: 500, S: 20, D: 64, V: 5000, kept: 900 }
    const bytes = (of: object) => linearPolicyLoss.plan({ ...sizes, ...of, dtype: 'bf16' }, { ratio }).peakBytes
    for (const [name, size] of Object.entries(sizes))
      expect(bytes({ [name]: 2 * size }), name).toBeGreaterThan(bytes({}))
    const { S: _, ...others } = sizes // as many sequences as tokens, if nothing is said
    expect(linearPolicyLoss.plan({ ...others, dtype: 'bf16' }, { ratio }).peakBytes).toBe(bytes({ S: sizes.T }))
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

  cpuTest('bad sizes', () => {
    const good = { R: 4, T: 4, D: 2, V: 8, dtype: 'f32' } as const
    const plan =
      (bad: object, options = {}) =>
      () =>
        linearPolicyLoss.plan({ ...good, ...bad }, options)
    const shape = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_SHAPE', argument })
    for (const value of [-1, 0.5, 2 ** 31, Number.NaN, '4', undefined]) refuses(plan({ R: value }), shape('R'))
    for (const axis of ['R', 'T', 'S']) expect(plan({ [axis]: 0 })).not.toThrow()
    for (const value of [Object.create(null), Symbol('four'), 4n, [4]]) refuses(plan({ R: value }), shape('R'))
    for (const value of [-1, 2 ** 31, '4']) refuses(plan({ S: value }), shape('S'))
    refuses(plan({ dtype: Object.create(null) }), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'dtype' })
    refuses(plan({ V: -1 }), shape('V'))
    refuses(plan({ dtype: 'i32' }), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'dtype' })
    refuses(plan({ rows: 4 }), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'rows' })
    refuses(plan({}, { chunk: 4 }), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'chunk' })
    refuses(plan({}, { chunkRows: 0 }), { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'chunkRows' })
    refuses(plan({}, { chunkRows: 0 }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      message: /^linearPolicyLoss\.plan: /,
    })
    refuses(plan({}, { ratio: 'tokens' }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      message: /^linearPolicyLoss\.plan: ratio is "tokens"/,
    })
    refuses(plan({ device: 0 }), { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'device' })
  })

  cpuTest('sizes of which there is no memory: the number that they would take', async () => {
    const most = 2 ** 31 - 1
    const sizes = { R: most, T: most, D: most, V: most, dtype: 'bf16' } as const
    const { peakBytes } = linearPolicyLoss.plan(sizes, { chunkRows: 1 })
    // The sums of gradHead in float32 are nearly all of it.
    expect(peakBytes / (4 * most * most)).toBeGreaterThan(1)
    expect(peakBytes / (4 * most * most)).toBeLessThan(1 + 1e-6)
    expect(await promises.linearPolicyLoss.plan(sizes, { chunkRows: 1 })).toEqual({ peakBytes })
  })
})

describe('bad input', () => {
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
