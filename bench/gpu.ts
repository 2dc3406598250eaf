// The rows of a GPU: the same call on arrays that lie there, timed by events around the work on the package's stream, so
// that neither the way there and back nor JavaScript counts. Small inputs may come from the GPU's cache.

import { secondsOnDevice } from '../lib/command/timing.js'
import { array, cuda, type DeviceArray, gatherRows, type HostArray, readSync } from '../lib/index.js'
import type { Outputs } from './cases.js'
import type { Rate } from './machine.js'
import { quantile } from './measure.js'

/** A call that can be made on a GPU: uploads its arrays when it is prepared. */
export interface OnGpu {
  prepare(): { run(): object; results(): Outputs; dispose(): void }
}

const isHost = (x: unknown): x is HostArray => typeof x === 'object' && x !== null && 'data' in x && 'dtype' in x
const isDevice = (x: unknown): x is DeviceArray => typeof x === 'object' && x !== null && 'pointer' in x

/** `inputs` with device arrays in place of host arrays, those of a layout too. */
function uploaded(inputs: object, made: DeviceArray[]): object {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => {
      if (isHost(x)) {
        made.push(cuda.upload(x))
        return [name, made.at(-1)]
      }
      return [name, name === 'layout' ? uploaded(x as object, made) : x]
    }),
  )
}

export const onGpu = <Inputs extends object, Options>(
  operation: (inputs: Inputs, options: Options) => object,
  inputs: Inputs,
  options: Options,
): OnGpu => ({
  prepare() {
    const made: DeviceArray[] = []
    const there = uploaded(inputs, made) as Inputs
    const run = () => operation(there, options)
    return {
      run,
      results: () => {
        const read = ([name, x]: [string, unknown]) => {
          const host = isDevice(x) ? readSync(x) : x
          if (isDevice(x)) x.dispose()
          return [name, host]
        }
        return Object.fromEntries(Object.entries(run()).map(read))
      },
      dispose: () => {
        for (const x of made) x.dispose()
      },
    }
  },
})

export const gpuName = (): string | undefined => cuda.devices[0]?.name

/** GB/s, read plus written, of rows that are gathered in their order: the median of some. */
export function gpuCopyRate(megabytes = 512): Rate {
  const [R, D] = [megabytes * 64, 4096]
  const x = cuda.upload(array(new Float32Array(R * D), [R, D]))
  const index = cuda.upload(Int32Array.from({ length: R }, (_, i) => i))
  const times = Array.from({ length: 11 }, () => secondsOnDevice(0, () => gatherRows({ x, index })))
  for (const array of [x, index]) array.dispose()
  return {
    rate: (2 * 4 * R * D) / 1e9 / quantile(times, 0.5),
    how: `gatherRows of ${megabytes} MiB in order, on ${gpuName()}`,
  }
}
