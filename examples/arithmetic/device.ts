// Where attention and loss are computed: on the CPU, or on a GPU to which their inputs are copied. The model itself, in
// TensorFlow.js, stays where its backend is.
import { cuda, type DeviceArray, type HostArray } from '../../lib/index.js'

export type Device = 'cpu' | 'cuda'
let device: Device = 'cpu'

/** For all that follows, like the backend of TensorFlow.js. @throws Error where there is no GPU, which says why */
export function setDevice(name: Device): void {
  if (name === 'cuda' && !cuda.available) throw new Error(`--device cuda: ${cuda.reason}`)
  device = name
}

type Bag = Record<string, unknown>
const isHostArray = (x: unknown): x is HostArray => typeof x === 'object' && x !== null && 'data' in x && 'dtype' in x

/** An operation on host arrays, wherever it is computed. Offsets, ids and rows may stay on the host. */
export function compute<Inputs extends object, Options extends object, Result extends object>(
  operation: (inputs: Inputs, options: Options) => Result,
  inputs: Inputs,
  options: Options,
): Result {
  if (device === 'cpu') return operation(inputs, options)
  const arrays: DeviceArray[] = []
  const kept = <X extends DeviceArray>(x: X): X => {
    arrays.push(x)
    return x
  }
  const there = (x: unknown): unknown => {
    if (x instanceof Float32Array || x instanceof Uint8Array) return kept(cuda.upload(x))
    return isHostArray(x) && x.dtype !== 'i32' ? kept(cuda.upload(x)) : x
  }
  try {
    const given = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, there(x)]))
    const outputs = Object.entries(operation(given as Inputs, options) as Bag)
    for (const [, x] of outputs) kept(x as DeviceArray)
    return Object.fromEntries(outputs.map(([name, x]) => [name, (x as DeviceArray).readSync()])) as Result
  } finally {
    for (const x of arrays) x.dispose()
  }
}
