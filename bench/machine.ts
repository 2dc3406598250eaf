// The machine: what it is, and how fast it copies and multiplies, to say what share of that an operation reaches.
import { execFileSync } from 'node:child_process'
import { cpus, loadavg } from 'node:os'
import { Worker } from 'node:worker_threads'
import { cpu } from '../lib/index.js'

export interface Machine {
  cpu: string
  cores: number
  threads: number
  instructionSet: string
  node: string
  date: string
  commit: string
  /** Load average of the last minute before the run: above 1, other work was running. */
  load: number
}

export interface Rate {
  /** GB/s or GFLOP/s. */
  rate: number
  how: string
}

function commit(): string {
  try {
    const git = (...parameters: string[]) =>
      execFileSync('git', parameters, { cwd: __dirname, encoding: 'utf8' }).trim()
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '-uno') === '' ? '' : ' and changes')
  } catch {
    return 'unknown'
  }
}

export const describeMachine = (): Machine => ({
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  cores: cpus().length,
  threads: cpu.threads,
  instructionSet: cpu.instructionSet,
  node: process.version,
  date: new Date().toISOString(),
  commit: commit(),
  load: Math.round((loadavg()[0] ?? 0) * 100) / 100,
})

// Larger than the caches. TypedArray.set is the C library's memmove, which writes past the caches at this size.
const copyBytes = 128 * 2 ** 20
const copier = `
  const { parentPort } = require('node:worker_threads')
  const from = new Float64Array(${copyBytes / 8}).fill(1)
  const to = new Float64Array(${copyBytes / 8}).fill(2)
  parentPort.on('message', (milliseconds) => {
    let copies = 0
    const start = performance.now()
    while (performance.now() - start < milliseconds) to.set(from), copies++
    parentPort.postMessage(copies / (performance.now() - start))
  })
  parentPort.postMessage(0)`

/** GB/s, bytes read plus bytes written, of all threads copying at once: the best of `rounds`. */
export async function copyRate(rounds = 5): Promise<Rate> {
  const answer = (worker: Worker) =>
    new Promise<number>((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const workers = Array.from({ length: cpu.threads }, () => new Worker(copier, { eval: true }))
  await Promise.all(workers.map(answer))
  let rate = 0
  for (let round = 0; round < rounds; round++) {
    const answers = Promise.all(workers.map(answer))
    for (const worker of workers) worker.postMessage(150)
    const copiesPerMillisecond = (await answers).reduce((sum, x) => sum + x, 0)
    rate = Math.max(rate, (2 * copyBytes * copiesPerMillisecond) / 1e6)
  }
  await Promise.all(workers.map((worker) => worker.terminate()))
  return { rate, how: `TypedArray.set of ${copyBytes / 2 ** 20} MiB on ${cpu.threads} threads, read + written` }
}

/** The largest of what was seen; nobody outside of a kernel library can multiply at full speed in JavaScript. */
export const fastest = (rates: readonly Rate[]): Rate | undefined =>
  rates.reduce<Rate | undefined>((best, x) => (best === undefined || x.rate > best.rate ? x : best), undefined)
