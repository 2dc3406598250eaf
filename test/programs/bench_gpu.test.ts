// The rows of a GPU in npm run bench, on the interpreter: the same numbers as on the CPU, timed by events, at small sizes.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Work } from '../../bench/cases.js'
import { gpuEntrants } from '../../bench/contest.js'
import { fingerprints } from '../../bench/fingerprint.js'
import { gpuCopyRate, onGpu } from '../../bench/gpu.js'
import { array, type HostArray, prefixAttention, prefixLayout, standardize } from '../../lib/index.js'

process.env.GRPO_KERNELS_CUDA = join(import.meta.dirname, '../../build-simt/libgrpo_kernels_cuda.so')

const options = { moments: { count: 4, mean: 2.5, m2: 5 } }
const inputs = { x: array(Float32Array.of(1, 2, 3, 4)) }
const work = (gpu: Work['gpu']): Work => ({ inputs, variants: [{ name: '', run: () => ({}) }], ...(gpu && { gpu }) })
const expected = fingerprints({ ...standardize(inputs, options) })

test('a row of the GPU: its name, its own seconds, its bytes, and no difference', async () => {
  const [entrant, ...others] = await gpuEntrants(work(onGpu(standardize, inputs, options)), expected)
  expect(others).toEqual([])
  expect(entrant).toMatchObject({ name: 'grpo-kernels, simulated sm_90', row: { ours: true, gpu: 'simulated sm_90' } })
  expect(entrant?.row.gigabytes).toBeCloseTo(32e-9)
  expect(entrant?.row.difference).toBe(undefined)
  expect(entrant?.run()).toBeGreaterThan(0)
  entrant?.dispose?.()
})

test('a wrong result is a difference, and work without a call on a GPU has no row', async () => {
  const wrong = onGpu(standardize, { x: array(Float32Array.of(1, 2, 3, 5)) }, options)
  const [entrant] = await gpuEntrants(work(wrong), expected)
  expect(entrant?.row.difference).toMatch(/norm of x/)
  entrant?.dispose?.()
  expect(await gpuEntrants(work(undefined), expected)).toEqual([])
})

test('arrays of a layout go there too', () => {
  const layout = prefixLayout([{ prefix: 1, responses: [1] }])
  const x = array(Float32Array.of(1, 2), [2, 1, 1])
  const { results, dispose } = onGpu(prefixAttention, { q: x, k: x, v: x, layout }, {}).prepare()
  expect((results().out as HostArray).data[0]).toBe(1)
  dispose()
})

test('what the GPU copies', () => {
  expect(gpuCopyRate(1 / 16).rate).toBeGreaterThan(0)
})
