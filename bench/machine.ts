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

/** What all threads do together in a millisecond, the best of `rounds`. `once` does a piece of it, after `prepare`. */
async function rateOf(prepare: string, once: string, rounds = 5): Promise<number> {
  const program = `
    const { parentPort } = require('node:worker_threads')
    ${prepare}
    parentPort.on('message', (milliseconds) => {
      let done = 0
      const start = performance.now()
      while (performance.now() - start < milliseconds) { ${once}; done++ }
      parentPort.postMessage(done / (performance.now() - start))
    })
    parentPort.postMessage(0)`
  const answer = (worker: Worker) =>
    new Promise<number>((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const workers = Array.from({ length: cpu.threads }, () => new Worker(program, { eval: true }))
  await Promise.all(workers.map(answer))
  let rate = 0
  for (let round = 0; round < rounds; round++) {
    const answers = Promise.all(workers.map(answer))
    for (const worker of workers) worker.postMessage(150)
    rate = Math.max(
      rate,
      (await answers).reduce((sum, x) => sum + x, 0),
    )
  }
  await Promise.all(workers.map((worker) => worker.terminate()))
  return rate
}

// Larger than the caches. TypedArray.set is the C library's memmove, which writes past the caches at this size.
const copyBytes = 128 * 2 ** 20

/** GB/s, bytes read plus bytes written, of all threads copying at once. */
export async function copyRate(): Promise<Rate> {
  const array = (value: number) => `new Float64Array(${copyBytes / 8}).fill(${value})`
  const rate = (2 * copyBytes * (await rateOf(`const from = ${array(1)}, to = ${array(2)}`, 'to.set(from)'))) / 1e6
  return { rate, how: `TypedArray.set of ${copyBytes / 2 ** 20} MiB on ${cpu.threads} threads, read + written` }
}

const exponentials = 2 ** 14

/**
 * Thousands of millions of exponentials per second, of all threads, on numbers in the cache: those of the engine, one at a
 * time. A measure of the machine that no kernel of this package takes part in; vector code is some times as fast.
 */
export async function exponentialRates(): Promise<Record<string, Rate>> {
  const wide = `const x = Float32Array.from({ length: ${exponentials} }, (_, i) => -i / 1000), y = new Float32Array(x.length)`
  const narrow = `${wide}
    const bits = new Uint32Array(x.buffer), halves = Uint16Array.from(bits, (word) => word >>> 16)
    const whole = new Uint32Array(1), float = new Float32Array(whole.buffer)`
  const each = (value: string) => `for (let i = 0; i < ${exponentials}; i++) { ${value} }`
  const rate = async (prepare: string, once: string): Promise<Rate> => ({
    rate: (exponentials * (await rateOf(prepare, once))) / 1e6,
    how: `Math.exp of ${exponentials} numbers on ${cpu.threads} threads`,
  })
  return {
    f32: await rate(wide, each('y[i] = Math.exp(x[i])')),
    bf16: await rate(narrow, each('whole[0] = halves[i] << 16; y[i] = Math.exp(float[0])')),
  }
}

/** The largest of what was seen; nobody outside of a kernel library can multiply at full speed in JavaScript. */
export const fastest = (rates: readonly Rate[]): Rate | undefined =>
  rates.reduce<Rate | undefined>((best, x) => (best === undefined || x.rate > best.rate ? x : best), undefined)
