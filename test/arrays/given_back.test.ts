// What a call has taken on a device, it gives back: whichever of the library's functions fails under it, and whenever it is
// aborted, of operations of one call and of several.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { native } from '../../lib/addon/native.js'
import * as api from '../../lib/index.js'
import { cuda } from '../../lib/index.js'
import * as promises from '../../lib/promises.js'

const simulated = join(__dirname, '../../build-simt/libgrpo_kernels_cuda.so')
process.env.GRPO_KERNELS_CUDA = simulated

type Result = object | Promise<object>
type Api = Record<'groupAdvantage' | 'moments' | 'maskIndex' | 'groupBy' | 'sequenceExpand' | 'standardize' | 'mergeTokenLogprob', (...parameters: unknown[]) => Result> // biome-ignore format: one type

describe.skipIf(!existsSync(simulated))('device memory and events', () => {
  const failure = { status: -9, argument: '', problem: 'a failure of the test', cudaCode: 'cudaErrorUnknown' }
  /** What is held: memory by its address, events. */
  const held = new Set<unknown>()
  let calls = 0
  let fails = Infinity

  /** Counts the calls of the library, the given one of which fails. Those that give back never do. */
  function watch(): void {
    held.clear()
    const spy = (owner: object, name: string, then?: (result: unknown, parameters: unknown[]) => void) => {
      const functions = owner as Record<string, (...parameters: unknown[]) => unknown>
      const before = functions[name]!
      vi.spyOn(functions, name).mockImplementation((...parameters) => {
        if (name !== 'release' && name !== 'destroyEvent' && ++calls === fails) return failure
        const result = before(...parameters)
        then?.(result, parameters)
        return result
      })
    }
    for (const name of ['allocate', 'record']) spy(native.cuda, name, (result) => held.add(result))
    spy(native.cuda, 'release', (_, parameters) => held.delete(parameters[3]))
    spy(native.cuda, 'destroyEvent', (_, [event]) => held.delete(event))
    for (const name of ['upload', 'download', 'downloadAsync', 'waitAsync']) spy(native.cuda, name)
    spy(native, 'run')
  }
  afterEach(() => vi.restoreAllMocks())

  const x = new Float32Array([1, 2, 4, 8])
  const there = <T extends object>(host: T) =>
    Object.fromEntries(Object.entries(host).map(([name, y]) => [name, cuda.upload(y)])) as unknown as T
  const groups = new Int32Array([0, 2, 4])
  const nowhere = x.map(() => -Infinity)
  const part = { logp: x, entropy: x, logsumexp: x }
  const other = { ...part, logp: nowhere }
  const operations: [string, () => (of: Api, more: object) => Result][] = [
    [
      'groupAdvantage',
      () => {
        const given = there({ rewards: x, groupStart: groups })
        return (of, more) => of.groupAdvantage(given, more)
      },
    ],
    [
      'moments',
      () => {
        const given = there({ x })
        return (of, more) => of.moments(given, more)
      },
    ],
    [
      'maskIndex',
      () => {
        const given = there({ mask: new Uint8Array([1, 0, 1, 1]) })
        return (of, more) => of.maskIndex(given, more)
      },
    ],
    [
      'groupBy',
      () => {
        const { ids } = there({ ids: new Int32Array([3, 1, 3]) })
        return (of, more) => of.groupBy(ids, more)
      },
    ],
    [
      'sequenceExpand',
      () => {
        const given = there({ x: new Float32Array([1, 2]), sequenceStart: groups })
        return (of, more) => of.sequenceExpand(given, more)
      },
    ],
    [
      'standardize',
      () => {
        const given = there({ x })
        return (of, more) => of.standardize(given, { moments: { count: 4, mean: 1, m2: 2 }, ...more })
      },
    ],
    [
      'mergeTokenLogprob of one part',
      () => {
        const given = there(part)
        return (of, more) => of.mergeTokenLogprob([given], more)
      },
    ],
    [
      'mergeTokenLogprob of four parts',
      () => {
        const [one, another] = [there(part), there(other)]
        return (of, more) => of.mergeTokenLogprob([one, another, another, another], more)
      },
    ],
  ]
  const outputs = (result: object) => Object.values(result).filter((y) => typeof y === 'object')

  describe.each([
    ['at once', api as unknown as Api],
    ['as a promise', promises as unknown as Api],
  ])('%s', (_, of) => {
    test.each(operations)('%s: each call of the library fails in turn', async (_, prepare) => {
      const run = prepare()
      watch()
      let failures = 0
      for (fails = 1; ; fails++) {
        calls = 0
        const result = await (async () => run(of, {}))().catch((error: unknown) => error as object)
        if (calls < fails) {
          for (const y of outputs(result)) y.dispose()
          expect(held.size).toBe(0)
          break
        }
        failures++
        expect(result).toBeInstanceOf(api.CudaError)
        expect(held.size, `call ${fails} of the library`).toBe(0)
      }
      expect(failures).toBeGreaterThan(1)
    })
  })

  test.each(operations)('%s: aborted while it waits', async (_, prepare) => {
    const run = prepare()
    watch()
    fails = Infinity
    // Between one turn of the loop and the next; the last ones let the call end.
    for (let turns = 0, done = false; !done; turns++) {
      const controller = new AbortController()
      const settled = Promise.resolve(run(promises as unknown as Api, { signal: controller.signal })).then(
        (result) => ({ result, error: undefined }),
        (error: unknown) => ({ result: undefined, error }),
      )
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve))
      controller.abort(new Error('never mind'))
      const { result, error } = await settled
      if (result === undefined) expect(error).toMatchObject({ message: 'never mind' })
      else for (const y of outputs(result)) y.dispose()
      expect(held.size, `after ${turns} turns`).toBe(0)
      done = result !== undefined || turns > 50
    }
  })
})
