import { grpoError } from './addon/errors.js'
import { allocate, array, describe, type HostArray, hostArray, lengthOf, viewOf } from './arrays/array.js'
import { isDeviceArray } from './arrays/device_memory.js'
import { integersOf } from './arrays/integers.js'
import { type Call, checkNames, checkSignal, map, operation } from './call/run.js'
import type { CallOptions } from './call/types.js'
import { type Layout, layoutCall } from './tree_layout.js'

/** Token ids, or offsets, on the host: whole numbers of 32 bits in any container. */
export type HostIntegers = Int32Array | BigInt64Array | readonly number[] | HostArray<'i32'>

/** N sequences side by side, as a batch has them. */
export interface PackedSequences {
  /** i32[T]    the tokens of all sequences */
  token: HostIntegers
  /** i32[N+1]  first token of each sequence; ends with T */
  sequenceStart: HostIntegers
}

export interface TokenTreeOptions extends Pick<CallOptions, 'signal'> {
  /** i32[G+1]  first sequence of each group; ends with N. Default: one group of all. */
  groupStart?: HostIntegers | undefined
  /** The fewest tokens that are worth a segment of their own. Default: 1. */
  minShared?: number | undefined
}

/** A layout with its packed tokens. */
export interface TokenTree extends Layout {
  /** i32[P]  the packed tokens */
  readonly token: HostArray<'i32'>
}

const name = 'tokenTree'
const refuse = (kind: 'kind' | 'dtype' | 'shape' | 'value' | 'option' | 'device', argument: string, problem: string) =>
  grpoError(kind, name, argument, problem)

/** Whole numbers on the host: those of an Int32Array where they lie, others as a copy. */
function integersIn(argument: string, given: unknown): Int32Array {
  const copy = integersOf(name, argument, given)
  if (copy !== undefined) return copy.data
  if (typeof given !== 'object' || given === null) {
    throw refuse('kind', argument, `is ${describe(given)}, expected a list of whole numbers`)
  }
  if (isDeviceArray(given)) throw refuse('device', argument, 'lies on a device, expected an array of the host')
  const { dtype, shape, data } = hostArray(name, argument, given, false, ['i32'])
  if (dtype !== 'i32') throw refuse('dtype', argument, `has dtype ${dtype}, expected i32`)
  if (shape.length !== 1) throw refuse('shape', argument, `has shape [${shape.join(', ')}], expected one axis`)
  return viewOf(Int32Array, name, argument, data, lengthOf(data))
}

/** Offsets that rise from 0 to `end`, as a copy, which no other thread changes after they have been looked at. */
function offsetsIn(argument: string, given: unknown, end: number, of: string): Int32Array {
  const start = integersIn(argument, given).slice()
  if (start.length === 0) throw refuse('shape', argument, 'is empty, expected 0 and what follows the last')
  if (start[0] !== 0) throw refuse('value', argument, `begins with ${start[0]}, expected 0`)
  for (let k = 1; k < start.length; k++) {
    const [before, here] = [start[k - 1] as number, start[k] as number]
    if (here >= before) continue
    const fall = `falls: ${argument}[${k}] is ${here}, ${argument}[${k - 1}] is ${before}, expected offsets that rise`
    throw refuse('value', argument, fall)
  }
  const last = start[start.length - 1]
  if (last !== end) throw refuse('value', argument, `ends with ${last}, expected ${end} (${of})`)
  return start
}

/** Sequences side by side: tokens [start[i], start[i+1]) are those of sequence i. */
interface Sequences {
  readonly token: Int32Array
  readonly start: Int32Array
}

function listed(sequences: readonly unknown[]): Sequences {
  // Not by map, which leaves out the holes of a list.
  const list = Array.from(sequences, (given, i) => integersIn(`sequences[${i}]`, given))
  const tokens = list.reduce((sum, own) => sum + own.length, 0)
  if (tokens >= 2 ** 31) {
    throw refuse('value', 'sequences', `has ${tokens} tokens, expected less than 2147483648 in all`)
  }
  const start = new Int32Array(list.length + 1)
  const token = allocate(name, 'token', 'i32', [tokens]).data
  for (const [i, own] of list.entries()) {
    const begin = start[i] as number
    token.set(own, begin)
    start[i + 1] = begin + own.length
  }
  return { token, start }
}

