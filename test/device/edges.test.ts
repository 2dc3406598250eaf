// Sizes and contents at which the launches of an operation change, on device arrays, against the CPU's kernels; and
// offsets that nobody could check.
import { afterEach, describe, expect, test } from 'vitest'
import { array, type HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import * as lib from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { backend } from '../support/backend_kind.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'
import { few, sweep } from '../support/sweep.js'

type Device = lib.DeviceArray
type Bag = Record<string, HostArray | Float32Array | Int32Array | Uint8Array>
const { cuda } = lib
const made: Device[] = []
afterEach(() => {
  for (const x of made.splice(0)) x.dispose()
})
const i32 = (...x: number[]) => array(Int32Array.from(x))
const f32 = (...x: number[]) => array(Float32Array.from(x))

/** What the operation gives on the device, with offsets and ids there too. */
function onDevice(name: OperationName, inputs: Bag, options: object = {}, sizes = {}): Record<string, HostArray> {
  const there = Object.entries(inputs).map(([key, x]) => [key, cuda.upload(x) as Device] as const)
  const result = call(name, Object.fromEntries(there) as never, options as never, sizes).now()
  const outputs = Object.entries(result as unknown as Record<string, Device>)
  made.push(...there.map(([, x]) => x), ...outputs.map(([, x]) => x))
  return Object.fromEntries(outputs.map(([key, x]) => [key, x.readSync()]))
}

/** The same bits on the device as on the host. */
function same(name: OperationName, inputs: Bag, options: object = {}, sizes = {}) {
  const expected = call(name, inputs as never, options as never, sizes).now() as unknown as Record<string, HostArray>
  const actual = onDevice(name, inputs, options, sizes)
  for (const [key, x] of Object.entries(expected)) identical(actual[key] as HostArray, x)
}

const values = (x: HostArray | undefined) => Array.from((x as HostArray).data)
const none = Number.NaN

describe.skipIf(backend === 'cpu')('offsets that nobody could check', () => {
  const rewards = f32(1, 2, 4, 8)
  test.each([
    ['groups that meet', [0, 2, 1, 4]],
    ['groups that leave some out', [1, 3]],
    ['an end beyond the end', [0, 2, 5]],
    ['no groups', [0]],
  ])('groupAdvantage: %s', (_, start) => {
    for (const options of [{}, { center: 'leave_one_out', scale: 'leave_one_out_std' }, { scale: 'batch_std' }]) {
      expect(values(onDevice('groupAdvantage', { rewards, groupStart: i32(...start) }, options).advantage)).toEqual(
        Array(4).fill(none),
      )
    }
  })
  test('groupAdvantage: mean and std of the groups whose own offsets are good', () => {
    const { mean, std } = onDevice('groupAdvantage', { rewards, groupStart: i32(0, 2, 1, 4) })
    expect(values(mean)).toEqual([1.5, none, Math.fround(14 / 3)])
    expect(values(std).map(Number.isNaN)).toEqual([false, true, false])
  })
  // Sequences have 6 and 8; a token that lies in none is NaN.
  test.each<[string, number[], number[]]>([
    ['tokens before the first and after the last', [1, 3, 4], [none, 6, 6, 8, none]],
    ['an end beyond the end', [0, 2, 6], [6, 6, none, none, none]],
    ['no sequences', [0], Array(5).fill(none)],
  ])('sequenceExpand: %s', (_, start, expected) => {
    const inputs = { x: f32(6, 8).data.subarray(0, start.length - 1) as Float32Array, sequenceStart: i32(...start) }
    const divided = expected.map((x, t) => x / expected.filter((y) => y === expected[t]).length)
    for (const mask of [undefined, new Uint8Array(5).fill(1)]) {
      const given = { ...inputs, ...(mask && { mask }) }
      expect(values(onDevice('sequenceExpand', given, {}, { T: 5 }).x)).toEqual(expected)
      expect(values(onDevice('sequenceExpand', given, { mean: true }, { T: 5 }).x)).toEqual(divided)
    }
  })
  test('sequenceExpand: a sequence that another has the counts of has no mean', () => {
    const T = 4000
    const inputs = { x: f32(3, 5, 7), sequenceStart: i32(0, 3000, 1, T), mask: new Uint8Array(T).fill(1) }
    const { x } = onDevice('sequenceExpand', inputs, { mean: true }, { T })
    const [first, last] = [3 / 3000, 7 / (T - 1)].map(Math.fround)
    expect(values(x).filter((y) => !Number.isNaN(y) && y !== first && y !== last)).toEqual([])
  })
  test.each([
    ['tokens before the first sequence', [1, 2, 3]],
    ['tokens after the last sequence', [0, 1, 2]],
    ['an end beyond the end', [0, 1, 4]],
    ['sequences that meet', [0, 2, 1, 3]],
    ['no sequences', [0]],
  ])('policyLoss: %s', (_, start) => {
    const inputs = { logp: f32(-1, -2, -3), advantage: array(new Float32Array(start.length - 1).fill(1)) }
    for (const ratio of ['token', 'sequence']) {
      const { loss, gradLogp } = onDevice('policyLoss', { ...inputs, sequenceStart: i32(...start) }, { ratio })
      expect([...values(loss), ...values(gradLogp)]).toEqual(Array(4).fill(none))
    }
  })
  test('policyLoss: the first of very many sequences leaves a token out', () => {
    const S = 17_000 // more blocks than the one that merges them has threads
    const logp = new Float32Array(S).fill(-1)
    const sequenceStart = Int32Array.from({ length: S + 1 }, (_, s) => Math.max(s, 1))
    const { loss } = onDevice('policyLoss', { logp, advantage: new Float32Array(S).fill(1), sequenceStart })
    expect(values(loss)).toEqual([none])
  })
  test.each([
    ['no number of values', [none, 1, 2]],
    ['fewer than no values', [-1, 1, 2]],
    ['a negative sum of squares', [3, 1, -2]],
  ])('standardize: %s', (_, moments) => {
    const given = { x: f32(1, 2), moments: array(Float64Array.from(moments)) }
    for (const mask of [undefined, Uint8Array.of(0, 1)]) {
      const { x } = onDevice('standardize', { ...given, ...(mask && { mask }) } as Bag)
      expect(values(x)).toEqual([mask ? 0 : none, none])
    }
  })
  // Each array of three is what the layout holds: starts, parents, ends of subtrees.
  test.each<[string, number[], number[], number[]]>([
    ['a first token that is no start', [1, 2, 4, 6], [-1, 0, 0], [3, 2, 3]],
    ['tokens after the last segment', [0, 2, 4, 5], [-1, 0, 0], [3, 2, 3]],
    ['a start before the one before', [0, 4, 2, 6], [-1, 0, 0], [3, 2, 3]],
    ['a parent below -1', [0, 6], [-2], [1]],
    ['an end that is not after its segment', [0, 2, 4, 6], [-1, 0, 0], [3, 1, 3]],
    ['an end after the last segment', [0, 2, 4, 6], [-1, -1, -1], [1, 2, 4]],
    ['a root in the subtree of the one before', [0, 2, 6], [-1, -1], [2, 2]],
    ['a child outside the subtree of its parent', [0, 2, 4, 6], [-1, 0, 0], [2, 2, 3]],
    ['a subtree that goes on after that of the parent', [0, 2, 4, 6], [-1, 0, -1], [2, 3, 3]],
    ['a root where a sibling should be', [0, 2, 4, 6], [-1, 0, -1], [3, 2, 3]],
    ["a parent's sibling where a sibling should be", [0, 2, 3, 4, 6], [-1, 0, 1, 0], [4, 4, 3, 4]],
  ])('prefixAttention and its gradient: %s', (_, segmentStart, segmentParent, segmentEnd) => {
    const layout = { segmentStart: i32(...segmentStart), segmentParent: i32(...segmentParent), segmentEnd: i32(...segmentEnd) } // biome-ignore format: one line
    const x = array(random(3).normals(12), [6, 1, 2])
    const logsumexp = array(new Float32Array(6), [6, 1])
    const forward = onDevice('prefixAttention', { q: x, k: x, v: x, ...layout })
    const backward = onDevice('prefixAttentionBackward', { q: x, k: x, v: x, out: x, gradOut: x, logsumexp, ...layout })
    expect(Object.keys({ ...forward, ...backward })).toEqual(['out', 'logsumexp', 'gradQ', 'gradK', 'gradV'])
    for (const y of Object.values({ ...forward, ...backward })) expect(values(y).every(Number.isNaN)).toBe(true)
  })
  test('the only set of many, which does not hold them all, keeps nothing beyond it', () => {
    const n = 17_000
    const score = array(random(1).normals(n))
    const { mask } = onDevice('selectRollouts', { score, groupStart: i32(5, n) }, { count: 3 })
    expect(values(mask).every((kept) => kept === 0)).toBe(true)
    const inputs = { entropy: score, sequenceStart: i32(5, n) }
    const groups = { score, groupStart: i32(0, 5, 3, n) }
    expect(values(onDevice('selectRollouts', groups, { count: 3 }).mask).every((kept) => kept === 0)).toBe(true)
    const tokens = onDevice('selectTokens', inputs, { count: n, scope: 'sequence', rule: 'entropy' })
    expect(values(tokens.mask)).toEqual(Array.from({ length: n }, (_, t) => Number(t >= 5)))
  })
})

describe.skipIf(backend === 'cpu')('sizes at which launches change', () => {
  test('groupBy of more blocks than one step of the scan has counts', () => {
    const r = random(2)
    const ids = Int32Array.from({ length: 140_000 }, () => (r.integer(300) - 150) * 77_777)
    same('groupBy', { ids }, {}, { G: new Set(ids).size })
  })
  test('tokenLogprob of tokens of more rows than two steps of the scan have counts', () => {
    const [R, T] = [17_000, 1000]
    const r = random(6)
    const logits = array(
      Float32Array.from({ length: R }, (_, row) => row / 64),
      [R, 1],
    ) // so is their logsumexp
    const row = Int32Array.from({ length: T }, () => r.integer(R))
    const { logsumexp } = onDevice('tokenLogprob', { logits, token: new Int32Array(T), row })
    expect(values(logsumexp)).toEqual(Array.from(row, (named) => named / 64))
  })
  test.each([1, 31, 32, 33, 70])('sequenceSum and sequenceExpand over %d pieces', (pieces) => {
    const r = random(pieces)
    const T = pieces * 1024 - 3
    const x = Float32Array.from({ length: T + 40 }, () => r.integer(9))
    const sequenceStart = Int32Array.of(0, 40, 40, T + 40)
    for (const mean of [false, true]) {
      same('sequenceSum', { x, sequenceStart }, { mean })
      same('sequenceSum', { x, sequenceStart, mask: r.mask(T + 40) }, { mean })
      const expand = { x: Float32Array.of(3, 5, 7), sequenceStart, mask: r.mask(T + 40) }
      same('sequenceExpand', expand, { mean }, { T: T + 40 })
    }
  })
  test.each(few([511, 512, 513, 5_000], [70_000]))('the variance of a batch of %d groups', (G) => {
    const r = random(G)
    const groupStart = r.offsets(G, 2)
    const rewards = Float32Array.from({ length: groupStart[G] as number }, () => r.integer(2)) // sums are exact
    const { advantage } = onDevice('groupAdvantage', { rewards, groupStart }, { center: 'none', scale: 'batch_std' })
    const n = rewards.length
    const mean = rewards.reduce((sum, x) => sum + x, 0) / n
    const std = Math.sqrt(rewards.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1))
    const lengths = Array.from({ length: G }, (_, g) => (groupStart[g + 1] as number) - (groupStart[g] as number))
    const alone = lengths.flatMap((length) => Array<boolean>(length).fill(length === 1))
    values(advantage).forEach((x, i) => {
      if (alone[i] || rewards[i] === 0) expect(x).toBe(0)
      else expect(Math.abs(x - 1 / (std + 1e-4))).toBeLessThan(2 ** -22) // float32 of about 2
    })
  })
  // Sums that are exact, so that the CPU's bits are the only ones: whole numbers, and a power of 2 of tokens.
  test('moments of more blocks than the one that merges them has threads', () => {
    const x = Float32Array.from({ length: 2 ** 20 + 4097 }, (_, i) => (i % 3) - 1)
    const { moments } = onDevice('moments', { x })
    const [count, mean, m2] = values(moments) as [number, number, number]
    const [sum, squares] = [x.reduce((a, b) => a + b, 0), x.reduce((a, b) => a + b * b, 0)]
    expect(count).toBe(x.length)
    expect(Math.abs(mean - sum / count)).toBeLessThan(2 ** -50)
    expect(Math.abs(m2 - (squares - sum ** 2 / count))).toBeLessThan(2 ** -30 * squares)
  })
  test('policyLoss of more blocks of tokens and of sequences than are merged at a time', () => {
    const [T, S] = [2 ** 16, 17_000]
    const r = random(5)
    const cuts = Array.from({ length: S - 1 }, () => r.integer(T + 1)).sort((a, b) => a - b)
    const sequenceStart = Int32Array.from([0, ...cuts, T])
    const logp = Float32Array.from({ length: T }, () => -r.integer(9))
    const advantage = Float32Array.from({ length: S }, () => r.integer(9) - 4)
    const inputs = { logp, oldLogp: logp, advantage, sequenceStart }
    for (const aggregate of ['token_mean', 'sequence_mean', 'sequence_sum']) same('policyLoss', inputs, { aggregate })
    same('policyLoss', inputs, { aggregate: 'token_mean', ratio: 'sequence' })
  })
  test.each([31, 33, 70])('policyLoss of a sequence of %d pieces', (pieces) => {
    const T = pieces * 1024 - 3
    const logp = Float32Array.from({ length: T }, (_, t) => -((t * 7) % 5) / 8)
    const oldLogp = logp.map((x, t) => x + (((t * 3) % 8) - 5) / 4)
    const mask = Uint8Array.from(logp, (_, t) => Number(t % 11 > 2 || t > T - 900))
    const inputs = { logp, oldLogp, advantage: f32(3), sequenceStart: i32(0, T) }
    for (const given of [{ ...inputs, mask }, inputs]) {
      const counted = logp.map((x, t) => x - (oldLogp[t] as number)).filter((_, t) => given === inputs || mask[t])
      const ratio = Math.exp(counted.reduce((sum, x) => sum + x, 0) / counted.length)
      const options = { ratio: 'sequence', clipHigh: 9, aggregate: 'token_sum' }
      const [loss] = values(onDevice('policyLoss', given, options).loss) as [number]
      expect(Math.abs(loss / (-3 * ratio * counted.length) - 1)).toBeLessThan(2 ** -24) // rounded once
    }
  })
  test.each([31, 33, 70])('gaussianLogprob and gaussianKl of rows of %d pieces', (pieces) => {
    const D = pieces * 2048 - 5
    const row = (of: (i: number) => number) =>
      array(
        Float32Array.from({ length: D }, (_, i) => of(i)),
        [1, D],
      )
    same('gaussianLogprob', { x: row((i) => (i % 4) - 1), mean: row(() => 0), std: f32(1), oldMean: row(() => 1) })
    same('gaussianKl', { mean: row((i) => (i % 4) - 1), refMean: row(() => 0), std: f32(1) })
  })
  test.each([33, 1_024, 1_025, 3_000, 16_384, 16_385, 20_001])('one group and one sequence of %d', (n) => {
    const r = random(n)
    const start = Int32Array.of(0, n)
    const score = Float32Array.from({ length: n }, () => (r.uniform() < 0.01 ? Number.NaN : r.integer(50) - 25))
    const mask = r.mask(n)
    for (const rule of ['max_variance', 'top', 'top_bottom'])
      for (const fraction of [0.3, 0.9]) same('selectRollouts', { score, groupStart: start, mask }, { fraction, rule })
    for (const fraction of [0.001, 0.3])
      same(
        'selectTokens',
        { entropy: score, sequenceStart: start, mask },
        { fraction, scope: 'sequence', rule: 'entropy' },
      )
  })
})

