// The peers' side: the other end of torch_peer.py, one Python process for all cases.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { cpu } from '../../lib/index.js'
import type { Fingerprint } from '../fingerprint.js'
import type { Rate } from '../machine.js'
import type { Peer } from './peer.js'

export interface PyTorch extends Peer {
  python: string
  /** How fast this machine multiplies, as far as PyTorch and NumPy can tell. */
  multiplyRates(): Promise<{ f32: Rate[]; bf16: Rate[] }>
}

/** The first Python that has PyTorch: $PYTHON, python3, /usr/bin/python3. */
function findPython(): string | undefined {
  const candidates = [process.env.PYTHON, 'python3', '/usr/bin/python3']
  return candidates.find((python) => {
    try {
      if (python) execFileSync(python, ['-c', 'import numpy, torch'], { stdio: 'ignore' })
      return Boolean(python)
    } catch {
      return false
    }
  })
}

/** Undefined if no Python has PyTorch. */
export async function pytorch(): Promise<PyTorch | undefined> {
  const python = findPython()
  if (python === undefined) return undefined
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-bench-'))
  const child = spawn(python, [join(__dirname, 'torch_peer.py')], { stdio: ['pipe', 'pipe', 'ignore'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const ask = async <Answer>(request: string, more: object = {}): Promise<Answer> => {
    child.stdin.write(`${JSON.stringify({ request, ...more })}\n`)
    const { value, done } = await lines.next()
    if (done) throw new Error('the Python process ended')
    const answer = JSON.parse(value) as Answer & { error?: string }
    if (answer.error !== undefined) throw new Error(answer.error)
    return answer
  }
  child.stdin.on('error', () => {}) // The process has ended; `ask` says so.

  const hello = await ask<{
    version: string
    numpy: string
    threads: number
    blas: string
    gflops: number
    ways: Record<string, string[]>
  }>('hello', { threads: cpu.threads })
  const details = [hello.version, `${hello.threads} threads`, hello.blas].filter(Boolean)
  let prepared = 0
  return {
    name: 'PyTorch',
    python,
    version: details.join(', '),
    gflops: hello.gflops,
    bf16: true,
    reasons: {},
    ways: (operation) => hello.ways[operation] ?? [],
    async prepare(operation, way, inputs, numbers) {
      const id = prepared++
      const specs = Object.entries(inputs).map(([name, { dtype, shape, data }]) => {
        const path = join(folder, name)
        writeFileSync(path, data)
        return [name, { path, dtype, shape }]
      })
      await ask('prepare', { id, operation, way, inputs: Object.fromEntries(specs), numbers })
      return {
        run: async () => (await ask<{ seconds: number }>('run', { id })).seconds,
        results: () => ask<Record<string, Fingerprint>>('results', { id }),
        dispose: () => void ask('dispose', { id }),
      }
    },
    async multiplyRates() {
      const { f32, bf16, numpy } = await ask<{ f32: number; bf16: number; numpy: number }>('multiply')
      const size = '1024 x 1024 x 1024'
      return {
        f32: [
          { rate: f32, how: `PyTorch ${hello.version}, ${size}` },
          { rate: numpy, how: `NumPy ${hello.numpy}, ${size}` },
        ],
        bf16: [{ rate: bf16, how: `PyTorch ${hello.version}, ${size}` }],
      }
    },
    close() {
      child.stdin.end()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
