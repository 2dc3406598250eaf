import { type Context, origin } from '../step/context.js'

interface Kept {
  readonly mask: Uint8Array | undefined
  readonly x: Float32Array | Uint8Array
}
const kept = new WeakMap<Context, Map<string, Kept>>()

/**
 * What the columns of a batch and its mask decide, computed for the first update and kept for those after it. Nothing that
 * reads the current policy may go through here. Every caller gets a copy: it becomes part of a result, which belongs to
 * the user.
 *
 * @param name  of what is computed, with all options that it depends on
 */
export function oncePerBatch<X extends Float32Array | Uint8Array>(c: Context, name: string, compute: () => X): X {
  const batch = origin(c)
  const all = kept.get(batch) ?? new Map<string, Kept>()
  kept.set(batch, all)
  const before = all.get(name)
  if (before !== undefined && before.mask === c.mask) return before.x.slice() as X
  const x = compute()
  all.set(name, { mask: c.mask, x })
  return x.slice() as X
}

/** The same for what reads oldLogp: in a batch without it the current policy stands in its place. */
export const oncePerSample = <X extends Float32Array | Uint8Array>(c: Context, name: string, compute: () => X): X =>
  c.has('oldLogp') ? oncePerBatch(c, name, compute) : compute()
