// treeLayout takes lists of the host; other callers have the arrays on the device. Run on device arrays only
// (vitest.config.mts).
import { expect, test } from 'vitest'
import { call } from '../../lib/call/run.js'
import { cuda, type DeviceArray, treeLayout } from '../../lib/index.js'
import { layoutReference, randomForest } from '../references/forest.js'
import { random } from '../support/random.js'

type Forest = { length: number[]; parent: number[]; end?: number[] }
type Sizes = { P: number; N: number; T: number; G: number }

const outputNames = ['segmentStart', 'segmentEnd', 'position', 'groupStart', 'sequenceStart', 'row', 'place'] as const
const upload = (list: number[]) => cuda.upload({ dtype: 'i32', shape: [list.length], data: Int32Array.from(list) })

function onDevice({ length, parent, end }: Forest, wrong: Partial<Sizes> = {}) {
  const inputs = { length: upload(length), parent: upload(parent), end: end && upload(end) }
  const out = Object.fromEntries(outputNames.map((name) => [name, null]))
  const read = (x: unknown) => Array.from((x as DeviceArray).readSync().data)
  const { sizes } = call('treeLayout', inputs as never, { out } as never).now()
  const counts = read(sizes)
  const [P = 0, sequences = 0, T = 0, G = 0] = counts.map((n) => Math.max(n, 0))
  const N = end?.length ?? sequences
  const outputs = call('treeLayout', inputs as never, { out: { sizes: null } } as never, { P, N, T, G, ...wrong }).now()
  return { counts, outputs: Object.fromEntries(Object.entries(outputs).map(([name, x]) => [name, read(x)])) }
}

function expected(forest: Forest) {
  const { segmentParent: _, ...arrays } = layoutReference(forest, forest.end)
  return arrays
}

test.each(Array.from({ length: 20 }, (_, seed) => seed))('random forest %i', (seed) => {
  const r = random(seed)
  const tree = randomForest(r, r.integer(12), 4)
  expect(onDevice(tree).outputs).toEqual(expected(tree))
  const byRoot = tree.length.map((_, b) => b).filter(() => r.uniform() < 0.6)
  const end = byRoot.flatMap((b) => (r.uniform() < 0.3 ? [b, b] : [b]))
  if (end.length > 0) expect(onDevice({ ...tree, end }).outputs).toEqual(expected({ ...tree, end }))
})

test('more segments than the block has threads', () => {
  const r = random(5)
  const B = 2_500
  const length = Array.from({ length: B }, () => r.integer(4))
  const parent: number[] = []
  for (let b = 0; b < B; b++) {
    const path = [-1]
    for (let a = b - 1; a >= 0; a = parent[a] as number) path.push(a)
    parent.push(r.uniform() < 0.7 ? b - 1 : (path[r.integer(path.length)] as number))
  }
  const { segmentParent: _, pack: __, reuse: ___, ...arrays } = treeLayout({ length, parent })
  const { outputs } = onDevice({ length, parent })
  for (const [name, x] of Object.entries(arrays)) expect(outputs[name], name).toEqual(Array.from(x.data))
})

test.each<[string, Forest]>([
  ['a negative length', { length: [2, -1], parent: [-1, 0] }],
  ['more than 2^31 tokens', { length: [2 ** 30, 2 ** 30], parent: [-1, 0] }],
  ['2^31 loss tokens', { length: [0, 2 ** 30, 0, 0], parent: [-1, 0, 1, 1] }],
  ['a first segment that is no root', { length: [1], parent: [0] }],
  ['a parent that comes later', { length: [1, 1, 1], parent: [-1, 2, 0] }],
  ['not depth-first', { length: [1, 1, 1, 1], parent: [-1, 0, 0, 1] }],
  ['a parent below -1', { length: [1], parent: [-2] }],
  ['an end that is no segment', { length: [1, 1], parent: [-1, 0], end: [2] }],
  ['ends that go back to an earlier root', { length: [1, 1], parent: [-1, -1], end: [1, 0] }],
])('%s: sizes and outputs are -1', (_, forest) => {
  const { counts, outputs } = onDevice(forest)
  expect(counts).toEqual([-1, -1, -1, -1])
  for (const x of Object.values(outputs)) expect(x.every((value) => value === -1)).toBe(true)
})

test('a tangle of 150,000 segments is found to be none in a time that grows with their number', () => {
  const half = 75_000 // walks of that many steps from every other segment after it would not end within the test's time
  const parent = Array.from({ length: 2 * half }, (_, b) => (b < half ? b - 1 : b % 2 === 0 ? 0 : half - 1))
  const { sizes } = call(
    'treeLayout',
    { length: upload(parent.map(() => 1)), parent: upload(parent) } as never,
    {
      out: Object.fromEntries(outputNames.map((name) => [name, null])),
    } as never,
  ).now()
  expect(Array.from((sizes as unknown as DeviceArray).readSync().data)).toEqual([-1, -1, -1, -1])
})

test.each([
  ['P', ['position'], [2, 4]],
  ['N', ['sequenceStart'], [0, 2]],
  ['G', ['groupStart'], [0, 2]],
  ['T', ['row', 'place'], [0, 3]],
] as const)('outputs of another %s are -1, the others are not', (axis, wrong, lengths) => {
  const forest = { length: [2, 1], parent: [-1, 0] }
  const right: Record<string, number[]> = expected(forest) as never
  for (const length of lengths) {
    const { outputs } = onDevice(forest, { [axis]: length })
    for (const [name, x] of Object.entries(outputs)) {
      if ((wrong as readonly string[]).includes(name))
        expect(
          x.every((value) => value === -1),
          name,
        ).toBe(true)
      else expect(x, name).toEqual(Array.from(right[name]!))
    }
  }
})
