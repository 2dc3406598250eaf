// What a part of a GPU, a captured stream and a full one ask of the library beneath the operations.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { describe, expect, test } from 'vitest'
import { array, cuda, gatherRows, policyLossFromLogits, tokenLogprob } from '../../lib/index.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from '../references/token_logprob.js'
import { backend } from '../support/backend_kind.js'
import { accurate, refuses } from '../support/compare.js'

const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-'))
Object.assign(process.env, {
  GRPO_SIMT_STREAMS: '1',
  GRPO_SIMT_CAPTURED: '0',
  GRPO_SIMT_CLUSTER: '2',
  GRPO_SIMT_TRIMS: join(folder, 'trims'),
})

describe.skipIf(backend !== 'simt')('the library of a GPU', () => {
  const values = new Float32Array([1, 2, 3, 4])
  const index = new Int32Array([0, 1])
  const captured = () => {
    if (!cuda.available) throw new Error(cuda.reason)
    return BigInt(process.env.GRPO_SIMT_STREAM_0_0 as string)
  }

  test('host arrays are refused where the stream is captured, and named', () => {
    const stream = captured()
    const x = cuda.upload(values)
    refuses(() => gatherRows({ x, index }, { stream }), {
      error: TypeError,
      code: 'ERR_GRPO_DEVICE',
      argument: 'index',
      message: /lies on the host, expected a device array: the stream is captured/,
    })
    expect(() => cuda.upload(values, { stream })).toThrow(/while the stream is captured/)
    expect(gatherRows({ x, index: cuda.upload(index) }, { stream }).x.shape).toEqual([2])
  })

  // 80 KB of float32 logits are a cluster of two blocks, 160 KB one of four, of which each block has as much memory.
  test.each([20_000, 40_000])('where a GPU has no room for a cluster of four, rows are read twice: %d logits', (V) => {
    const R = 2
    const x = Float32Array.from({ length: R * V }, (_, i) => Math.sin(i) * 3)
    const token = new Int32Array([7, V - 1])
    const inputs = { logits: cuda.upload(array(x, [R, V])), token }
    const { logp } = tokenLogprob(inputs)
    const onHost = { logits: x, V, token }
    const rounded = tokenLogprobReference(onHost, Math.fround)
    accurate(logp.readSync(), tokenLogprobReference(onHost).logp, rounded.logp)
    const loss = { advantage: cuda.upload(new Float32Array([1])), sequenceStart: new Int32Array([0, R]) }
    const { gradLogits, logp: again } = policyLossFromLogits({ ...inputs, ...loss }, { surrogate: 'reinforce' })
    expect(again.readSync().data).toEqual(logp.readSync().data)
    const gradLogp = [-1 / R, -1 / R]
    const plain = tokenLogprobBackwardReference(onHost, gradLogp, undefined, Math.fround)
    accurate(gradLogits.readSync(), tokenLogprobBackwardReference(onHost, gradLogp), plain)
  })

  test('trim gives back what no array uses', async () => {
    const kept = cuda.upload(new Float32Array(1024))
    cuda.upload(new Float32Array(1 << 20)).dispose()
    await cuda.trim()
    const [device, before, after] = readFileSync(join(folder, 'trims'), 'utf8').trim().split(' ').map(Number)
    expect(device).toBe(0)
    expect(before).toBeGreaterThanOrEqual(4 << 20)
    expect(after).toBeLessThan(before as number)
    expect(after).toBeGreaterThanOrEqual(4096)
    expect(kept.readSync().data.length).toBe(1024)
    await expect(cuda.trim(7)).rejects.toThrow('cuda.trim: device is 7, expected a whole number from 0 to 1')
    rmSync(folder, { recursive: true })
  })
})
