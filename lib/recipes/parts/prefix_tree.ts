// The prefix tree of rollouts, found in their tokens. (Where a tree is given, every edge a rollout: edge_tree.ts.)
import { grpoError } from '../../addon/errors.js'
import { describe, type HostArray } from '../../arrays/array.js'
import { integersOf, isWide } from '../../arrays/integers.js'
import { type Layout, treeLayout } from '../../tree_layout.js'
import { at, centerOf } from './statistics.js'

type Names = ArrayLike<number | string>
type Whole = ArrayLike<number> | BigInt64Array

/** The common prefixes of rollouts, within each group: segments in depth-first order, the prompt of each group a root. */
export interface PrefixTree {
  /** [B] tokens of each segment; of a root those of the prompt */
  readonly length: Int32Array
  /** [B] the segment that each continues; -1 for a root */
  readonly parent: Int32Array
  /** [B] tokens between the prompt and the segment */
  readonly begin: Int32Array
  /** [B] the rollouts through each segment, ascending */
  readonly rollouts: readonly (readonly number[])[]
  /** [N] the segment that each rollout ends with; equal rollouts end with the same one */
  readonly end: Int32Array
  /** [T] the segment of each token of the rollouts */
  readonly segment: Int32Array
}

export interface Rollouts {
  readonly token: Names | BigInt64Array // [T] token ids, or the names of whole segments
  readonly sequenceStart: Whole // [N+1]
  readonly groupStart: Whole // [G+1]
  /** [G] tokens of each prompt, for the layout; default 0 */
  readonly promptLength?: Whole
}

const narrow = <List>(name: string, x: List | BigInt64Array): List | Int32Array =>
  isWide(x) ? (integersOf('prefixTree', name, x) as HostArray<'i32'>).data : x

/** Throws for what is no object, and where a list is none. */
function checkLists(operation: string, given: object, names: readonly string[]): void {
  if (typeof given !== 'object' || given === null) {
    throw grpoError('kind', operation, '', `takes an object with ${names.join(', ')}, got ${describe(given)}`)
  }
  for (const name of names) {
    const list = (given as Record<string, unknown>)[name]
    if (typeof list === 'object' && list !== null && 'length' in list) continue
    throw grpoError('kind', operation, name, `is ${describe(list)}, expected a list`)
  }
}

/** The same without numbers of 64 bits. */
function narrowed(given: Rollouts) {
  checkLists('prefixTree', given, ['token', 'sequenceStart', 'groupStart'])
  const { token, sequenceStart, groupStart, promptLength } = given
  return {
    token: narrow('token', token),
    sequenceStart: narrow('sequenceStart', sequenceStart),
    groupStart: narrow('groupStart', groupStart),
    promptLength: promptLength && narrow('promptLength', promptLength),
  }
}

/** What does not fit would be read past its end, or without an end. */
function check({ token, sequenceStart, groupStart, promptLength }: ReturnType<typeof narrowed>): void {
  const refuse = (kind: 'shape' | 'value', name: string, problem: string) =>
    grpoError(kind, 'prefixTree', name, problem)
  const sizes = (name: string, x: ArrayLike<unknown>, size: number, from: string) => {
    if (x.length !== size) throw refuse('shape', name, `has length ${x.length}, expected ${size} (${from})`)
  }
  for (const [name, offsets] of Object.entries({ sequenceStart, groupStart })) {
    if (offsets.length === 0) throw refuse('shape', name, 'is empty, expected 0 and what follows the last')
    for (let k = 0; k < offsets.length; k++) {
      const [x, before] = [offsets[k] as number, k === 0 ? 0 : (offsets[k - 1] as number)]
      if (Number.isInteger(x) && x >= before && (k > 0 || x === 0)) continue
      throw refuse('value', name, `has ${x} at ${k}, expected offsets that rise from 0`)
    }
  }
  const N = groupStart[groupStart.length - 1] as number
  sizes('sequenceStart', sequenceStart, N + 1, 'N + 1 from groupStart')
  sizes('token', token, sequenceStart[N] as number, 'T from sequenceStart')
  if (promptLength !== undefined) sizes('promptLength', promptLength, groupStart.length - 1, 'G from groupStart')
  for (let t = 0; t < token.length; t++) {
    if (Number.isNaN(token[t])) throw refuse('value', 'token', `has NaN at ${t}, which is equal to no token`)
  }
}

/**
 * The prefix tree of rollouts. Children follow the order of their first rollouts. The tree looks at every token twice at
 * most, masked ones too: what a tool wrote is part of the prefix. A rollout without tokens ends with the root.
 *
 * @throws RangeError for lists whose lengths do not fit, offsets that do not rise from 0, or a token that is NaN
 */
export function prefixTree(given: Rollouts): PrefixTree {
  const { token, sequenceStart, groupStart, promptLength } = narrowed(given)
  check({ token, sequenceStart, groupStart, promptLength })
  const N = sequenceStart.length - 1
  const length: number[] = []
  const parent: number[] = []
  const begin: number[] = []
  const rollouts: number[][] = []
  const end = new Int32Array(N)
  const segment = new Int32Array(sequenceStart[N] as number)
  const place = (i: number, depth: number) => (sequenceStart[i] as number) + depth
  const hasEnded = (i: number, depth: number) => place(i, depth) === sequenceStart[i + 1]

  for (let g = 0; g < groupStart.length - 1; g++) {
    const [first, last] = [groupStart[g] as number, groupStart[g + 1] as number]
    const members = Array.from({ length: last - first }, (_, k) => first + k)
    const open = [{ above: -1, members, depth: 0 }]
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const { above, members, depth } = next
      const b = length.length
      const [leader] = members as [number]
      const agree = (stop: number) =>
        members.every((i) => !hasEnded(i, stop) && token[place(i, stop)] === token[place(leader, stop)])
      let stop = depth
      if (above !== -1) while (agree(stop)) stop++
      length.push(above === -1 ? (promptLength?.[g] ?? 0) : stop - depth)
      parent.push(above)
      begin.push(depth)
      rollouts.push(members)

      const children = new Map<number | string, number[]>()
      for (const i of members) {
        segment.fill(b, place(i, depth), place(i, stop))
        if (hasEnded(i, stop)) {
          end[i] = b
          continue
        }
        const name = token[place(i, stop)] as number | string
        const siblings = children.get(name)
        if (siblings === undefined) children.set(name, [i])
        else siblings.push(i)
      }
      for (const child of [...children.values()].reverse()) open.push({ above: b, members: child, depth: stop })
    }
  }
  return {
    length: Int32Array.from(length),
    parent: Int32Array.from(parent),
    begin: Int32Array.from(begin),
    rollouts,
    end,
    segment,
  }
}

/** Where the tokens of the tree lie when each segment is packed once: for attention, the forward pass and the loss. */
export function layoutOf(tree: PrefixTree): Layout {
  checkLists('layoutOf', tree, ['length', 'parent', 'end'])
  const { length, parent, end } = tree
  return treeLayout({ length, parent, end })
}

/** [B] the mean reward of the rollouts through each segment, rejected ones left out; 0 if there are none. */
export function segmentValues(
  tree: PrefixTree,
  rewards: ArrayLike<number>,
  rolloutMask?: ArrayLike<number>,
): Float64Array {
  checkLists('segmentValues', tree, ['rollouts'])
  checkLists('segmentValues', { rewards }, ['rewards'])
  const { rollouts } = tree
  return Float64Array.from(rollouts, (members) => {
    return centerOf(at(rewards, members.filter((i) => rolloutMask?.[i] !== 0))) // biome-ignore format: short
  })
}
