// Layouts in the contract's words: every sequence and every packed token spelled out, nothing clever.
import type { random } from '../support/random.js'

export interface Tree {
  length: number[]
  parent: number[]
}

/** The segments from a root to `segment`, both included. */
export function path({ parent }: Tree, segment: number): number[] {
  return segment < 0 ? [] : [...path({ length: [], parent }, parent[segment] as number), segment]
}

export function layoutReference(tree: Tree, end?: number[]) {
  const { length, parent } = tree
  const segmentStart = [0]
  for (const n of length) segmentStart.push((segmentStart.at(-1) as number) + n)
  const descends = (b: number, from: number) => path(tree, b).includes(from)
  const segmentEnd = length.map((_, b) => {
    let last = b
    while (last + 1 < length.length && descends(last + 1, b)) last++
    return last + 1
  })
  const position = length.flatMap((n, b) => {
    const before = path(tree, parent[b] as number).reduce((sum, a) => sum + (length[a] as number), 0)
    return Array.from({ length: n }, (_, j) => before + j)
  })
  const isLeaf = (b: number) => !parent.includes(b)
  const ends = end ?? length.map((_, b) => b).filter((b) => isLeaf(b) && parent[b] !== -1)
  const roots = parent.flatMap((p, b) => (p === -1 ? [b] : []))
  const groupStart = [
    0,
    ...roots.map((_, g) => ends.filter((e) => (path(tree, e)[0] as number) <= (roots[g] as number)).length),
  ]
  const sequenceStart = [0]
  const row: number[] = []
  const place: number[] = []
  for (const e of ends) {
    const segments = path(tree, e)
    const places = segments.flatMap((b) =>
      Array.from({ length: length[b] as number }, (_, j) => (segmentStart[b] as number) + j),
    )
    const prompt = length[segments[0] as number] as number
    for (let i = prompt; i < places.length; i++) {
      place.push(places[i] as number)
      row.push(i === 0 ? -1 : (places[i - 1] as number))
    }
    sequenceStart.push(place.length)
  }
  return { segmentStart, segmentParent: parent, segmentEnd, position, groupStart, sequenceStart, row, place }
}

/** Whether packed token p sees packed token j: j lies on p's path, at or before p, among its last `window` tokens. */
export function visibility(tree: Tree, window: number | null = null): boolean[][] {
  const { segmentStart, position } = layoutReference(tree)
  const near = (p: number, j: number) => window === null || (position[p] as number) - (position[j] as number) < window
  const segmentOf = tree.length.flatMap((n, b) => Array<number>(n).fill(b))
  return segmentOf.map((b, p) => {
    const ancestors = new Set(path(tree, b))
    return segmentOf.map(
      (a, j) => ancestors.has(a) && (a !== b || j <= p) && (segmentStart[a] as number) <= p && near(p, j),
    )
  })
}

/** A random forest in depth-first order, segments of 0 to `longest` tokens. */
export function randomForest(r: ReturnType<typeof random>, segments: number, longest: number): Tree {
  const tree: Tree = { length: [], parent: [] }
  for (let b = 0; b < segments; b++) {
    const choices = [-1, ...path(tree, b - 1)]
    tree.parent.push(b === 0 ? -1 : (choices[r.integer(choices.length)] as number))
    tree.length.push(r.integer(longest + 1))
  }
  return tree
}
