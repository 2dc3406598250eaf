// Token trees in the contract's words, by slices and comparisons: nothing is linear in anything here.
import type { Tree } from './forest.js'

export interface Forest extends Tree {
  /** the segment that each sequence ends with */
  end: number[]
  /** the packed tokens */
  token: number[]
}

/** Of each group an empty root, and below it the common prefixes of its sequences. */
export function tokenTreeReference(groups: number[][][], minShared = 1): Forest {
  const forest: Forest = { length: [], parent: [], end: [], token: [] }
  const add = (tokens: number[], parent: number) => {
    forest.token.push(...tokens)
    forest.length.push(tokens.length)
    return forest.parent.push(parent) - 1
  }
  /** Sequences that agree in their first `depth` tokens, of which those from `from` on stand in no segment yet. */
  function grow(members: { i: number; tokens: number[] }[], from: number, depth: number, parent: number): void {
    const [first] = members
    if (first === undefined) return
    const agree = (t: number) => members.every(({ tokens }) => t < tokens.length && tokens[t] === first.tokens[t])
    let stop = depth
    while (agree(stop)) stop++
    const ended = members.filter(({ tokens }) => tokens.length === stop)
    const going = members.filter(({ tokens }) => tokens.length > stop)
    const run = first.tokens.slice(from, stop)
    const isApart = going.length > 0 && run.length < minShared
    const b = isApart ? parent : add(run, parent)
    if (ended.length > 0) {
      const last = isApart ? add(run, parent) : b
      for (const { i } of ended) forest.end[i] = last
    }
    for (const next of new Set(going.map(({ tokens }) => tokens[stop]))) {
      const branch = going.filter(({ tokens }) => tokens[stop] === next)
      grow(branch, isApart ? from : stop, stop + 1, b)
    }
  }
  let i = 0
  for (const group of groups) {
    const root = add([], -1)
    const members = group.map((tokens) => ({ i: i++, tokens }))
    for (const { i } of members.filter(({ tokens }) => tokens.length === 0)) forest.end[i] = root
    for (const next of new Set(members.flatMap(({ tokens }) => tokens.slice(0, 1)))) {
      const branch = members.filter(({ tokens }) => tokens[0] === next)
      grow(branch, 0, 1, root)
    }
  }
  return forest
}
