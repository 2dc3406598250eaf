// What the comment above a kernel says of its block and its shared memory (the table in cuda/README.md) against what it
// is launched with. The interpreter writes that down (GRPO_SIMT_LAUNCHES).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { operationNames, signatures } from '../../lib/addon/signatures.js'
import { array } from '../../lib/arrays/array.js'
import type { OperationName } from '../../lib/ops.js'
import { type Kernel, kernels } from '../docs/cuda.js'
import { call } from '../support/backend.js'
import { backend } from '../support/backend_kind.js'
import { sample } from '../support/samples.js'

const folder = mkdtempSync(join(tmpdir(), 'launches-'))
const path = join(folder, 'launches.txt')
afterAll(() => rmSync(folder, { recursive: true }))

interface Launched {
  kernel: Kernel
  threads: number
  shared: number
}

const all = kernels()

/** The kernel that begins at the line of its name, or a little above. */
function kernelAt(place: string): Kernel {
  const [file, line] = place.split(':')
  const before = all.filter((kernel) => basename(kernel.file) === file && kernel.line <= Number(line))
  const last = before.sort((a, b) => a.line - b.line).at(-1)
  if (last === undefined) throw new Error(`${place} is no kernel`)
  return last
}

function launched(): Launched[] {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  return lines.map((line) => {
    const [place = '', threads, shared] = line.split(' ')
    return { kernel: kernelAt(place), threads: Number(threads), shared: Number(shared) }
  })
}

const numbers = (text: string) => [...text.matchAll(/\d[\d,]*/g)].map(([digits]) => Number(digits.replaceAll(',', '')))

/** "64, 256 or 512" are these alone; "61,952 to 88,064" and "76,704 or less" what lies between. */
function allows(text: string, value: number): boolean {
  const [first = 0, ...others] = numbers(text)
  if (/\d or less/.test(text)) return value <= first
  if (/\d to \d/.test(text)) return value >= first && value <= (others[0] as number)
  return [first, ...others].includes(value)
}

describe.runIf(backend === 'simt')('every launch of the samples', () => {
  const names = operationNames.filter((name) => signatures[name].inputs.length > 0)
  const dtypes = (name: OperationName) => signatures[name].inputs.find((spec) => spec.dtypes.length > 1)?.dtypes

  test('has the block and the shared memory that the comment above its kernel says', () => {
    process.env.GRPO_SIMT_LAUNCHES = path
    for (const name of names)
      for (const dtype of dtypes(name) ?? (['f32'] as const)) {
        const { inputs, options, sizes } = sample(name, dtype)
        call(name, inputs as never, options as never, sizes).now()
      }
    delete process.env.GRPO_SIMT_LAUNCHES
    const seen = launched()
    const wrong = seen.filter(
      ({ kernel: { stated }, threads, shared }) => !allows(stated.Block, threads) || !allows(stated.Shared, shared),
    )
    expect(wrong.map(({ kernel, ...found }) => ({ ...kernel, ...found }))).toEqual([])
    expect(new Set(seen.map(({ kernel }) => `${kernel.file} ${kernel.name}`)).size).toBeGreaterThan(40)
  })
})

// The interpreter's GPU holds a cluster of eight blocks where three of them share a multiprocessor, and none where each
// takes one alone.
const hasClusters = backend === 'simt' && Number(process.env.GRPO_SIMT_ARCH ?? 90) >= 90
test.runIf(hasClusters)('whether a cluster has room is asked for each size of its blocks', () => {
  const own = join(folder, 'clusters.txt')
  process.env.GRPO_SIMT_LAUNCHES = own
  for (const V of [100_000, 240_000, 108_000]) {
    const logits = array(new Float32Array(V), [1, V])
    call('tokenLogprob', { logits, token: Int32Array.of(0) }, {}).now()
  }
  delete process.env.GRPO_SIMT_LAUNCHES
  const lines = readFileSync(own, 'utf8').trimEnd().split('\n')
  const clusters = lines.filter((line) => line.startsWith('logits_')).map((line) => Number(line.split(' ')[3]))
  expect(clusters).toEqual([8, 1, 8])
})

test.each([
  ['256', 256, true],
  ['64, 256 or 512', 128, false],
  ['128 or 1,024', 1024, true],
  ['61,952 to 88,064', 70_000, true],
  ['61,952 to 88,064', 61_951, false],
  ['76,704 or less where eight blocks can keep a row', 20_000, true],
  ['76,704 or less where eight blocks can keep a row', 76_705, false],
])('%s allows %i: %s', (text, value, expected) => {
  expect(allows(text, value)).toBe(expected)
})
