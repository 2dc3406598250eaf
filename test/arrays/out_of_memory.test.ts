// Device memory that runs out at any point of any operation: each of its allocations fails in turn (outputs, copies of
// inputs that stay on the host, scratch space), nothing stays behind, and the same call works once there is room.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { signatures } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import { CudaError, cuda, type DeviceArray } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { identical } from '../support/compare.js'
import { sample, sampled } from '../support/samples.js'

const simulated = join(__dirname, '../../build-simt/libgrpo_kernels_cuda.so')
const total = 8 << 20
process.env.GRPO_KERNELS_CUDA = simulated
process.env.GRPO_SIMT_MEMORY = String(total)

const bytesOf = (x: HostArray) => x.data.byteLength

/** Outputs as they are on the host; what was made is disposed of. */
function run(name: OperationName, inputs: object): [string, HostArray][] {
  const { options, sizes } = sample(name)
  const outputs = Object.entries(call(name, inputs as never, options as never, sizes).now()) as unknown as [
    string,
    DeviceArray,
  ][]
  try {
    return outputs.map(([key, x]) => [key, x.readSync()])
  } finally {
    for (const [, x] of outputs) x.dispose()
  }
}

describe.skipIf(!existsSync(simulated))('no memory left', () => {
  const operations = sampled.filter((name) => signatures[name].inputs.length > 0)
  const onHost = (x: HostArray) => x.dtype === 'i32'

  test.each(operations)('%s', (name) => {
    const host = Object.entries(sample(name).inputs)
    const there = host.filter(([, x]) => !onHost(x)).map(([key, x]) => [key, cuda.upload(x)] as const)
    // An operation on lists alone has them on the device.
    const rest = host
      .filter(([, x]) => onHost(x))
      .map(([key, x]) => [key, there.length > 0 ? x : cuda.upload(x)] as const)
    const inputs = Object.fromEntries([...there, ...rest])
    const taken = host.reduce((sum, [key, x]) => sum + ('data' in (inputs[key] as object) ? 0 : bytesOf(x)), 0)
    const expected = run(name, inputs)
    const failures = new Set<string>()
    for (let room = 0; ; ) {
      const filler = cuda.empty('u8', [total - taken - room])
      let error: unknown
      try {
        const result = run(name, inputs)
        result.forEach(([key, x], i) => {
          expect(key).toBe(expected[i]?.[0])
          identical(x, expected[i]?.[1] as HostArray)
        })
      } catch (caught) {
        error = caught
      }
      if (error === undefined) {
        filler.dispose()
        break
      }
      expect(error).toBeInstanceOf(CudaError)
      const { message, operation, argument, cudaCode } = error as CudaError
      expect([operation, cudaCode]).toEqual([name, 'cudaErrorMemoryAllocation'])
      const [, bytes] = /an allocation of (\d+) bytes/.exec(message) ?? []
      failures.add(`${argument} ${bytes}`)
      // All of the room is there again, and not more.
      if (room > 0) cuda.empty('u8', [room]).dispose()
      expect(() => cuda.empty('u8', [room + 1])).toThrow('cuda.empty: array: an allocation of')
      filler.dispose()
      room += Math.max(1, Number(bytes) >> 2)
    }
    expect(failures.size).toBeGreaterThan(0)
    run(name, inputs)
    for (const x of Object.values(inputs)) if (!('data' in x)) x.dispose()
    cuda.empty('u8', [total]).dispose()
  })
})
