import { describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { array, cpu, type ImportanceWeightOptions, importanceStats, importanceWeight } from '../lib/index.js'
import { reference } from './references/importance_weight.js'
import { cpuTest } from './support/backend_kind.js'
import { accurate, identical, refuses } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

/** What the equation gives, and each statistic by itself: they are of different sizes. */
function holds(inputs: Parameters<typeof reference>[0], options: ImportanceWeightOptions): void {
  const { weight, mask, stats } = importanceWeight(inputs as Parameters<typeof importanceWeight>[0], options)
  const [exact, plain] = [reference(inputs, options), reference(inputs, options, Math.fround)]
  accurate(weight, exact.weight, plain.weight)
  expect(Array.from(mask.data)).toEqual(exact.mask)
  exact.stats.forEach((x, i) => {
    accurate({ dtype: 'f32', shape: [1], data: Float32Array.of(stats.data[i]!) }, [x], [plain.stats[i]!])
  })
}

const levels = ['token', 'sequence', 'sequence_mean'] as const
const rejections = ['token', 'seq_sum', 'seq_mean', 'seq_max'].flatMap((scope) =>
  (['k1', 'k2', 'k3'] as const).flatMap((kind) => (scope === 'seq_max' && kind === 'k1' ? [] : `${scope}_${kind}`)),
) as NonNullable<ImportanceWeightOptions['reject']>[]

/** Sequences of which some are empty, some long, some fully masked; log-ratios whose sums stay near 0. */
function batch(seed: number, masked: boolean, sequences = 40, longest = 60) {
  const r = random(seed)
  const sequenceStart = r.offsets(sequences, longest)
  const T = sequenceStart[sequences]!
  const rolloutLogp = r.normals(T, 1, -3)
  const oldLogp = rolloutLogp.map((x) => x + 0.2 * r.normal())
  const mask = masked ? r.mask(T) : undefined
  for (const s of masked ? [3, 7] : []) mask!.fill(0, sequenceStart[s], sequenceStart[s + 1])
  mask?.forEach((live, t) => {
    if (!live) [oldLogp[t], rolloutLogp[t]] = [Number.NaN, t % 2 ? Infinity : 1]
  })
  return { oldLogp, rolloutLogp, sequenceStart, mask }
}

describe('importanceWeight', () => {
  const gates = [undefined, ...levels]
  test.each(levels.flatMap((level) => gates.map((gate) => [level, gate] as const)))(
    'level %s, gate %s',
    (level, gate) => {
      for (const outside of ['bound', 'zero', 'none'] as const) {
        for (const normalize of [false, true]) {
          for (const masked of [false, true]) {
            const bounds = { low: 0.8, high: 1.3, ...(gate && { gate, gateLow: 0.7, gateHigh: 1.25 }) }
            holds(batch(5, masked), { level, outside, normalize, ...bounds })
          }
        }
      }
    },
  )
  test.each(rejections)('rejection by %s', (reject) => {
    for (const masked of [false, true]) {
      const given = batch(6, masked)
      for (const bounds of reject.endsWith('k1')
        ? [{ rejectHigh: 1.2 }, { rejectLow: 0.9, rejectHigh: 1.1 }]
        : [{ rejectHigh: 0.02 }]) {
        // biome-ignore format: one line
        holds(given, { reject, ...bounds })
        const { mask } = importanceWeight(given, { reject, ...bounds })
        const live = given.mask?.reduce((sum, x) => sum + x, 0) ?? mask.data.length
        const left = mask.data.reduce((sum, x) => sum + x, 0)
        expect(left).toBeGreaterThan(0)
        expect(left).toBeLessThan(live)
      }
    }
  })
  test('each bound alone, and no bound at all', () => {
    for (const bounds of [{ low: 0.9, high: null }, { low: null, high: 0.9 }, { low: null, high: null }, {}]) {
      holds(batch(8, true), { ...bounds, outside: 'zero' })
      holds(batch(8, true), { gate: 'token', gateLow: bounds.low, gateHigh: bounds.high, level: 'sequence_mean' })
    }
  })
  test('log-ratios beyond 20 count as 20: of a sequence after the sum, of rejection before it', () => {
    const inputs = {
      oldLogp: Float32Array.of(0, 0, 30, -30),
      rolloutLogp: Float32Array.of(-30, 29, 0, 0),
      sequenceStart: Int32Array.of(0, 2, 3, 4),
    }
    const far = { low: null, high: null }
    const [most, least] = [Math.fround(Math.exp(20)), Math.fround(Math.exp(-20))]
    expect(Array.from(importanceWeight(inputs, far).weight.data)).toEqual([most, least, most, least])
    const whole = importanceWeight(inputs, { ...far, level: 'sequence', reject: 'seq_sum_k1', rejectHigh: 2 })
    expect(Array.from(whole.weight.data)).toEqual([Math.fround(Math.E), Math.fround(Math.E), most, least])
    expect(Array.from(whole.mask.data)).toEqual([1, 1, 0, 0])
  })
  test('NaN stays with its token, or its sequence, is neither cut nor rejected, and counts', () => {
    const inputs = {
      oldLogp: Float32Array.of(0, Number.NaN, 0, 1, -Infinity, 0),
      rolloutLogp: Float32Array.of(0, 0, -5, 0, -Infinity, Infinity),
      sequenceStart: Int32Array.of(0, 3, 4, 5, 6),
    }
    const [e, none] = [Math.fround(Math.E), Number.NaN]
    const token = importanceWeight(inputs, { outside: 'zero', high: 3, reject: 'token_k2', rejectHigh: 1 })
    expect(Array.from(token.weight.data)).toEqual([1, none, 0, e, none, Math.fround(Math.exp(-20))])
    expect(Array.from(token.mask.data)).toEqual([1, 1, 0, 1, 1, 0])
    expect(token.stats.data[13]).toBe(3)
    for (const level of ['sequence', 'sequence_mean'] as const) {
      const { weight, mask } = importanceWeight(inputs, { level, reject: 'seq_max_k3', rejectHigh: 0.1 })
      expect(Array.from(weight.data)).toEqual([none, none, none, e, none, Math.fround(Math.exp(-20))])
      expect(Array.from(mask.data)).toEqual([1, 1, 1, 0, 1, 0])
    }
    // A gate that is NaN is not closed.
    const gated = importanceWeight(inputs, { gate: 'sequence', gateLow: 0.5, gateHigh: 2 })
    expect(Array.from(gated.weight.data)).toEqual([1, none, 3, 0, none, 0])
  })
  test('a weight of exactly a bound is inside; of one bound alone nothing else is left', () => {
    const inputs = {
      oldLogp: new Float32Array(2),
      rolloutLogp: new Float32Array(2),
      sequenceStart: Int32Array.of(0, 2),
    }
    for (const outside of ['bound', 'zero'] as const) {
      const { weight, stats } = importanceWeight(inputs, { outside, low: 1, high: 1, gate: 'token', gateLow: 1, gateHigh: 1 }) // biome-ignore format: one line
      expect(Array.from(weight.data)).toEqual([1, 1])
      expect(importanceStats(stats)).toMatchObject({ cutFraction: 0, gatedFraction: 0, effectiveSampleSize: 1 })
    }
  })
  test('weights that are all 0 have no mean to be divided by; equal ones become exactly 1', () => {
    const oldLogp = new Float32Array(9).fill(-0.1)
    const inputs = { oldLogp, rolloutLogp: new Float32Array(9), sequenceStart: Int32Array.of(0, 2, 9) }
    for (const level of levels) {
      const zero = importanceWeight(inputs, { level, normalize: true, outside: 'zero', low: 2 })
      expect(Array.from(zero.weight.data)).toEqual(Array(9).fill(0))
      if (level === 'sequence') continue
      const { weight } = importanceWeight(inputs, { level, normalize: true })
      expect(Array.from(weight.data)).toEqual(Array(9).fill(1))
    }
  })
  test('no tokens, no sequences, and outputs one at a time', () => {
    const empty = { oldLogp: new Float32Array(0), rolloutLogp: new Float32Array(0), sequenceStart: Int32Array.of(0, 0) }
    for (const inputs of [empty, { ...empty, sequenceStart: Int32Array.of(0) }]) {
      const all = { level: 'sequence', gate: 'token', normalize: true, reject: 'seq_max_k2', rejectHigh: 1 } as const
      const { weight, mask, stats } = importanceWeight(inputs, all)
      expect([weight.data.length, mask.data.length]).toEqual([0, 0])
      expect(importanceStats(stats)).toMatchObject({
        tokens: 0,
        ratioMin: Infinity,
        ratioMax: -Infinity,
        weightMean: 0,
      })
    }
    const given = batch(9, true)
    const options = { level: 'sequence_mean', normalize: true, reject: 'token_k3', rejectHigh: 0.02 } as const
    const whole = importanceWeight(given, options)
    const none = { weight: null, mask: null, stats: null }
    for (const name of ['weight', 'mask', 'stats'] as const) {
      const { [name]: _, ...others } = none
      identical(importanceWeight(given, { ...options, out: others })[name], whole[name])
    }
  })
  cpuTest('on every instruction set', () => {
    const before = cpu.instructionSet
    for (const set of instructionSetNames.filter((name) => native.setInstructionSet(name))) {
      cpu.instructionSet = set
      for (const masked of [false, true]) {
        holds(batch(14, masked), { low: 0.8, high: 1.3, gate: 'sequence_mean', gateLow: 0.9, gateHigh: 1.1 })
        holds(batch(14, masked), { level: 'sequence', normalize: true, reject: 'token_k3', rejectHigh: 0.02 })
      }
    }
    cpu.instructionSet = before
  })
  cpuTest('a sequence of several pieces, and the same bits on any number of threads', () => {
    const given = batch(10, true, 3, 400_000)
    for (const options of [
      { normalize: true },
      { level: 'sequence_mean', normalize: true, gate: 'token', gateHigh: 1.4 },
    ] as const) {
      // biome-ignore format: one line
      const all = { ...options, reject: 'seq_mean_k3', rejectHigh: 0.02 } as const
      const first = importanceWeight(given, all)
      accurate(first.weight, reference(given, all).weight, reference(given, all, Math.fround).weight)
      const before = cpu.threads
      for (const threads of [1, 3]) {
        cpu.threads = threads
        const again = importanceWeight(given, all)
        for (const name of ['weight', 'mask', 'stats'] as const) identical(again[name], first[name])
      }
      cpu.threads = before
    }
  })
  test('the float64 exponential of the float32 log-ratio, rounded once', () => {
    const { oldLogp, rolloutLogp, sequenceStart } = batch(11, false)
    const { weight } = importanceWeight({ oldLogp, rolloutLogp, sequenceStart }, { high: null })
    expect(weight.data).toEqual(oldLogp.map((x, t) => Math.exp(Math.fround(x - rolloutLogp[t]!))))
  })
  test('options that do not fit each other', () => {
    const given = batch(12, false)
    const option = { error: RangeError, code: 'ERR_GRPO_OPTION' }
    const refused = (options: ImportanceWeightOptions, argument: string) =>
      refuses(() => importanceWeight(given, options), { ...option, argument })
    refused({ low: 4 }, 'low')
    refused({ low: -1 }, 'low')
    refused({ high: 0 }, 'high')
    refused({ gate: 'token', gateLow: 2, gateHigh: 1 }, 'gateLow')
    refused({ reject: 'token_k1' }, 'rejectHigh')
    refused({ reject: 'token_k1', rejectHigh: 0.5 }, 'rejectHigh')
    refused({ reject: 'token_k1', rejectLow: 3, rejectHigh: 2 }, 'rejectLow')
    refused({ reject: 'seq_max_k2', rejectLow: 1, rejectHigh: 2 }, 'rejectLow')
    // What is not in use is not looked at.
    for (const level of levels) {
      const unused = { low: 4, gateLow: 2, gateHigh: 1, rejectLow: 3, rejectHigh: 2 }
      const plain = importanceWeight(given, { level, outside: 'none' })
      expect(importanceWeight(given, { level, outside: 'none', ...unused })).toEqual(plain)
    }
  })
})

test('a sequence knows nothing of the others, unless weights are normalised', () => {
  const log = fc.double({ min: -3, max: 3, noNaN: true })
  const sequences = fc.array(fc.array(fc.tuple(log, fc.boolean()), { maxLength: 5 }), { minLength: 1, maxLength: 5 })
  const options = { level: 'sequence_mean', gate: 'token', gateHigh: 4, reject: 'seq_mean_k2', rejectHigh: 1 } as const
  const inputsOf = (list: [number, boolean][][]) => ({
    oldLogp: Float32Array.from(list.flat(), ([x]) => x),
    rolloutLogp: new Float32Array(list.flat().length),
    mask: Uint8Array.from(list.flat(), ([, live]) => Number(live)),
    sequenceStart: Int32Array.from([0, ...list.map((_, s) => list.slice(0, s + 1).flat().length)]),
  })
  fc.assert(
    fc.property(sequences, (list) => {
      const together = importanceWeight(inputsOf(list), options)
      const alone = list.map((one) => importanceWeight(inputsOf([one]), options))
      expect(Array.from(together.weight.data)).toEqual(alone.flatMap(({ weight }) => Array.from(weight.data)))
      expect(Array.from(together.mask.data)).toEqual(alone.flatMap(({ mask }) => Array.from(mask.data)))
    }),
  )
})

describe('importanceStats', () => {
  test('of two micro-batches they are those of both together', () => {
    const given = batch(13, true)
    const half = 20
    const middle = given.sequenceStart[half]!
    const part = (from: number, to: number, s: number, e: number) => ({
      oldLogp: given.oldLogp.slice(from, to),
      rolloutLogp: given.rolloutLogp.slice(from, to),
      mask: given.mask!.slice(from, to),
      sequenceStart: given.sequenceStart.slice(s, e + 1).map((x) => x - from),
    })
    const of = (inputs: typeof given) => importanceWeight(inputs, { low: 0.8, high: 1.2 }).stats
    const merged = importanceStats(of(part(0, middle, 0, half) as never), of(part(middle, given.oldLogp.length, half, 40) as never)) // biome-ignore format: one line
    const whole = importanceStats(of(given))
    for (const [name, x] of Object.entries(whole)) expect(merged[name as keyof typeof merged], name).toBeCloseTo(x, 12)
    expect(whole.effectiveSampleSize).toBeLessThan(1)
  })
  test('refuses what is no stats', () => {
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'stats[0]' }
    refuses(() => importanceStats(array(new Float64Array(15))), shape)
    expect(importanceStats()).toMatchObject({ tokens: 0, effectiveSampleSize: 0, ratioMin: Infinity })
  })
})