function sequencesIn(given: unknown): Sequences {
  if (Array.isArray(given)) return listed(given)
  if (typeof given !== 'object' || given === null || !('token' in given)) {
    const wanted = 'expected a list of sequences or { token, sequenceStart }'
    throw refuse('kind', 'sequences', `is ${describe(given)}, ${wanted}`)
  }
  const packed = checkNames(name, given, ['token', 'sequenceStart'], 'input')
  const token = integersIn('token', packed.token)
  return { token, start: offsetsIn('sequenceStart', packed.sequenceStart, token.length, 'T from token') }
}

/** A node of the trie: a run of tokens that the same sequences go through, up to where they part or one of them ends. */
interface Node {
  /** The run within `token`, in the first sequence that goes through it. */
  begin: number
  end: number
  /** By their first tokens, in the order in which these came. */
  children: Map<number, Node> | undefined
  /** The sequences that end with it. */
  readonly ends: number[]
}

const node = (begin: number, end: number): Node => ({ begin, end, children: undefined, ends: [] })

/** Leads a sequence down from the root. Each of its tokens is compared once. */
function insert(root: Node, i: number, { token, start }: Sequences): void {
  const stop = start[i + 1] as number
  let above = root
  let at = start[i] as number
  while (at < stop) {
    const first = token[at] as number
    above.children ??= new Map()
    const below = above.children.get(first)
    if (below === undefined) {
      const leaf = node(at, stop)
      above.children.set(first, leaf)
      above = leaf
      break
    }
    const { begin } = below
    const most = Math.min(below.end - begin, stop - at)
    let agreed = 1
    while (agreed < most && token[begin + agreed] === token[at + agreed]) agreed++
    at += agreed
    if (begin + agreed === below.end) {
      above = below
      continue
    }
    // They part within the run: its first tokens become a node of their own, in its place.
    const upper = node(begin, begin + agreed)
    below.begin = upper.end
    upper.children = new Map([[token[below.begin] as number, below]])
    above.children.set(first, upper)
    above = upper
  }
  above.ends.push(i)
}

/** The segments of a forest in depth-first order, as they are found. */
interface Segments {
  readonly length: number[]
  readonly parent: number[]
  /** where in the tokens of the sequences each begins */
  readonly source: number[]
  /** the segment that each sequence ends with */
  readonly end: Int32Array
}

/** Adds the segments of a trie. A run that is too short to be shared is written out before each of its children. */
function addSegments({ length, parent, source, end }: Segments, root: Node, minShared: number): void {
  // A stack of its own: a trie may be as deep as a sequence is long.
  const open = [{ trie: root, parentSegment: -1, carried: 0 }]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { trie, parentSegment, carried } = next
    const tokens = carried + trie.end - trie.begin
    const isApart = trie !== root && trie.children !== undefined && tokens < minShared
    if (!isApart || trie.ends.length > 0) {
      for (const i of trie.ends) end[i] = length.length
      length.push(tokens)
      parent.push(parentSegment)
      source.push(trie.end - tokens)
    }
    const below = isApart ? { parentSegment, carried: tokens } : { parentSegment: length.length - 1, carried: 0 }
    const children = [...(trie.children?.values() ?? [])]
    for (const child of children.reverse()) open.push({ trie: child, ...below })
  }
}

