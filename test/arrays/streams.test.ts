// The order of work on two streams of a caller, which nothing orders but the events of this package: the interpreter runs
// only what a wait depends on, so that a missing event gives old values, or values of memory that is freed.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { native } from '../../lib/addon/native.js'
import { signatures } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import { cuda, type DeviceArray, gatherRows, maskIndex, mergeTokenLogprob, moments } from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { identical, refuses } from '../support/compare.js'
import { sample, sampled } from '../support/samples.js'

const simulated = join(__dirname, '../../build-simt/libgrpo_kernels_cuda.so')
process.env.GRPO_KERNELS_CUDA = simulated
process.env.GRPO_SIMT_STREAMS = '2' // test/simt/caller_streams.cc

describe.skipIf(!existsSync(simulated))('two streams', () => {
  const stream = (i: number) => {
    if (!cuda.available) throw new Error(cuda.reason)
    return BigInt(process.env[`GRPO_SIMT_STREAM_0_${i}`] as string)
  }
  const [first, second] = [() => stream(0), () => stream(1)]
  const values = new Float32Array([1, 2, 3, 4])
  const other = new Float32Array([5, 6, 7, 8])
  const index = new Int32Array([0, 1, 2, 3])
  /** Another array with the values of x. */
  const copy = (x: DeviceArray, on: bigint, out?: DeviceArray) =>
    gatherRows({ x, index }, { stream: on, ...(out && { out: { x: out } }) }).x as DeviceArray
  const read = (x: DeviceArray) => x.readSync().data
  afterEach(() => vi.restoreAllMocks())

  test.each(['trim', 'synchronize'] as const)('cuda.%s waits for every device, and says what failed', async (name) => {
    cuda.upload(values).dispose() // a device is in use
    const library = name === 'trim' ? 'trimAsync' : 'waitAsync'
    let done = false
    const waiting = vi.spyOn(native.cuda, library).mockImplementation(async () => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      done = true
      return undefined
    })
    await cuda[name]()
    expect(done).toBe(true)
    const failure = { status: -9, argument: '', problem: 'it failed: an error (cudaErrorUnknown)', cudaCode: 'cudaErrorUnknown' } // biome-ignore format: one line
    waiting.mockImplementation(async () => failure as never)
    await expect(cuda[name]()).rejects.toThrow(`cuda.${name}: it failed`)
    await expect(cuda[name](0)).rejects.toThrow(`cuda.${name}: it failed`)
    await expect(cuda[name](9)).rejects.toThrow(`cuda.${name}: device is 9`)
  })

  type Step = <T>(work: () => T) => T
  /** What a program gives, whose `step` has to come after work on another stream. */
  const programs: [string, (step: Step) => unknown, unknown][] = [
    [
      'a call reads what a call on another stream writes',
      (step) => {
        const y = copy(cuda.upload(values), first())
        return read(step(() => copy(y, second())))
      },
      values,
    ],
    [
      'a call writes over what a call on another stream reads',
      (step) => {
        const x = cuda.upload(values)
        const y = copy(x, first())
        step(() => copy(cuda.upload(other), second(), x))
        return [read(x), read(y)]
      },
      [other, values],
    ],
    [
      'memory is freed that a call on another stream reads',
      (step) => {
        const x = cuda.upload(values)
        const y = copy(x, first())
        step(() => x.dispose())
        return [read(cuda.upload(other)), read(y)]
      },
      [other, values],
    ],
    ['a read on this thread', (step) => step(() => read(copy(cuda.upload(values), first()))), values],
    [
      'an upload on a stream, used on another',
      (step) => {
        const x = cuda.upload(values, { stream: first() })
        return read(step(() => copy(x, second())))
      },
      values,
    ],
    [
      "the owner's stream of wrapped memory",
      (step) => {
        const x = cuda.upload(values)
        const wrap = (of: object) => cuda.wrap({ pointer: x.pointer, dtype: 'f32', shape: [4], ...of })
        read(x)
        copy(cuda.upload(other), first(), wrap({})) // the owner, of whom the package knows nothing
        const view = wrap({ stream: first() })
        return read(step(() => copy(view, second())))
      },
      other,
    ],
  ]

  test.each(programs)('%s', (_, program, expected) => {
    expect(program((work) => work())).toEqual(expected)
  })

  test.each(programs)('%s: a missing event would be seen', (_, program, expected) => {
    const unordered: Step = (work) => {
      const wait = vi.spyOn(native.cuda, 'wait').mockReturnValue(undefined)
      const result = work()
      expect(wait).toHaveBeenCalled()
      wait.mockRestore()
      return result
    }
    let result: unknown
    try {
      result = program(unordered)
    } catch (error) {
      result = (error as Error).message // of a grid that read what nobody had written, or what was freed
    }
    expect(result).not.toEqual(expected)
    vi.restoreAllMocks()
    for (const on of [first(), second(), first(), second()]) {
      try {
        read(copy(cuda.upload(values), on)) // what the program left on the streams runs now
      } catch {
        // its fault is the error of one wait
      }
    }
    expect(read(copy(copy(cuda.upload(values), first()), second()))).toEqual(values)
  })

  test('a read on another thread, of an array that is disposed of meanwhile', async () => {
    const x = copy(cuda.upload(values), first())
    const reading = x.read()
    x.dispose()
    const later = copy(cuda.upload(other), second())
    expect((await reading).data).toEqual(values)
    expect(read(later)).toEqual(other)
  })

  test("a read of wrapped memory comes after the work on its owner's stream", async () => {
    const x = cuda.upload(values)
    const wrap = (of: object) => cuda.wrap({ pointer: x.pointer, dtype: 'f32', shape: [4], ...of })
    for (const [given, read] of [
      [other, (view: DeviceArray) => view.read()],
      [values, async (view: DeviceArray) => view.readSync()],
    ] as const) {
      await x.read()
      copy(cuda.upload(given), first(), wrap({})) // the owner, of whom the package knows nothing
      expect((await read(wrap({ stream: first() }))).data).toEqual(given)
    }
  })

  test('a promise resolves after the work on its own stream', async () => {
    const x = cuda.upload(values, { stream: first() })
    const { x: y } = await promises.gatherRows({ x, index }, { stream: second() })
    x.dispose()
    expect((await y.read()).data).toEqual(values)
  })

  test('operations of several calls', async () => {
    const x = copy(cuda.upload(values), first())
    const on = { stream: second() }
    expect(moments({ x }, on)).toEqual(moments({ x: values }))
    expect(await promises.moments({ x }, on)).toEqual(moments({ x: values }))
    const mask = cuda.upload(new Uint8Array([0, 1, 1, 0]), { stream: first() })
    expect(read(maskIndex({ mask }, on).index)).toEqual(new Int32Array([1, 2]))
    const nowhere = values.map(() => -Infinity) // a token lies in one part
    const host = [values, other].map((logsumexp, i) => ({
      logp: i === 0 ? values : nowhere,
      entropy: other,
      logsumexp,
    }))
    const parts = host.map((part) =>
      Object.fromEntries(Object.entries(part).map(([name, x]) => [name, copy(cuda.upload(x), first())])),
    )
    const list = (of: object[]) => [of[0], of[1], of[1], of[1]] as never
    const there = mergeTokenLogprob(list(parts), on) as unknown as Record<string, DeviceArray>
    const here = mergeTokenLogprob(list(parts)) as unknown as Record<string, DeviceArray>
    for (const name of Object.keys(here)) identical(there[name]!.readSync(), here[name]!.readSync())
  })

  const operations = sampled.filter((name) => signatures[name].inputs.length > 0)
  test.each(operations)('%s: inputs of a stream, the call on another, the same bits', (name) => {
    const { inputs, options, sizes } = sample(name)
    const run = (uploads: bigint | undefined, calls: bigint | undefined) => {
      const given = (of: bigint | undefined) => (of === undefined ? {} : { stream: of })
      const there = Object.entries(inputs).map(([key, x]) => [key, cuda.upload(x, given(uploads))] as const)
      const results = call(
        name,
        Object.fromEntries(there) as never,
        { ...options, ...given(calls) } as never,
        sizes,
      ).now()
      for (const [, x] of there) x.dispose()
      return Object.entries(results).map(([key, x]) => [key, (x as unknown as DeviceArray).readSync()] as const)
    }
    const expected = run(undefined, undefined)
    run(first(), second()).forEach(([key, x], i) => {
      expect(key).toBe(expected[i]?.[0])
      identical(x as HostArray, expected[i]?.[1] as HostArray)
    })
  })

  test('of another device than the arrays', () => {
    const wrong = BigInt(process.env.GRPO_SIMT_STREAM_1_0 as string)
    const x = cuda.upload(values)
    const device = { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'stream' }
    const message = (what: string) => new RegExp(`is one of device 1, but ${what} on device 0`)
    refuses(() => copy(x, wrong), { ...device, message: message('the arrays lie') })
    refuses(() => cuda.upload(values, { stream: wrong }), { ...device, message: message('the array shall lie') })
    const memory = { pointer: x.pointer, dtype: 'f32', shape: [4], stream: wrong } as const
    refuses(() => cuda.wrap(memory), { ...device, message: message('the memory lies') })
    const there = cuda.upload(values, { device: 1, stream: wrong })
    expect(read(copy(there, wrong))).toEqual(values)
    expect(() => copy(x, 4096n)).toThrow('stream: the device of a stream failed: invalid resource handle')
  })

  test('memory of a stream goes back after its work, and needs no stream that is gone', () => {
    const log: string[] = []
    for (const name of ['record', 'wait', 'release', 'destroyEvent'] as const) {
      const before = native.cuda[name] as (...parameters: unknown[]) => unknown
      vi.spyOn(native.cuda, name).mockImplementation(((...parameters: unknown[]) => {
        log.push(name)
        return before(...parameters)
      }) as never)
    }
    const x = cuda.empty('f32', [4], { stream: first() })
    expect(log.splice(0)).toEqual(['record'])
    x.dispose()
    expect(log).toEqual(['wait', 'release', 'destroyEvent'])
  })
})
