import { describe, expect, test } from 'vitest'
import { type GroupAdvantageOptions, groupAdvantage } from '../lib/index.js'
import { groupReference, reference } from './references/group_advantage.js'
import { accurate, golden, identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const groups = (...list: number[][]) => ({
  rewards: Float32Array.from(list.flat()),
  groupStart: Int32Array.from([0, ...list.map((_, g) => list.slice(0, g + 1).flat().length)]),
})

const options: GroupAdvantageOptions[] = []
for (const center of ['mean', 'leave_one_out', 'none'] as const)
  for (const scale of ['group_std', 'batch_std', 'leave_one_out_std', 'mean', 'none'] as const)
    for (const ddof of [0, 1])
      for (const extra of [
        {},
        { eps: 1e-6, epsUnderRoot: true },
        { virtualCount: 2, virtualReward: 1.5, singleton: 'raw' as const },
      ])
        options.push({ center, scale, ddof, ...extra })

describe('golden numbers', () => {
  const g = groups([1, 0, 0.5, 0], [1, 1, 1, 1])
  test.each<[string, GroupAdvantageOptions, number[]]>([
    ['TRL group', {}, [1.3053097494, -0.7831858496, 0.2610619499, -0.7831858496]],
    ['TRL batch', { scale: 'batch_std' }, [1.3641442499, -0.81848655, 0.27282885, -0.81848655]],
    ['verl grpo', { eps: 1e-6, singleton: 'raw' }, [1.3055796924, -0.7833478154, 0.2611159385, -0.7833478154]],
    ['OpenRLHF group_norm', { eps: 1e-9 }, [1.3055824169, -0.7833494502, 0.2611164834, -0.7833494502]],
    ['population std', { ddof: 0, eps: 1e-6 }, [1.5075530865, -0.9045318519, 0.3015106173, -0.9045318519]],
    ['Dr. GRPO', { scale: 'none' }, [0.625, -0.375, 0.125, -0.375]],
    ['RLOO', { center: 'leave_one_out', scale: 'none' }, [0.8333333333, -0.5, 0.1666666667, -0.5]],
    [
      'NeMo-RL',
      { center: 'leave_one_out', scale: 'leave_one_out_std', eps: 1e-6 },
      [2.886741346, -0.999998, 0.2886746346, -0.999998],
    ],
    ['MaxRL', { scale: 'mean', eps: 1e-6 }, [1.6666622222, -0.9999973333, 0.3333324444, -0.9999973333]],
  ])('%s', (_, o, expected) => {
    golden(groupAdvantage(g, o).advantage, [...expected, 0, 0, 0, 0], 1)
  })

  const ngrpo = { eps: 1e-6, virtualCount: 1, virtualReward: 1, singleton: 'raw' } as const
  test.each([
    [[0, 0, 0, 0], Array(4).fill(-0.447212595502)],
    [
      [1, 0, 0, 0],
      [1.095443115014, ...Array(3).fill(-0.730295410009)],
    ],
    [
      [1, 1, 1, 0],
      [...Array(3).fill(0.447212595502), -1.788850382009],
    ],
    [[1, 1, 1, 1], Array(4).fill(0)],
    [Array(8).fill(0), Array(8).fill(-0.333332333336)],
  ])('NGRPO %j', (rewards, expected) => {
    golden(groupAdvantage(groups(rewards), ngrpo).advantage, expected, 1)
  })

  test('Train Long: population variance, eps under the root', () => {
    const { advantage } = groupAdvantage(groups([1, 0, 0, 1]), { ddof: 0, eps: 0.01, epsUnderRoot: true })
    golden(
      advantage,
      [1, -1, -1, 1].map((sign) => (sign * 0.5) / Math.sqrt(0.26)),
      1,
    )
  })
})

describe('against float64', () => {
  test.each(options)('%j', (o) => {
    const r = random(7)
    const groupStart = r.offsets(40, 9)
    const n = groupStart[40] as number
    const rewards = r.normals(n, 2, 3)
    const mask = r.mask(n)
    for (const m of [undefined, mask]) {
      const actual = groupAdvantage({ rewards, groupStart, mask: m }, o)
      const exact = groupReference(rewards, groupStart, m, o)
      const plain = groupReference(rewards, groupStart, m, o, Math.fround)
      for (const name of ['advantage', 'mean', 'std'] as const) accurate(actual[name], exact[name], plain[name])
    }
  })

  // Of a GPU 8, 16 or 32 lanes have a group, which is as many as the largest of four neighbours needs.
  test.each(options.filter((o) => o.ddof === 1))('groups of 0 to 1,000 beside each other: %j', (o) => {
    const r = random(8)
    const sizes = [8, 0, 7, 1, 9, 2, 3, 0, 16, 9, 1, 2, 17, 2, 5, 0, 31, 5, 32, 33, 8, 8, 8, 8, 16, 16, 16, 16]
    for (const list of [sizes, [...sizes, 1_000, 4]]) {
      const groupStart = Int32Array.from([0, ...list.map((_, g) => list.slice(0, g + 1).reduce((a, b) => a + b, 0))])
      const n = groupStart[list.length] as number
      const [rewards, mask] = [r.normals(n, 2, 3), r.mask(n)]
      for (const m of [undefined, mask]) {
        const { advantage } = groupAdvantage({ rewards, groupStart, mask: m }, o)
        accurate(advantage, reference(rewards, groupStart, m, o), reference(rewards, groupStart, m, o, Math.fround))
      }
    }
  })

  // A thread of the CPU takes 1,024 groups at a time.
  test.each([false, true])('the spread of a batch of 2,600 groups, mask %j', (masked) => {
    const r = random(10)
    const groupStart = r.offsets(2_600, 5)
    const n = groupStart[2_600] as number
    // The later groups spread wider: what one piece of work says of its groups is wrong of the others.
    const rewards = r.normals(n).map((x, i) => (x * (1 + 9 * i)) / n)
    const mask = masked ? r.mask(n) : undefined
    const o = { scale: 'batch_std' } as const
    const { advantage } = groupAdvantage({ rewards, groupStart, mask }, o)
    accurate(advantage, reference(rewards, groupStart, mask, o), reference(rewards, groupStart, mask, o, Math.fround))
  })

  test('offset 1e6: two passes keep the digits', () => {
    const g = groups([1e6, 1e6 + 1, 1e6 + 3, 1e6 + 0.5])
    golden(groupAdvantage(g).advantage, reference(g.rewards, g.groupStart, undefined), 1)
  })

  test('an outlier does not spoil the leave-one-out statistics of its own group', () => {
    const g = groups([1e6, 0.1, 0.2, 0.3])
    const o = { center: 'leave_one_out', scale: 'leave_one_out_std' } as const
    const { advantage } = groupAdvantage(g, o)
    const exact = reference(g.rewards, g.groupStart, undefined, o)
    expect(Math.abs((advantage.data[0] as number) / (exact[0] as number) - 1)).toBeLessThan(2 ** -23)
  })
})

describe('edges', () => {
  const each = (rewards: number[], o: GroupAdvantageOptions) =>
    Array.from(groupAdvantage(groups(rewards), o).advantage.data)

  test.each(options)('equal rewards of 0.1 are exactly equal: %j', (o) => {
    if (o.center === 'none' || o.virtualCount) return
    expect(new Set(each(Array(8).fill(0.1), { ...o, eps: 1e-9 }))).toEqual(new Set([0]))
  })
  test('equal rewards give the exact mean and std 0', () => {
    const { mean, std } = groupAdvantage(groups(Array(7).fill(0.1)))
    expect([mean.data[0], std.data[0]]).toEqual([Math.fround(0.1), 0])
  })
  test('equal others of a leave-one-out divide nothing', () => {
    const o = { center: 'leave_one_out', scale: 'leave_one_out_std', eps: 1e-6 } as const
    expect(each([1, 0.1, 0.1, 0.1], o)[0]).toBe(Math.fround(1 - Math.fround(0.1)))
  })
  test('a group of one: zero, or the raw reward', () => {
    expect(each([3], {})).toEqual([0])
    golden(groupAdvantage(groups([3]), { singleton: 'raw', eps: 1e-6 }).advantage, [3 / (1 + 1e-6)], 1)
    expect(each([3], { singleton: 'raw', scale: 'none' })).toEqual([3])
    expect(each([3], { singleton: 'raw', scale: 'mean' })).toEqual([3])
    expect(each([3], { virtualCount: 4, virtualReward: 1 })).toEqual([0])
  })
  test('more virtual rollouts than an int32 can count', () => {
    expect(each([1, 3], { virtualCount: 2 ** 33, virtualReward: 5, scale: 'none' })).toEqual([-4, -2])
  })
  test('rejected rollouts enter no statistic and get 0, NaN included', () => {
    const rewards = new Float32Array([1, Number.NaN, 0, Number.POSITIVE_INFINITY])
    const groupStart = new Int32Array([0, 4])
    const { advantage, mean } = groupAdvantage({ rewards, groupStart, mask: new Uint8Array([1, 0, 1, 0]) })
    const [a, b] = groupAdvantage(groups([1, 0])).advantage.data
    expect(Array.from(advantage.data)).toEqual([a, 0, b, 0])
    expect(mean.data[0]).toBe(0.5)
  })
  test('NaN in one group stays in that group', () => {
    const { advantage } = groupAdvantage(groups([1, Number.NaN, 1], [1, 0]))
    expect(Array.from(advantage.data, Number.isNaN)).toEqual([true, true, true, false, false])
  })
  test('an infinite reward makes the mean of the others infinite, wherever it stands', () => {
    for (let at = 0; at < 70; at += 3) {
      const rewards = Float32Array.from({ length: 70 }, (_, i) => (i === at ? Infinity : i))
      const groupStart = Int32Array.of(0, 70)
      const run = (scale: 'none' | 'leave_one_out_std') =>
        Array.from(groupAdvantage({ rewards, groupStart }, { center: 'leave_one_out', scale }).advantage.data)
      const others = (x: number) => Array.from(rewards, (_, i) => (i === at ? Infinity : x))
      expect(run('none')).toEqual(others(-Infinity))
      expect(run('leave_one_out_std')).toEqual(others(Number.NaN))
    }
  })
  test('an infinite reward leaves the batch without a variance', () => {
    const rewards = Float32Array.of(1, 2, Infinity, Infinity, 3, 5, Infinity, Infinity)
    const { advantage } = groupAdvantage({ rewards, groupStart: Int32Array.of(0, 2, 4, 6, 8) }, { scale: 'batch_std' })
    expect(Array.from(advantage.data)).toEqual(Array(8).fill(Number.NaN))
  })
  test('no rollouts, empty groups, all rejected', () => {
    expect(groupAdvantage(groups()).advantage.data.length).toBe(0)
    const { advantage, mean, std } = groupAdvantage(groups([], [1, 2], []))
    expect([advantage.data.length, ...mean.data, ...std.data.subarray(2)]).toEqual([2, 0, 1.5, 0, 0])
    const withGhosts = groupAdvantage(groups([], [1, 2], []), { virtualCount: 2, virtualReward: 3 })
    expect([...withGhosts.mean.data, withGhosts.std.data[0], withGhosts.std.data[2]]).toEqual([0, 2.25, 0, 0, 0])
    const none = groupAdvantage({ ...groups([1, 2]), mask: new Uint8Array(2) })
    expect([...none.advantage.data, ...none.mean.data, ...none.std.data]).toEqual([0, 0, 0, 0])
  })
})

describe('properties', () => {
  const rewardLists = fc.array(fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { maxLength: 6 }), { maxLength: 6 })

  test('permuting the members of groups permutes the result', () => {
    fc.assert(
      fc.property(rewardLists, (lists) => {
        const forward = groupAdvantage(groups(...lists)).advantage.data
        const reversed = groupAdvantage(groups(...lists.map((list) => [...list].reverse()))).advantage.data
        let first = 0
        for (const list of lists) {
          const there = forward.subarray(first, first + list.length)
          const back = reversed
            .subarray(first, first + list.length)
            .slice()
            .reverse()
          // Sums in another order: equal to rounding of the float64 statistics, which float32 shows in its last digit.
          there.forEach((a, i) => expect(Math.abs(a - (back[i] as number))).toBeLessThanOrEqual(2 ** -22 * Math.abs(a)))
          first += list.length
        }
      }),
    )
  })
  test('a group of a batch gets the bits that it gets alone', () => {
    fc.assert(
      fc.property(rewardLists, (lists) => {
        const { advantage, groupStart } = { ...groupAdvantage(groups(...lists)), ...groups(...lists) }
        lists.forEach((list, g) => {
          const alone = groupAdvantage(groups(list)).advantage
          const data = advantage.data.slice(groupStart[g], groupStart[g + 1])
          identical({ dtype: 'f32', shape: [list.length], data }, alone)
        })
      }),
    )
  })
})

