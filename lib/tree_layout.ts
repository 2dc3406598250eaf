import { grpoError } from './addon/errors.js'
import { array, describe, type HostArray, typedArrayName } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { integersOf } from './arrays/integers.js'
import { type Call, call, chain, checkNames, checkSignal, map, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

/**
 * How the tokens of a forest of segments lie packed, each segment once: what attention, the loss and a model's forward
 * pass need to know. Axes: B segments, P packed tokens, G groups (one per root), N sequences, T loss tokens.
 */
export interface Layout {
  /** i32[B+1]  first packed token of each segment; ends with P */
  readonly segmentStart: HostArray<'i32'>
  /** i32[B]    the segment that it continues; -1 for a root */
  readonly segmentParent: HostArray<'i32'>
  /** i32[B]    first segment after its subtree */
  readonly segmentEnd: HostArray<'i32'>
  /** i32[P]    position id of each packed token; goes on from the parent */
  readonly position: HostArray<'i32'>
  /** i32[G+1]  first sequence of each root; ends with N */
  readonly groupStart: HostArray<'i32'>
  /** i32[N+1]  first loss token of each sequence; ends with T */
  readonly sequenceStart: HostArray<'i32'>
  /** i32[T]    packed place of the token before a loss token, whose logits predict it; -1 after an empty prefix */
  readonly row: HostArray<'i32'>
  /** i32[T]    packed place of each loss token */
  readonly place: HostArray<'i32'>
  /**
   * How many times as many tokens all sequences have, their prompts included, when each is written out by itself: the sum
   * over the sequences, over P; 1 where P is 0
   */
  readonly reuse: number
  /** The packed tokens, i32[P], of the B segments' own tokens, in the order of the segments. */
  pack(segments: readonly Int32Array[]): HostArray<'i32'>
}

/** A forest of B segments in depth-first order. */
export interface Forest {
  /** tokens of each segment; 0 is allowed */
  length: readonly number[] | Int32Array | BigInt64Array
  /** the segment that each continues, -1 for a root */
  parent: readonly number[] | Int32Array | BigInt64Array
  /** the segment that each sequence ends with, in the order of the roots; default: every leaf that is not a root */
  end?: readonly number[] | Int32Array | BigInt64Array | undefined
}

type Options = Pick<CallOptions, 'signal'>

// Lists of numbers, of which the row's arrays are made.
type Lists = { -readonly [Name in keyof Forest]: ArrayInput<'i32'> }
export const matches: Matches<'treeLayout', Lists, Options> = true

/** A list of whole numbers, from `least` on, as an i32 array. */
export function integers(operation: string, name: string, given: unknown, least = -(2 ** 31)): HostArray<'i32'> {
  const list = integersOf(operation, name, given)?.data ?? (given as Int32Array)
  if (typedArrayName(list) !== 'Int32Array') {
    throw grpoError('kind', operation, name, `is ${describe(list)}, expected a list of numbers`)
  }
  const low = list.findIndex((value) => value < least)
  if (low < 0) return array(list)
  throw grpoError('value', operation, name, `has ${list[low]} at ${low}, expected at least ${least}`)
}

function pack(segmentStart: Int32Array, segments: readonly Int32Array[]): HostArray<'i32'> {
  const count = segmentStart.length - 1
  if (!Array.isArray(segments) || segments.length !== count) {
    throw grpoError('shape', 'pack', 'segments', `is ${describe(segments)}, expected a list of ${count} Int32Arrays`)
  }
  const packed = new Int32Array(segmentStart[count] as number)
  segments.forEach((tokens, b) => {
    const length = (segmentStart[b + 1] as number) - (segmentStart[b] as number)
    if (typedArrayName(tokens) !== 'Int32Array') {
      throw grpoError('dtype', 'pack', 'segments', `has ${describe(tokens)} at ${b}, expected an Int32Array`)
    }
    if (tokens.length !== length) {
      throw grpoError(
        'shape',
        'pack',
        'segments',
        `has ${tokens.length} tokens at ${b}, expected ${length} as in the layout`,
      )
    }
    packed.set(tokens, segmentStart[b])
  })
  return array(packed)
}

/** Tokens of all sequences, each with its prompt, over those that are packed. */
function reuseOf(length: Int32Array, parent: Int32Array, groupStart: Int32Array, P: number, T: number): number {
  let tokens = T
  let g = 0
  parent.forEach((above, b) => {
    if (above !== -1) return
    tokens += (length[b] as number) * ((groupStart[g + 1] as number) - (groupStart[g] as number))
    g++
  })
  return P === 0 ? 1 : tokens / P
}

/** The layout of a forest whose lists have been looked at; names in errors are those of treeLayout. */
export function layoutCall(
  length: HostArray<'i32'>,
  segmentParent: HostArray<'i32'>,
  end?: HostArray<'i32'>,
): Call<Layout> {
  const inputs = { length, parent: segmentParent, end }
  const none = {
    segmentStart: null,
    segmentEnd: null,
    position: null,
    groupStart: null,
    sequenceStart: null,
    row: null,
    place: null,
  }
  const full = chain(call('treeLayout', inputs, { out: none }), ({ sizes }) => {
    const [P = 0, N = 0, T = 0, G = 0] = sizes.data
    return call('treeLayout', inputs, { out: { sizes: null } }, { P, N, T, G })
  })
  return map(full, ({ segmentStart, segmentEnd, position, groupStart, sequenceStart, row, place }) => ({
    segmentStart,
    segmentParent,
    segmentEnd,
    position,
    groupStart,
    sequenceStart,
    row,
    place,
    reuse: reuseOf(length.data, segmentParent.data, groupStart.data, position.data.length, place.data.length),
    pack: (segments) => pack(segmentStart.data, segments),
  }))
}

/**
 * The packed layout of token trees: rollouts that share prefixes at any depth, each segment packed once.
 *
 * Sequence i is the path below a root to segment end[i]; its loss tokens are all tokens on that path, so a token of an
 * inner segment counts once for each sequence through it. Equal rollouts name one segment twice. By default there is a
 * sequence for each leaf, in order; a root without children is a prompt without responses and has none.
 * Attention over a layout without children is ordinary packed causal attention.
 *
 * Accuracy: whole numbers, exact.
 *
 * @param forest.length  B sizes of segments in depth-first order: a segment follows its parent or its parent's subtree
 * @param forest.parent  B parents, -1 for roots
 * @param forest.end     N segments, in the order of their roots
 * @returns the arrays of Layout, and pack()
 * @throws RangeError if the segments are not in depth-first order, a length is negative, `end` names no segment or goes
 *         back to an earlier root, or P or T reaches 2^31
 * @see Prefix Grouper, arXiv:2506.05433; trees: TreePO, arXiv:2508.17445
 * @example
 * import { treeLayout } from 'grpo-kernels'
 *
 * // A prompt of 3 tokens, a thought of 2 that two answers share, and one of 1 with an answer of its own.
 * const layout = treeLayout({ length: [3, 2, 1, 2, 1, 2], parent: [-1, 0, 1, 1, 0, 4] })
 * console.log('position     ', layout.position.data.join(' '))
 * console.log('sequenceStart', layout.sequenceStart.data.join(' '))
 * console.log('place        ', layout.place.data.join(' '))
 * console.log('row          ', layout.row.data.join(' '))
 */
export const treeLayout = operation((forest: Forest, options: Options = {}): Call<Layout> => {
  const name = 'treeLayout'
  checkNames(name, forest, ['length', 'parent', 'end'], 'input')
  checkSignal(name, options)
  const { length, parent, end } = forest
  return layoutCall(
    integers(name, 'length', length),
    integers(name, 'parent', parent),
    (end ?? undefined) === undefined ? undefined : integers(name, 'end', end),
  )
})
