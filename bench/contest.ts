// One case: who takes part, whether all compute the same, and how long each takes.
import { bytesOf } from '../lib/call/run.js'
import { secondsOnDevice } from '../lib/command/timing.js'
import type { Arrays, Case, Outputs, Work } from './cases.js'
import { difference, type Fingerprint, fingerprints } from './fingerprint.js'
import { gpuName } from './gpu.js'
import { type Contender, measure, plan, quantile, warmUp } from './measure.js'
import type { Peer, Prepared } from './peers/peer.js'
import type { CaseResult, Row } from './results.js'

// Seconds of timing per case, and the longest call of a peer that the run waits for.
const budget = 2
const longestCall = 10

const ours = 'grpo-kernels'
type Prints = Record<string, Fingerprint>

interface Entrant extends Contender {
  row: Omit<Row, 'name' | 'median' | 'p10' | 'p90' | 'samples' | 'times'>
  /** Seconds of one call, about. */
  warm: number
  dispose?(): void
}

const dtypeOf = (inputs: Arrays) => (Object.values(inputs).some(({ dtype }) => dtype === 'bf16') ? 'bf16' : 'f32')
const bytesOfOutputs = (outputs: Outputs) =>
  bytesOf(Object.fromEntries(Object.entries(outputs).filter(([, x]) => typeof x === 'object' && x !== null)))

/** This package's ways of doing the work, checked against the first; and what the peers' results are compared with. */
async function ourEntrants(work: Work): Promise<{ entrants: Entrant[]; expected: Prints }> {
  const entrants: Entrant[] = []
  let first: Prints = {}
  let expected: Prints = {}
  for (const [i, { name, run, before, comparable, ...variant }] of work.variants.entries()) {
    before?.()
    const outputs = run()
    const prints = fingerprints(comparable?.(outputs) ?? outputs)
    if (i === 0) first = prints
    if (i === (work.peers?.variant ?? 0)) expected = comparable === undefined ? prints : fingerprints(outputs)
    const flops = variant.flops ?? work.flops
    const contender = { name: name === '' ? ours : `${ours}, ${name}`, run: () => void run(), before }
    entrants.push({
      ...contender,
      warm: await warmUp(contender),
      row: {
        ours: true,
        gigabytes: (bytesOf(variant.inputs ?? work.inputs) + bytesOfOutputs(outputs)) / 1e9,
        gigaflop: flops && flops / 1e9,
        gigaexponentials: work.exponentials && work.exponentials / 1e9,
        difference: difference(first, prints, dtypeOf(work.inputs)),
      },
    })
  }
  return { entrants, expected }
}

/** This package on a GPU, if the work can be done there and there is one. */
export async function gpuEntrants({ gpu, inputs }: Work, expected: Prints): Promise<Entrant[]> {
  const device = gpuName()
  if (gpu === undefined || device === undefined) return []
  const { run, results, dispose } = gpu.prepare()
  const outputs = results()
  const contender = { name: `${ours}, ${device}`, run: () => secondsOnDevice(0, run) }
  const gigabytes = (bytesOf(inputs) + bytesOfOutputs(outputs)) / 1e9
  const row = {
    ours: true,
    gpu: device,
    gigabytes,
    difference: difference(expected, fingerprints(outputs), dtypeOf(inputs)),
  }
  return [{ ...contender, warm: await warmUp(contender), dispose, row }]
}

/** Why a peer takes no part, as far as that is known beforehand. */
function reasonAgainst(peer: Peer, operation: string, inputs: Arrays, flops: number): string | undefined {
  const seconds = flops / 1e9 / peer.gflops
  if (seconds > longestCall)
    return `${Math.round(flops / 1e9)} GFLOP would take ${Math.round(seconds)} s at its ${peer.gflops.toPrecision(2)} GFLOP/s`
  if (!peer.bf16 && dtypeOf(inputs) === 'bf16') return 'it has no bf16'
  if (peer.ways(operation).length === 0) return peer.reasons[operation] ?? 'it has nothing for this'
  return undefined
}

async function peerEntrants(
  one: Case,
  work: Work,
  expected: Prints,
  peers: readonly Peer[],
  say: (what: string) => void,
) {
  const { inputs, flops = 0 } = work.peers ?? work
  const entrants: Entrant[] = []
  const skipped: CaseResult['skipped'] = []
  for (const peer of work.peers === null ? [] : peers) {
    const reason = reasonAgainst(peer, one.operation, inputs, flops)
    if (reason !== undefined) {
      skipped.push({ name: peer.name, reason })
      continue
    }
    for (const way of peer.ways(one.operation)) {
      const name = way === '' ? peer.name : `${peer.name}, ${way}`
      say(`${name} warms up`)
      try {
        const { run: once, results, dispose } = await peer.prepare(one.operation, way, inputs, work.numbers ?? {})
        const run = repeated(once, work.numbers?.calls ?? 1)
        const warm = await warmUp({ name, run })
        const row = { ours: false, difference: difference(expected, await results(), dtypeOf(inputs)) }
        entrants.push({ name, run, dispose, warm, row })
      } catch (error) {
        skipped.push({ name, reason: (error as Error).message.split('\n')[0] as string })
      }
    }
  }
  return { entrants, skipped }
}

/** As often as a variant of ours calls within one run; seconds that a peer tells of itself are added up. */
function repeated(once: Prepared['run'], times: number): Prepared['run'] {
  if (times === 1) return once
  return async () => {
    let told: number | undefined
    for (let i = 0; i < times; i++) {
      const seconds = await once()
      if (typeof seconds === 'number') told = (told ?? 0) + seconds
    }
    return told as number
  }
}

export async function runCase(one: Case, peers: readonly Peer[], say: (what: string) => void): Promise<CaseResult> {
  say('inputs')
  const work = await one.prepare()
  const { entrants: our, expected } = await ourEntrants(work)
  const onGpu = await gpuEntrants(work, expected)
  const { entrants: theirs, skipped } = await peerEntrants(one, work, expected, peers, say)
  const entrants = [...our, ...onGpu, ...theirs]
  const seconds = entrants.map(({ warm }) => warm)
  const counts = plan(seconds, our.length, budget)
  const samples = await measure(`${one.operation}, ${one.size}`, entrants, seconds, counts, (name, done, all) =>
    say(`${name} ${Math.round((100 * done) / all)}%`),
  )
  for (const { dispose } of entrants) dispose?.()

  // A long call was timed as it warmed up, and not again.
  const timesOf = (i: number) => (samples[i]!.length > 0 ? samples[i]! : [seconds[i]!])
  const fastest = quantile(timesOf(0), 0.5)
  const rows = entrants.map(({ name, row }, i): Row => {
    const times = timesOf(i)
    const median = quantile(times, 0.5)
    const spread = { median, p10: quantile(times, 0.1), p90: quantile(times, 0.9) }
    return { name, ...row, ...spread, samples: times.length, times: median / fastest }
  })
  return {
    operation: one.operation,
    size: one.size,
    dtype: dtypeOf(work.inputs),
    rows,
    skipped,
    notes: work.notes ?? [],
  }
}
