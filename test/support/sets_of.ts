// keptStart and kept of the operations that look at logits.

/** The two inputs, from the ids of each row. */
export function setsOf(lists: readonly (readonly number[])[]) {
  const keptStart = new Int32Array(lists.length + 1)
  lists.forEach((list, r) => {
    keptStart[r + 1] = (keptStart[r] as number) + list.length
  })
  return { keptStart, kept: Int32Array.from(lists.flat()) }
}
