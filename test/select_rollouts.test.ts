import { afterEach, describe, expect, test } from 'vitest'
import { cpu, groupAdvantage, type SelectRolloutsOptions, selectRollouts } from '../lib/index.js'
import { reference } from './references/select_rollouts.js'
import { cpuTest } from './support/backend_kind.js'
import { identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const batch = (lists: number[][]) => ({
  score: Float32Array.from(lists.flat()),
  groupStart: Int32Array.from([0, ...lists.map((_, g) => lists.slice(0, g + 1).flat().length)]),
})
const run = (lists: number[][], o: SelectRolloutsOptions, mask?: number[]) =>
  Array.from(selectRollouts({ ...batch(lists), mask: mask && Uint8Array.from(mask) }, o).mask.data)

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

describe('golden: D3S', () => {
  const right = (n: number) => Array.from({ length: 8 }, (_, i) => Number(i < n))
  const { rewards, groupStart } = {
    rewards: Float32Array.from([1, 4, 8, 7].flatMap(right)),
    groupStart: [0, 8, 16, 24, 32],
  }
  const start = Int32Array.from(groupStart)
  const { advantage: score } = groupAdvantage({ rewards, groupStart: start }, { eps: 1e-6 })
  const kept = (o: SelectRolloutsOptions) => {
    const { mask } = selectRollouts({ score, groupStart: start }, o)
    const values = Array.from(score.data).filter((_, i) => mask.data[i] === 1)
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    return { mask: mask.data, variance: values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length, values }
  }
  const indices = (mask: Uint8Array) => Array.from(mask.keys()).filter((i) => mask[i] === 1)

  test('4 of the batch', () => {
    const { mask, variance, values } = kept({ count: 4, scope: 'batch' })
    expect(indices(mask)).toEqual([0, 8, 12, 31])
    expect(variance).toBeCloseTo(3.499981038986847, 6)
    expect(values[0]).toBeCloseTo(2.474866734173, 6)
  })
  test('8 of the batch', () => {
    const { mask, variance } = kept({ count: 8, scope: 'batch' })
    expect(indices(mask)).toEqual([0, 8, 9, 10, 12, 13, 14, 31])
    expect(variance).toBeCloseTo(2.1874888825229104, 6)
  })
  test('2 of each group', () => {
    // Of a group without variance the two of lowest index; of equal variance the fewest large ones.
    expect(indices(kept({ count: 2 }).mask)).toEqual([0, 1, 8, 12, 16, 17, 24, 31])
  })
})

describe('against sorting', () => {
  const r = random(4)
  const groups = Array.from({ length: 300 }, () => Array.from({ length: r.integer(20) }, () => r.integer(12) - 5))
  const { score, groupStart } = batch(groups)
  const mask = r.mask(score.length)
  const cases = (['max_variance', 'top', 'top_bottom'] as const).flatMap((rule) =>
    [{ count: 5 }, { count: 0 }, { fraction: 0.3 }, { fraction: 1 }].map((o) => ({ ...o, rule })),
  )
  test.each<SelectRolloutsOptions>(cases)('%j', (o) => {
    for (const m of [undefined, mask]) {
      const expected = groups.flatMap((group, g) => reference(group, m?.subarray(groupStart[g], groupStart[g + 1]), o))
      expect(Array.from(selectRollouts({ score, groupStart, mask: m }, o).mask.data)).toEqual(expected)
      const few = { ...o, ...('count' in o && { count: 40 }), scope: 'batch' as const }
      const short = { score: score.subarray(0, 150), groupStart: new Int32Array([0, 70, 150]) }
      expect(Array.from(selectRollouts({ ...short, mask: m?.subarray(0, 150) }, few).mask.data)).toEqual(
        reference(short.score, m, few),
      )
    }
  })
  test.each(['max_variance', 'top', 'top_bottom'] as const)('%s: sets of any size', (rule) => {
    const list = (n: number) => Array.from({ length: n }, () => r.integer(4000) - 2000)
    for (const lists of [[list(3_000)], [list(20_000)], [list(1_500), ...Array.from({ length: 40 }, () => list(5))]]) {
      const { score, groupStart } = batch(lists)
      const bits = r.mask(score.length)
      const o = { count: 60, rule }
      const expected = lists.flatMap((x, g) => reference(x, bits.subarray(groupStart[g], groupStart[g + 1]), o))
      expect(Array.from(selectRollouts({ score, groupStart, mask: bits }, o).mask.data)).toEqual(expected)
      const all = { ...o, scope: 'batch' as const }
      expect(Array.from(selectRollouts({ score, groupStart, mask: bits }, all).mask.data)).toEqual(
        reference(score, bits, all),
      )
    }
  })
  // Of a GPU a warp has a group of up to 32, and a block a larger one.
  test.each(['max_variance', 'top', 'top_bottom'] as const)('%s: groups of 0, 1, 31, 32, 33 and 1,000', (rule) => {
    const one = () => (r.uniform() < 0.05 ? Number.NaN : r.integer(9) - 4)
    const lists = [0, 1, 31, 32, 33, 0, 1_000, 32, 2].map((n) => Array.from({ length: n }, one))
    const { score, groupStart } = batch(lists)
    const bits = r.mask(score.length)
    for (const m of [undefined, bits])
      for (const o of [{ count: 7 }, { count: 31 }, { fraction: 0.5 }]) {
        const of = (g: number) => m?.subarray(groupStart[g], groupStart[g + 1])
        const expected = lists.flatMap((list, g) => reference(list, of(g), { ...o, rule }))
        expect(Array.from(selectRollouts({ score, groupStart, mask: m }, { ...o, rule }).mask.data)).toEqual(expected)
      }
  })
  cpuTest('the same with any number of threads', () => {
    cpu.threads = 1
    const expected = selectRollouts({ score, groupStart, mask }, { fraction: 0.4 }).mask
    cpu.threads = 3
    identical(selectRollouts({ score, groupStart, mask }, { fraction: 0.4 }).mask, expected)
  })
})

describe('max_variance', () => {
  /** Population variance in float64, two passes. */
  const spread = (x: number[]) => {
    const mean = x.reduce((a, b) => a + b, 0) / x.length
    return x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length
  }
  function* subsets(n: number, k: number, from = 0): Generator<number[]> {
    if (k === 0) {
      yield []
      return
    }
    for (let i = from; i <= n - k; i++) for (const rest of subsets(n, k - 1, i + 1)) yield [i, ...rest]
  }
  test('property: no subset of that size has a larger variance', () => {
    const scores = fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(scores, fc.nat({ max: 8 }), (list, size) => {
        const k = 1 + (size % list.length)
        const kept = run([list], { count: k })
        const chosen = list.filter((_, i) => kept[i] === 1)
        expect(chosen.length).toBe(k)
        const best = Math.max(
          ...Array.from(subsets(list.length, k), (set) => spread(set.map((i) => list[i] as number))),
        )
        // Both variances carry the rounding of float64: k terms of at most 16^2.
        expect(spread(chosen)).toBeGreaterThanOrEqual(best - 4 * k * 2 ** -53 * 256)
      }),
    )
  })
  test('ties by the lowest number of large scores: mirrored scores, whatever their rounding', () => {
    for (const step of [0.1, 1 / 3, 1e-3, 12_345.678]) {
      const list = [-2, -1, 0, 1, 2].map((v) => Math.fround(step) * v)
      expect(run([list], { count: 3 })).toEqual([1, 1, 0, 0, 1])
      expect(run([list], { count: 1 })).toEqual([1, 0, 0, 0, 0])
      expect(run([[...list].reverse()], { count: 3 })).toEqual([1, 0, 0, 1, 1])
    }
  })
  test('a large offset changes nothing', () => {
    const list = [0, 1, 1, 2, 7, 3]
    for (const count of [2, 3, 4]) expect(run([list.map((v) => 1e6 + v)], { count })).toEqual(run([list], { count }))
  })
  test('infinite scores of both signs leave the digits of the others', () => {
    const r = random(8)
    for (let trial = 0; trial < 300; trial++) {
      const one = () => (r.uniform() < 0.2 ? Math.sign(r.uniform() - 0.5) * Infinity : r.integer(6))
      // Of a GPU a warp looks at 32 exchanges at a time: here and there at some more.
      const score = Float32Array.from({ length: 1 + r.integer(trial % 10 === 0 ? 250 : 40) }, one)
      const count = r.integer(score.length + 1)
      const { mask } = selectRollouts({ score, groupStart: Int32Array.of(0, score.length) }, { count })
      expect(Array.from(mask.data), `${score}, ${count}`).toEqual(reference(score, undefined, { count }))
    }
  })
  test('infinite scores are the largest and the smallest', () => {
    const infinity = Number.POSITIVE_INFINITY
    expect(run([[1, infinity, 2, -infinity, 3]], { count: 2 })).toEqual([0, 1, 0, 1, 0])
    expect(run([[1, 5, infinity, 3]], { count: 2 })).toEqual([1, 0, 1, 0])
  })
})

