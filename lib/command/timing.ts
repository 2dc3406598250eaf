// A timing of the four families, on either side: what a call takes, not what it could.
import { native } from '../addon/native.js'
import { must } from '../arrays/cuda_library.js'
import * as lib from '../index.js'

export interface Timing {
  readonly family: string
  readonly size: string
  readonly kernel: string
  /** The GPU's number; undefined: the CPU. */
  readonly device: number | undefined
  /** The median of a call. */
  readonly seconds: number
}

interface Family {
  readonly name: string
  readonly size: string
  /** The call and its path, on inputs that lie where `put` puts them. */
  prepare(put: Put): { run(): object; path(): lib.KernelPath }
}

type Put = (values: Float32Array, shape?: number[], dtype?: 'f32' | 'bf16') => never

// Numbers that differ, of no meaning.
const wave = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.7))
const evenly = (n: number, size: number) => Int32Array.from({ length: n / size + 1 }, (_, i) => i * size)

const bind = <Arguments extends unknown[], Result extends object>(
  operation: ((...given: Arguments) => Result) & { path(...given: Arguments): lib.KernelPath },
  ...given: Arguments
) => ({ run: () => operation(...given), path: () => operation.path(...given) })

/** @param quick  tiny sizes, to see that it runs */
export function families(quick: boolean): Family[] {
  const [N, T, V, D] = quick ? [64, 8, 512, 16] : [65536, 256, 32000, 512]
  const [prefix, response] = quick ? [16, 8] : [1024, 256]
  const token = Int32Array.from({ length: T }, (_, t) => (t * 37) % V)
  const policy = (put: Put) => ({ token, advantage: put(wave(T)), sequenceStart: evenly(T, 1) })
  return [
    {
      name: 'advantages',
      size: `${N} rollouts in groups of 8`,
      prepare: (put) => bind(lib.groupAdvantage, { rewards: put(wave(N)), groupStart: evenly(N, 8) }, {}),
    },
    {
      name: 'loss from logits',
      size: `${T} rows of ${V}, bf16`,
      prepare: (put) =>
        bind(lib.policyLossFromLogits, { logits: put(wave(T * V), [T, V], 'bf16'), ...policy(put) }, {}),
    },
    {
      name: 'loss from hidden states',
      size: `${T} rows of ${D}, ${V} tokens, bf16`,
      prepare: (put) => {
        const [hidden, head] = [put(wave(T * D), [T, D], 'bf16'), put(wave(V * D), [V, D], 'bf16')]
        return bind(lib.linearPolicyLoss, { hidden, head, ...policy(put) }, {})
      },
    },
    {
      name: 'attention',
      size: `a prefix of ${prefix}, 4 responses of ${response}, 4 heads of 64, bf16`,
      prepare: (put) => {
        const layout = lib.prefixLayout([{ prefix, responses: [response, response, response, response] }])
        const make = (heads: number) =>
          put(wave((prefix + 4 * response) * heads * 64), [prefix + 4 * response, heads, 64], 'bf16')
        return bind(lib.prefixAttention, { q: make(4), k: make(1), v: make(1), layout }, {})
      },
    },
  ]
}

const hostArray: (...given: Parameters<Put>) => lib.HostArray = (values, shape, dtype = 'f32') =>
  dtype === 'bf16' ? lib.array(lib.toBf16(values), shape, 'bf16') : lib.array(values, shape)

function disposeAll(outputs: object): void {
  for (const x of Object.values(outputs)) if (x !== null && typeof x === 'object' && 'pointer' in x) x.dispose()
}

function secondsOnHost(run: () => object): number {
  const start = performance.now()
  run()
  return (performance.now() - start) / 1e3
}

/** Of the work on the package's own stream, by two events around it. */
export function secondsOnDevice(device: number, run: () => object): number {
  const mark = () => must('time', '', native.cuda.recordTime(device, 0n)) as bigint
  const first = mark()
  const outputs = run()
  const last = mark()
  const seconds = must('time', '', native.cuda.secondsBetween(first, last)) as number
  for (const event of [first, last]) must('time', '', native.cuda.destroyEvent(event))
  disposeAll(outputs)
  return seconds
}

export function timings(quick: boolean): Timing[] {
  const sides = [undefined, ...lib.cuda.devices.map((_, device) => device)]
  return sides.flatMap((device) =>
    families(quick).map(({ name, size, prepare }): Timing => {
      const put = (
        device === undefined
          ? hostArray
          : (...given: Parameters<Put>) => lib.cuda.upload(hostArray(...given), { device })
      ) as Put
      const { run, path } = prepare(put)
      const once = () => (device === undefined ? secondsOnHost(run) : secondsOnDevice(device, run))
      once() // warms up
      const times = Array.from({ length: quick ? 1 : 5 }, once).sort((a, b) => a - b)
      return {
        family: name,
        size,
        kernel: path().kernel,
        device,
        seconds: times[Math.floor(times.length / 2)] as number,
      }
    }),
  )
}
