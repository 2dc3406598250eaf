// A tree that is given: every edge is a rollout of the batch and names the edge that it continues.
import { grpoError } from '../../addon/errors.js'
import type { Context } from '../step/context.js'
import { at } from './statistics.js'

/**
 * A tree whose edges are the rollouts of a batch, each group a tree with the prompt as its root. Rejected edges are in no
 * list: a node whose children are all rejected is a leaf.
 */
export interface EdgeTree {
  /** [N] 1 below the root */
  readonly depth: Int32Array
  /** [N] the edges that continue each */
  readonly children: readonly (readonly number[])[]
  /** [G] the edges that begin at each root */
  readonly roots: readonly (readonly number[])[]
}

/** The edge tree of a batch, from the edge that each rollout continues: an earlier one of its group, or -1. */
export function edgeTree(c: Context, parent: Int32Array): EdgeTree {
  const depth = new Int32Array(c.N)
  const children: number[][] = Array.from({ length: c.N }, () => [])
  const roots = c.groups.map(({ begin, end }) => {
    const first: number[] = []
    for (let i = begin; i < end; i++) {
      const above = parent[i] as number
      if (above !== -1 && (above < begin || above >= i)) {
        throw grpoError(
          'value',
          c.method,
          'parent',
          `has ${above} at ${i}, expected an earlier edge of its group, or -1`,
        )
      }
      depth[i] = above === -1 ? 1 : (depth[above] as number) + 1
      if (c.rolloutMask?.[i] !== 0) (above === -1 ? first : (children[above] as number[])).push(i)
    }
    return first
  })
  return { depth, children, roots }
}

/** [N] values of the nodes below the edges: a leaf's is its reward, an inner node's comes from those of its children. */
export function nodeValues(
  { children }: EdgeTree,
  rewards: ArrayLike<number>,
  inner: (values: readonly number[], children: readonly number[]) => number,
): Float64Array {
  const value = Float64Array.from(rewards)
  for (let i = value.length - 1; i >= 0; i--) {
    const below = children[i] as readonly number[]
    if (below.length > 0) value[i] = inner(at(value, below), below)
  }
  return value
}

/**
 * The edges behind the last split of their tree, each with the edge of that split that leads to it. A split is one of the
 * sampler: rejected edges are edges of it. A tree without a split, or whose last edges are those of one, has none.
 */
export function behindLastSplit(c: Context, parent: Int32Array): { edge: number; branch: number }[] {
  const { depth } = edgeTree(c, parent)
  const list: { edge: number; branch: number }[] = []
  for (const { begin, end } of c.groups) {
    const edges = new Map<number, number>()
    for (const above of parent.subarray(begin, end)) edges.set(above, (edges.get(above) ?? 0) + 1)
    let last = 0
    for (const [above, count] of edges)
      if (count > 1) last = Math.max(last, above === -1 ? 1 : (depth[above] as number) + 1)
    if (last === 0) continue
    for (let edge = begin; edge < end; edge++) {
      if ((depth[edge] as number) <= last) continue
      let branch = edge
      while (depth[branch] !== last) branch = parent[branch] as number
      list.push({ edge, branch })
    }
  }
  return list
}
