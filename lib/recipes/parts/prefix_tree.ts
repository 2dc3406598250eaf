// The prefix tree of rollouts, found in their tokens. (Where a tree is given, every edge a rollout: edge_tree.ts.)
import { grpoError } from '../../addon/errors.js'
import { describe, type HostArray } from '../../arrays/array.js'
import { integersOf, isWide } from '../../arrays/integers.js'
import { tokenTree } from '../../token_tree.js'
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

/** Names as numbers: equal ones have the same. */
function numbered(names: Names): Int32Array {
  if (names instanceof Int32Array) return names
  const numbers = new Map<number | string, number>()
  return Int32Array.from(names as ArrayLike<number>, (name: number | string) => {
    const number = numbers.get(name) ?? numbers.size
    numbers.set(name, number)
    return number
  })
}

/**
 * The prefix tree of rollouts: that of tokenTree, with what methods look at. Children follow the order of their first
 * rollouts. Masked tokens are part of it too: what a tool wrote is part of the prefix. A rollout without tokens ends with
 * the root.
 *
 * @throws RangeError for lists whose lengths do not fit, offsets that do not rise from 0, or a token that is NaN
 */
export function prefixTree(given: Rollouts): PrefixTree {
  const { token, sequenceStart, groupStart, promptLength } = narrowed(given)
  check({ token, sequenceStart, groupStart, promptLength })
  const start = Int32Array.from(sequenceStart)
  const groups = Int32Array.from(groupStart)
  const tree = tokenTree({ token: numbered(token), sequenceStart: start }, { groupStart: groups })
  const { segmentStart, segmentParent, position, place } = tree
  const B = segmentParent.data.length
  const [first, parent] = [segmentStart.data, segmentParent.data]
  const length = parent.map((_, b) => (first[b + 1] as number) - (first[b] as number))
  const begin = parent.map((above, b) => (above === -1 ? 0 : (position.data[first[b] as number] as number)))
  const owner = new Int32Array(position.data.length) // of each packed token the segment
  for (let b = 0; b < B; b++) owner.fill(b, first[b], first[b + 1])
  const segment = place.data.map((at) => owner[at] as number)

  // Down the path of each rollout: a segment's worth of tokens at a time.
  const rollouts: number[][] = Array.from({ length: B }, () => [])
  const end = new Int32Array(start.length - 1)
  const roots = Array.from(parent.keys()).filter((b) => parent[b] === -1)
  for (const [g, root] of roots.entries()) {
    for (let i = groups[g] as number; i < (groups[g + 1] as number); i++) {
      let b = root
      rollouts[b]?.push(i)
      for (let t = start[i] as number; t < (start[i + 1] as number); t += length[b] as number) {
        b = segment[t] as number
        rollouts[b]?.push(i)
      }
      end[i] = b
    }
    length[root] = promptLength?.[g] ?? 0
  }
  return { length, parent, begin, rollouts, end, segment }
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