test('groups of 8, 9, 16, 17, 32 and 33 get the bits that they get alone', () => {
  const r = random(9)
  const lists = [8, 3, 0, 8, 9, 1, 1, 2, 16, 9, 1, 16, 17, 2, 1, 0, 31, 2, 32, 33].map((n) =>
    Array.from(r.normals(n, 1, 2)),
  )
  for (const scale of ['group_std', 'leave_one_out_std'] as const) {
    const { advantage } = groupAdvantage(groups(...lists), { scale })
    const { groupStart } = groups(...lists)
    lists.forEach((list, g) => {
      const alone = groupAdvantage(groups(list), { scale }).advantage
      const data = advantage.data.slice(groupStart[g], groupStart[g + 1])
      identical({ dtype: 'f32', shape: [list.length], data }, alone)
    })
  }
})

describe('bad input', () => {
  const good = groups([1, 2], [3])
  const shape = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'groupStart' }
  test.each([[[0, 2, 2]], [[1, 2, 3]], [[0, 2, 1, 3]], [[0, 4]]])('offsets %j', (start) => {
    refuses(() => groupAdvantage({ ...good, groupStart: Int32Array.from(start) }), shape)
  })
  test('options', () => {
    const option = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_OPTION', argument })
    refuses(() => groupAdvantage(good, { ddof: 2 }), option('ddof'))
    refuses(() => groupAdvantage(good, { eps: -1 }), option('eps'))
    refuses(() => groupAdvantage(good, { eps: Number.NaN }), option('eps'))
    refuses(() => groupAdvantage(good, { virtualCount: 1 }), option('virtualReward'))
    refuses(() => groupAdvantage(good, { virtualCount: -1 }), option('virtualCount'))
    refuses(() => groupAdvantage(good, { scale: 'variance' as 'none' }), option('scale'))
  })
})