/**
 * The packed layout of token sequences by their common prefixes: whatever a sampler gave, what several sequences of a
 * group begin with is packed once.
 *
 * Each group is a tree, whose root is empty; below it stand the common prefixes of its sequences, each as one segment up
 * to where its sequences part or one of them ends. Nothing is shared across groups. Sequence i of the layout is the i-th
 * of the list, and all its tokens are loss tokens: a mask says which of them count. `row` of its first token is -1, since
 * nothing predicts it, so mask it. Equal sequences end with the same segment, one that is the beginning of another ends
 * within it, and an empty one ends with the root. Branches stand in the order of their first sequences.
 *
 * A shared run of fewer than `minShared` tokens is no segment: each of the branches that go on from it has it written out
 * at its front, and so has a sequence that ends there. Equal sequences are shared nevertheless.
 *
 * Its time grows with the number of tokens, however they are shared: each token is compared once, and looked up where a
 * branch begins. Tokens are compared, not hashes of them. The tree is found on the calling thread, also of
 * `grpo-kernels/promises`; a promise has the arrays of the layout computed on another.
 *
 * Accuracy: whole numbers, exact.
 *
 * @param sequences  a list of N sequences, or { token: i32[T], sequenceStart: i32[N+1] }, arrays of the host: of 32 or
 *             64 bits, or lists of numbers; any number of 32 bits is a token
 * @param options.groupStart  i32[G+1]  first sequence of each group; ends with N; default: one group
 * @param options.minShared  1: the fewest tokens that are worth a segment of their own
 * @returns the arrays of Layout (G = groups, N = sequences, T = all their tokens), pack(), and token i32[P]; `reuse` is T / P
 * @throws TypeError for what is no list of whole numbers; RangeError for numbers that 32 bits do not hold, offsets that do
 *         not rise from 0 to the end, 2^31 tokens or more, or a `minShared` below 1
 * @see Prefix Grouper, arXiv:2506.05433; trees: TreePO, arXiv:2508.17445
 * @example
 * import { tokenTree } from 'grpo-kernels'
 *
 * // Three rollouts of one prompt (11, 12): two agree for two more tokens.
 * const layout = tokenTree([
 *   [11, 12, 1, 2, 3],
 *   [11, 12, 1, 2, 4, 5],
 *   [11, 12, 6],
 * ])
 * console.log('token    ', layout.token.data.join(' '))
 * console.log('position ', layout.position.data.join(' '))
 * console.log('parent   ', layout.segmentParent.data.join(' '))
 * console.log('place    ', layout.place.data.join(' '))
 * console.log('reuse    ', layout.reuse)
 */
export const tokenTree = operation(
  (sequences: readonly HostIntegers[] | PackedSequences, options: TokenTreeOptions = {}): Call<TokenTree> => {
    const given = sequencesIn(sequences)
    const named = checkNames(name, options, ['groupStart', 'minShared', 'signal'], 'option') as TokenTreeOptions
    const { groupStart, minShared = 1, ...others } = named
    checkSignal(name, others)
    if (typeof minShared !== 'number') throw refuse('kind', 'minShared', `is ${describe(minShared)}, expected a number`)
    if (!Number.isSafeInteger(minShared) || minShared < 1) {
      throw refuse('option', 'minShared', `is ${minShared}, expected a whole number from 1`)
    }
    const N = given.start.length - 1
    const groups = offsetsIn('groupStart', groupStart ?? [0, N], N, 'N from sequences')

    const segments: Segments = { length: [], parent: [], source: [], end: new Int32Array(N) }
    for (let g = 0; g + 1 < groups.length; g++) {
      const root = node(0, 0)
      for (let i = groups[g] as number; i < (groups[g + 1] as number); i++) insert(root, i, given)
      addSegments(segments, root, minShared)
    }
    const length = Int32Array.from(segments.length)
    const P = length.reduce((sum, tokens) => sum + tokens, 0)
    const token = allocate(name, 'token', 'i32', [P])
    let place = 0
    segments.source.forEach((from, b) => {
      const to = from + (length[b] as number)
      token.data.set(given.token.subarray(from, to), place)
      place += to - from
    })
    const layout = layoutCall(array(length), array(Int32Array.from(segments.parent)), array(segments.end))
    return map(layout, (arrays) => ({ ...arrays, token }))
  },
)