describe('edges', () => {
  const rules = ['max_variance', 'top', 'top_bottom'] as const
  test.each(rules)('%s: no rollouts, empty groups, a group of one, all masked', (rule) => {
    expect(run([], { count: 2, rule })).toEqual([])
    expect(run([[], [], []], { fraction: 1, rule })).toEqual([])
    expect(run([[], [5], []], { fraction: 0, rule })).toEqual([1])
    expect(run([[5, 6]], { count: 2, rule }, [0, 0])).toEqual([0, 0])
    expect(run([[5, 6]], { fraction: 1, rule, scope: 'batch' }, [0, 0])).toEqual([0, 0])
  })
  test.each(rules)('%s: a count above the size keeps all, 0 keeps none', (rule) => {
    expect(run([[3, 1, 2], [4]], { count: 3, rule })).toEqual([1, 1, 1, 1])
    for (const count of [99, 2 ** 31, 2 ** 32 + 1, 2 ** 52])
      for (const scope of ['group', 'batch'] as const)
        expect(run([[3, 1, 2], [4]], { count, rule, scope })).toEqual([1, 1, 1, 1])
    expect(run([[3, 1, 2], [4]], { count: 0, rule })).toEqual([0, 0, 0, 0])
  })
  test.each(rules)('%s: equal scores, the lowest index', (rule) => {
    expect(run([[7, 7, 7, 7, 7]], { count: 3, rule })).toEqual([1, 1, 1, 0, 0])
    expect(run([[0, -0, 0, -0]], { count: 2, rule })).toEqual([1, 1, 0, 0])
  })
  test.each(rules)('%s: NaN is never kept but counts in n, masked rollouts do not', (rule) => {
    const nan = Number.NaN
    expect(run([[nan, 1, nan, 2]], { fraction: 0.5, rule })).toEqual([0, 1, 0, 1])
    expect(run([[nan, 1, nan, 2]], { count: 4, rule })).toEqual([0, 1, 0, 1])
    expect(run([[nan, nan]], { count: 1, rule })).toEqual([0, 0])
    expect(run([[nan, 1, 9, 2, 9]], { fraction: 0.5, rule }, [0, 1, 0, 1, 0]).filter((v) => v === 1).length).toBe(1)
    expect(run([[nan, 1, -9, 9, 2]], { count: 2, rule }, [0, 1, 0, 0, 255])).toEqual([0, 1, 0, 0, 1])
  })
  test('top and top_bottom', () => {
    expect(run([[1, 5, 3, 4, 2]], { count: 3, rule: 'top' })).toEqual([0, 1, 1, 1, 0])
    expect(run([[1, 5, 3, 4, 2]], { count: 3, rule: 'top_bottom' })).toEqual([1, 1, 0, 1, 0])
    expect(run([[1, 2, 2, 2, 3]], { count: 4, rule: 'top_bottom' })).toEqual([1, 1, 1, 0, 1])
    const infinity = Number.POSITIVE_INFINITY
    expect(run([[1, infinity, 2, -infinity]], { count: 2, rule: 'top_bottom' })).toEqual([0, 1, 0, 1])
  })
  test('a fraction that float64 rounds up: 0.07 of 100 keeps 7', () => {
    const list = Array.from({ length: 100 }, (_, i) => i % 13)
    expect(run([list], { fraction: 0.07, rule: 'top' }).reduce((a, b) => a + b, 0)).toBe(7)
    expect(run([list], { fraction: 0.07 + 1e-10, rule: 'top' }).reduce((a, b) => a + b, 0)).toBe(8)
  })
  test('the batch knows no groups', () => {
    expect(
      run(
        [
          [1, 2],
          [9, 8],
        ],
        { count: 2, rule: 'top', scope: 'batch' },
      ),
    ).toEqual([0, 0, 1, 1])
    expect(
      run(
        [
          [1, 2],
          [9, 8],
        ],
        { count: 1, rule: 'top' },
      ),
    ).toEqual([0, 1, 1, 0])
  })
})

