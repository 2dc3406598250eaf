// Interleaved timing on top of benny. One suite per case; its entries are single calls, in rounds: ours, a peer, the next
// peer, ours again, so that whatever else the machine does falls on all of them alike. Before each call the caches are
// filled with something else.
import { add, suite } from 'benny'

export interface Contender {
  name: string
  /** A number, or a promise of one, is the contender's own measure, in seconds. */
  run(): unknown
  /** Runs before every call, and is not timed. */
  before?(): void
}

// One call is one sample: benny's own way, many calls in a row, would find everything in the caches. maxTime is below
// zero because benchmark.js goes on while its clock of milliseconds still says 0.
const onceOnly = { initCount: 1, minSamples: 1, maxTime: -1, minTime: 1e-9, delay: 0 }
const mostSamples = 21
const leastSamples = 3
// A call that takes longer is timed once, as it warms up.
const longCall = 2

// Twice the last-level cache of most servers. Longer calls replace the caches' contents by themselves.
const other = new Float64Array((64 * 2 ** 20) / 8)
const flushBelowSeconds = 0.05

/** Runs a contender until it is warm; returns the seconds of one call. */
export async function warmUp({ run, before }: Contender): Promise<number> {
  const once = async () => {
    before?.()
    const start = performance.now()
    const own = await run()
    return typeof own === 'number' ? own : (performance.now() - start) / 1e3
  }
  const first = await once()
  return first > 1 ? first : Math.min(await once(), await once())
}

/** How many samples of each fit into the time. Ours, the first ones, get twice the share of the others. */
export function plan(seconds: readonly number[], ours: number, budget: number): number[] {
  const share = budget / (seconds.length + ours)
  return seconds.map((duration, i) => {
    const fit = Math.floor(((i < ours ? 2 : 1) * share) / duration)
    return duration > longCall ? 0 : Math.min(mostSamples, Math.max(fit, duration > 1 ? 1 : leastSamples))
  })
}

/**
 * Times contenders in turns and returns the seconds of each call.
 *
 * @param seconds  what one call of each takes, about
 * @param counts   how many samples of each, from `plan`; spread evenly over the rounds
 */
export async function measure(
  title: string,
  contenders: readonly Contender[],
  seconds: readonly number[],
  counts: readonly number[],
  progress: (name: string, done: number, all: number) => void,
): Promise<number[][]> {
  const samples = contenders.map((): number[] => [])
  const entries: ReturnType<typeof add>[] = []
  const owners: (number | undefined)[] = []
  // benny calls every function while it builds the suite, to see what it returns; nothing may run then.
  let running = false
  let failure: unknown
  // To benny everything is a promise: a plain function it would call once more, untimed, right before the timed call.
  const enter = (owner: number | undefined, call: () => unknown) => {
    const guarded = async () => {
      if (!running || failure !== undefined) return
      try {
        const own = await call()
        if (typeof own === 'number' && owner !== undefined) samples[owner]!.push(own)
      } catch (error) {
        failure = error
      }
    }
    entries.push(add(`${owners.length}`, () => guarded, onceOnly))
    owners.push(owner)
  }

  const rounds = Math.max(...counts)
  if (rounds === 0) return samples // benny never ends without an entry
  for (let round = 0; round < rounds; round++) {
    contenders.forEach(({ name, run, before }, i) => {
      const from = Math.floor((round * counts[i]!) / rounds)
      const to = Math.floor(((round + 1) * counts[i]!) / rounds)
      if (from === to) return
      const done = owners.length
      enter(undefined, () => {
        progress(name, done, owners.length)
        before?.()
        if (seconds[i]! < flushBelowSeconds) other.fill(round)
      })
      enter(i, run)
    })
  }
  const start = async () => (benchmark: { on(event: string, call: () => void): unknown }) =>
    benchmark.on('start', () => {
      running = true
    })
  const summary = await suite(title, ...entries, start)
  if (failure !== undefined) throw failure
  const measuresItself = samples.map((own) => own.length > 0)
  summary.results.forEach(({ details }, entry) => {
    const owner = owners[entry]
    if (owner !== undefined && !measuresItself[owner]) samples[owner]!.push(...details.sampleResults)
  })
  return samples
}

export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)]!
  return low + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - low)
}
