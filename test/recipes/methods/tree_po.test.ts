import { expect } from 'vitest'
import { moments } from '../../../lib/index.js'
import { optimizationStep, prepareStep } from '../../../lib/recipes/index.js'
import { treePo } from '../../../lib/recipes/methods/tree_po.js'
import { advantage, fixture } from '../fixture.js'
import { edge, golden } from '../golden.js'
import { learnsNothing, starts } from '../masked.js'

const lengths = [2, 3, 1, 2, 4, 2]
const example = {
  path: [['a', 'x'], ['a', 'y'], ['b', 'x'], ['b', 'y'], ['c', 'x'], ['d', 'x']], // biome-ignore format: a list
  rewards: [1, 0, 1, 1, 0, 0],
  groupStart: [0, 6],
  sequenceStart: starts(lengths),
}
const spread = (x: ArrayLike<number>) => lengths.flatMap((n, i) => Array<number>(n).fill(x[i]!))
const rolloutsOf = (options: Parameters<typeof treePo>[0], batch: object) =>
  prepareStep(treePo({ whiten: false, ...options }), { ...example, ...batch }).advantage!

golden('treePo', 'advantages averaged over depths', (check) => {
  check.float64(rolloutsOf({}, {}), [0.5, -0.5, 0.25, 0.25, -0.5, -0.5])
})

golden('treePo', 'advantages weighted by the sizes of subgroups', (check) => {
  check.float64(rolloutsOf({ weighting: 'group_size' }, {}), [0.5, -0.5, 0.375, 0.375, -0.5, -0.5])
})

golden('treePo', 'whitening over tokens', (check) => {
  const { count, mean, m2 } = moments({ x: Float32Array.from(spread(rolloutsOf({}, {}))) })
  check.float64([mean, m2 / (count - 1)], [-0.196428571429, 0.184409340659])
  const whitened = (options: Parameters<typeof treePo>[0]) => prepareStep(treePo(options), example).tokenAdvantage!
  check.float32(
    whitened({}),
    spread([1.62175449643, -0.706918626648, 1.03958621566, 1.03958621566, -0.706918626648, -0.706918626648]),
  )
  check.float32(
    whitened({ weighting: 'group_size' }),
    spread([1.45096029863, -0.715807080655, 1.18011437622, 1.18011437622, -0.715807080655, -0.715807080655]),
  )
})

golden('treePo', 'loss', (check) => {
  const step = optimizationStep(treePo({ dualClip: 3 }), { ...fixture, advantage }, undefined, { objective: { clipHigh: 0.2 } }) // biome-ignore format: short
  check.float32(step.loss, 0.0528571429)
})

edge('treePo', 'from tokens: rollouts share a segment as long as they share its tokens', () => {
  // Segments of two tokens: the first and second rollout share one, the third ends within it.
  const token = [1, 2, 3, 4, 5, /**/ 1, 2, 3, 9, /**/ 1, /**/ 1, 3, 3, 4]
  const batch = { token, sequenceStart: [0, 5, 9, 10, 14], groupStart: [0, 4], rewards: [1, 0, 0, 0] }
  const path = [['a', 'b', 'c'], ['a', 'd'], ['e'], ['f', 'g']] // biome-ignore format: a list
  const own = rolloutsOf({ segmentLength: 2 }, { ...batch, path: undefined })
  expect(own).toEqual(rolloutsOf({}, { ...batch, path }))
  expect(Array.from(own)).toEqual([0.625, -0.375, -0.25, -0.25])
  // Whole rollouts are leaves, and leaves are no subgroups.
  expect(Array.from(rolloutsOf({}, { ...batch, path: undefined }))).toEqual([0.75, -0.25, -0.25, -0.25])
})

edge('treePo', 'a group of one keeps its reward, equal rewards have advantage 0', () => {
  const groups = { groupStart: [0, 1, 6], rewards: [3, 0.1, 0.1, 0.1, 0.1, 0.1] }
  expect(Array.from(rolloutsOf({}, groups))).toEqual([3, 0, 0, 0, 0, 0])
  const equal = prepareStep(treePo(), { ...example, rewards: Array(6).fill(0.1) })
  expect(equal.tokenAdvantage!.every((a) => a === 0)).toBe(true)
})

edge('treePo', 'skipEqual leaves out subgroups with equal rewards', () => {
  expect(Array.from(rolloutsOf({ skipEqual: true }, {}))).toEqual([0.5, -0.5, 0.5, 0.5, -0.5, -0.5])
})

edge('treePo', 'ragged paths: a rollout that has ended is in no deeper subgroup', () => {
  const path = [['a', 'x', 'm'], ['a', 'x', 'n'], ['a'], [], ['b'], ['b', 'y']] // biome-ignore format: a list
  // Of depths 0, 1 and 2: the group with mean 1/2, a with mean 2/3 and b with mean 0, a x with mean 1/2.
  const [x, y, z, ...rest] = Array.from(rolloutsOf({}, { path }))
  expect([x, y]).toEqual([(1 / 2 + 1 / 3 + 1 / 2) / 3, (-1 / 2 - 2 / 3 - 1 / 2) / 3].map((a) => expect.closeTo(a, 14)))
  expect([z, ...rest]).toEqual([(1 / 2 + 1 / 3) / 2, 1 / 2, -1 / 4, -1 / 4].map((a) => expect.closeTo(a, 14)))
})

edge('treePo', 'masked tokens and rejected rollouts enter no statistic', () => {
  const rolloutMask = [1, 1, 1, 1, 0, 1]
  const mask = spread(lengths).map((_, t) => Number(t !== 0))
  const { tokenAdvantage } = prepareStep(treePo(), { ...example, mask, rolloutMask })
  const counted = Uint8Array.from(mask, (m, t) => (t >= 8 && t < 12 ? 0 : m))
  expect(Array.from(tokenAdvantage!).filter((_, t) => !counted[t])).toEqual([0, 0, 0, 0, 0])
  const { mean, m2, count } = moments({ x: tokenAdvantage!, mask: counted })
  expect(mean).toBeCloseTo(0, 6)
  expect(m2 / (count - 1)).toBeCloseTo(1, 6)
})

edge('treePo', 'everything masked', () => learnsNothing(treePo(), { path: [['a'], ['b']], rewards: [1, 0] }))

edge('treePo', 'without a path and tokens; with too few paths', () => {
  expect(() => rolloutsOf({}, { path: undefined })).toThrow('treePo: token is missing from the batch')
  expect(() => rolloutsOf({}, { path: [['a']] })).toThrow('treePo: path is no list of 6 lists, expected the segments')
})