describe('properties', () => {
  const number = fc.oneof(fc.integer({ min: -5, max: 5 }), fc.constant(Number.NaN))
  const groups = fc.array(fc.array(number, { maxLength: 8 }), { maxLength: 6 })
  const option = fc.oneof(
    fc.record({ count: fc.nat({ max: 9 }) }),
    fc.record({ fraction: fc.double({ min: 0, max: 1, noNaN: true }) }),
  )
  const rule = fc.constantFrom('max_variance', 'top', 'top_bottom')
  test('equal to sorting', () => {
    fc.assert(
      fc.property(
        groups,
        option,
        rule,
        fc.infiniteStream(fc.integer({ min: 0, max: 1 })),
        (lists, amount, rule, bits) => {
          const o = { ...amount, rule }
          const masks = lists.map((list) => list.map(() => bits.next().value as number))
          expect(run(lists, o, masks.flat())).toEqual(lists.flatMap((list, g) => reference(list, masks[g], o)))
          const all = { ...o, scope: 'batch' as const }
          expect(run(lists, all, masks.flat())).toEqual(reference(lists.flat(), masks.flat(), all))
        },
      ),
      { numRuns: 500 },
    )
  })
  test('permuting groups permutes the selection', () => {
    fc.assert(
      fc.property(groups, option, rule, (lists, amount, rule) => {
        const o = { ...amount, rule }
        const [forward, backward] = [run(lists, o), run([...lists].reverse(), o)]
        let first = 0
        for (const list of lists) {
          const there = backward.length - first - list.length
          expect(forward.slice(first, first + list.length)).toEqual(backward.slice(there, there + list.length))
          first += list.length
        }
      }),
    )
  })
})

describe('bad input', () => {
  const good = batch([[1, 2], [3]])
  const option = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_OPTION', argument })
  test('exactly one of count and fraction', () => {
    refuses(() => selectRollouts(good, {}), { ...option('count'), message: /count is missing, and so is fraction/ })
    refuses(() => selectRollouts(good, undefined as never), option('count'))
    refuses(() => selectRollouts(good, { count: 1, fraction: 0.5 }), option('fraction'))
  })
  test('options and offsets', () => {
    refuses(() => selectRollouts(good, { fraction: 1.01 }), option('fraction'))
    refuses(() => selectRollouts(good, { fraction: Number.NaN }), option('fraction'))
    refuses(() => selectRollouts(good, { count: -1 }), option('count'))
    refuses(() => selectRollouts(good, { count: 1, rule: 'entropy' as 'top' }), option('rule'))
    refuses(() => selectRollouts(good, { count: 1, scope: 'sequence' as 'group' }), option('scope'))
    const groupStart = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'groupStart' }
    refuses(() => selectRollouts({ ...good, groupStart: new Int32Array([0, 2]) }, { count: 1 }), groupStart)
  })
})
