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

/** Work that runs `limit` at a time; the rest waits, in the order that it came. A signal takes waiting work out. */
export function turns(limit: number): <T>(signal: AbortSignal | undefined, work: () => Promise<T>) => Promise<T> {
  let running = 0
  const waiting: (() => void)[] = []

  const enter = (signal: AbortSignal | undefined): Promise<void> => {
    if (running < limit) {
      running++
      return Promise.resolve()
    }
    return new Promise((resolve, reject) => {
      const go = () => {
        stay()
        resolve()
      }
      const stay = onAbort(signal, () => {
        stay()
        waiting.splice(waiting.indexOf(go), 1)
        reject(signal?.reason)
      })
      waiting.push(go)
    })
  }

  const leave = () => {
    const next = waiting.shift()
    if (next !== undefined) next()
    else running--
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
