// Who may use a thread of libuv's pool, and what an AbortSignal stops.

// One listener per signal, however many calls it stops: from the eleventh on Node would warn of a leak.
const stops = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls `stop` when the signal aborts; returns the function that takes it back. */
export function onAbort(signal: AbortSignal | undefined, stop: () => void): () => void {
  if (signal === undefined) return () => undefined
  let all = stops.get(signal)
  if (all === undefined) {
    const added = new Set<() => void>()
    signal.addEventListener('abort', () => {
      for (const one of [...added]) one()
    })
    stops.set(signal, added)
    all = added
  }
  all.add(stop)
  return () => all.delete(stop)
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason
}

/** Work that waits, in the order that it came: what comes next, and what was before, each found in one step. */
interface Waiting {
  readonly go: () => void
  before: Waiting | undefined
  next: Waiting | undefined
}

/** Work that runs `limit` at a time; the rest waits, in the order that it came. A signal takes waiting work out. */
export function turns(limit: number): <T>(signal: AbortSignal | undefined, work: () => Promise<T>) => Promise<T> {
  let running = 0
  // A list of links: one signal may take 100,000 waiting calls out at once, and a search for each would stop the loop.
  let first: Waiting | undefined
  let last: Waiting | undefined

  const append = (go: () => void): Waiting => {
    const one: Waiting = { go, before: last, next: undefined }
    if (last === undefined) first = one
    else last.next = one
    last = one
    return one
  }

  const remove = ({ before, next }: Waiting) => {
    if (before === undefined) first = next
    else before.next = next
    if (next === undefined) last = before
    else next.before = before
  }

  const enter = (signal: AbortSignal | undefined): Promise<void> => {
    if (running < limit) {
      running++
      return Promise.resolve()
    }
    return new Promise((resolve, reject) => {
      const one = append(() => {
        stay()
        resolve()
      })
      const stay = onAbort(signal, () => {
        stay()
        remove(one)
        reject(signal?.reason)
      })
    })
  }

  const leave = () => {
    const one = first
    if (one === undefined) running--
    else {
      remove(one)
      one.go()
    }
  }

  return async (signal, work) => {
    throwIfAborted(signal)
    await enter(signal)
    try {
      throwIfAborted(signal)
      return await work()
    } finally {
      leave()
    }
  }
}

// libuv's pool has four threads. Calls of the CPU take two (each uses all cores anyway), waiting for a GPU takes one, so
// that one is left for files and name look-ups.
export const onHost = turns(2)
export const waitingForDevice = turns(1)