describe.skipIf(backend === 'cpu')('any contents', () => {
  const strange = [none, Infinity, -Infinity, 0, -0, 1e-45, 3e38]
  test.each(Array.from({ length: sweep ? 40 : 16 }, (_, seed) => seed))(
    'selections, places and groups, seed %d',
    (seed) => {
      const r = random(seed)
      const N = [0, 1, 31, 32, 33, 257, 1023, 1024, 1025, 4097][r.integer(10)] as number
      const cuts = N === 0 ? [] : Array.from({ length: [0, 1, 6, 40][r.integer(4)] as number }, () => r.integer(N + 1))
      const start = Int32Array.from([0, ...cuts.sort((a, b) => a - b), N])
      const share = [0.01, 0.3, 1][r.integer(3)] as number
      const one = () => (r.uniform() < share ? (strange[r.integer(7)] as number) : r.integer(4))
      const numbers = () => Float32Array.from({ length: N }, one)
      const given = r.uniform() < 0.5 && { mask: r.mask(N, share) }
      const counts = [{ count: 0 }, { count: 3 }, { count: N }, { fraction: 0 }, { fraction: 0.07 }, { fraction: 1 }]
      const count = counts[r.integer(6)] as object
      for (const scope of ['group', 'batch'])
        for (const rule of ['max_variance', 'top', 'top_bottom'])
          same('selectRollouts', { score: numbers(), groupStart: start, ...given }, { ...count, scope, rule })
      for (const scope of ['batch', 'sequence']) {
        const inputs = { tokenAdvantage: numbers(), entropy: numbers(), sequenceStart: start, ...given }
        for (const rule of ['advantage_entropy', 'entropy', 'advantage'])
          same('selectTokens', inputs, { ...count, scope, rule })
      }
      const mask = r.mask(N, share)
      same('maskIndex', { mask }, {}, { M: mask.reduce((sum, x) => sum + x, 0) })
      const ids = Int32Array.from(
        { length: N },
        () => [2 ** 31 - 1, -(2 ** 31), -1, 0, 1, 256, 65_536][r.integer(7)] as number,
      )
      same('groupBy', { ids }, {}, { G: new Set(ids).size })
    },
  )
})
