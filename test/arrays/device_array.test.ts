// Device arrays: what holds on any machine, and, on the simulated GPUs of test/simt/ (npm run build:simt), the life of an
// array, the order of work on streams, and what is refused. The numbers of operations are the other tests' business.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { native } from '../../lib/addon/native.js'
import {
  array,
  cuda,
  type DeviceArray,
  dispose,
  gatherRows,
  groupAdvantage,
  groupBy,
  type HostArray,
  linearPolicyLoss,
  lossStats,
  maskIndex,
  mergeMoments,
  mergeTokenLogprob,
  moments,
  policyLoss,
  read,
  readSync,
  selectTokens,
  sequenceExpand,
  standardize,
  tokenLogprob,
  tokenLogprobBackward,
} from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { identical, refuses } from '../support/compare.js'

const root = join(__dirname, '..', '..')
const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')
const given = process.env.GRPO_KERNELS_CUDA ?? (existsSync(simulated) ? simulated : undefined)
if (given !== undefined) process.env.GRPO_KERNELS_CUDA = given
describe('without a library', () => {
  const code = 'ERR_GRPO_DEVICE'

  test('an object that looks like a device array is refused', () => {
    const fake = { dtype: 'f32', shape: [2], pointer: 16n, device: 0, readSync: () => array(new Float32Array(2)) }
    const groupStart = new Int32Array([0, 2])
    const refused = { error: TypeError, code, argument: 'rewards', message: /plain object with a pointer/ }
    refuses(() => groupAdvantage({ rewards: fake as never, groupStart }), refused)
    refuses(() => lossStats(fake as never), { error: TypeError, code, argument: 'stats[0]' })
    expect(() => readSync(fake as never)).toThrow('readSync: x is a plain object with a pointer')
    expect(() => dispose(fake as never)).toThrow('dispose: x is')
  })
})

describe.skipIf(given === undefined)('with a library', () => {
  const values = new Float32Array([1, 2, 4, 8])
  const groupStart = new Int32Array([0, 2, 4])
  const expected = groupAdvantage({ rewards: values, groupStart })
  // The legacy default stream stands for a caller's stream: it is one that the package does not own.
  const stream = 1n
  afterEach(() => vi.restoreAllMocks())

  /** The calls of the library's functions on streams and memory, in order. */
  function watch(): string[] {
    const log: string[] = []
    for (const name of ['allocate', 'release', 'record', 'wait', 'destroyEvent'] as const) {
      const before = native.cuda[name] as (...parameters: unknown[]) => unknown
      vi.spyOn(native.cuda, name).mockImplementation(((...parameters: unknown[]) => {
        log.push(name)
        return before(...parameters)
      }) as never)
    }
    return log
  }

  describe('the life of an array', () => {
    test('goes there and comes back, of every dtype', async () => {
      const hosts: HostArray[] = [
        array(values, [2, 2]),
        array(new Int32Array([1, -2])),
        array(new Uint8Array([7])),
        array(new Float64Array([0.1])),
        array(new Uint16Array([1, 2, 3]), [3, 1], 'bf16'),
        array(new Uint16Array([1]), [1], 'f16'),
        array(new Float32Array(0), [0, 3]),
      ]
      for (const host of hosts) {
        const x = cuda.upload(host, { device: 1 })
        expect(x).toMatchObject({ dtype: host.dtype, shape: host.shape, device: 1 })
        identical(x.readSync(), host)
        identical(await x.read(), host)
        identical(readSync(x), host)
        identical(await read(x), host)
        dispose(x)
      }
    })

    test('is over once disposed of', async () => {
      const rewards = cuda.upload(values)
      const log = watch()
      const reading = rewards.read()
      rewards.dispose()
      rewards[Symbol.dispose]()
      // Whoever reads it keeps the memory until then.
      expect(log).not.toContain('release')
      expect((await reading).data).toEqual(values)
      expect(log.filter((name) => name === 'release')).toHaveLength(1)
      const disposed = { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'rewards', message: /has been disposed/ }
      refuses(() => groupAdvantage({ rewards, groupStart }), disposed)
      expect(() => rewards.readSync()).toThrow('has been disposed')
      await expect(rewards.read()).rejects.toThrow('has been disposed')
    })

    test('wrapped memory is borrowed', () => {
      const owner = cuda.upload(values)
      const log = watch()
      const view = cuda.wrap({ pointer: owner.pointer + 4n, dtype: 'f32', shape: [3] })
      expect(view.readSync().data).toEqual(values.slice(1))
      view.dispose()
      expect(log).toEqual([])
      expect(owner.readSync().data).toEqual(values)
      owner.dispose()
    })

    test('wrap looks at the pointer', () => {
      const x = cuda.upload(values, { device: 1 })
      const wrap =
        (pointer: unknown, more = {}) =>
        () =>
          cuda.wrap({ pointer, dtype: 'f32', shape: [1], ...more } as never)
      const device = { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'pointer' }
      refuses(wrap(x.pointer, { device: 0 }), { ...device, message: /lies on device 1, expected device 0/ })
      refuses(wrap(64n), { ...device, message: /no memory of a GPU/ })
      refuses(wrap(x.pointer + 2n), { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'pointer' })
      const kind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'pointer' }
      refuses(wrap(7), { ...kind, message: /pointer is 7, expected a bigint$/ })
      refuses(wrap(x.pointer, { offset: 3 }), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'offset' })
      expect(wrap(x.pointer)().device).toBe(1)
      expect(wrap(0n, { shape: [0] })().readSync().data.length).toBe(0)
      x.dispose()
    })

    test('upload and empty look at their arguments', () => {
      const x = cuda.upload(values)
      const option = { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'device' }
      refuses(() => cuda.upload(values, { device: 2 }), option)
      const onDevice = { error: TypeError, code: 'ERR_GRPO_DEVICE', argument: 'host', message: /host lies on a GPU/ }
      refuses(() => cuda.upload(x), onDevice)
      refuses(() => cuda.empty('f33' as 'f32', [1]), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'array' })
      refuses(() => cuda.empty('f32', [-1]), { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'array' })
      x.dispose()
    })
  })

  describe('a call', () => {
    test('takes and gives device arrays; offsets may stay on the host', () => {
      const rewards = cuda.upload(values)
      const starts = cuda.upload(groupStart)
      for (const start of [groupStart, starts]) {
        const { advantage, mean, std } = groupAdvantage({ rewards, groupStart: start })
        const typed: DeviceArray<'f32'> = advantage
        identical(typed.readSync(), expected.advantage)
        for (const x of [advantage, mean, std]) x.dispose()
      }
      dispose(rewards)
      dispose(starts)
    })

    test('resolves when it is done', async () => {
      const rewards = cuda.upload(values)
      const { advantage } = await promises.groupAdvantage({ rewards, groupStart })
      identical(await advantage.read(), expected.advantage)
      const signal = AbortSignal.abort(new Error('never mind'))
      await expect(promises.groupAdvantage({ rewards, groupStart }, { signal })).rejects.toThrow('never mind')
      await cuda.synchronize()
      await cuda.synchronize(0)
      dispose(rewards)
      dispose(advantage)
    })

    test('writes into `out`, and returns it', () => {
      const rewards = cuda.upload(values)
      const advantage = cuda.empty('f32', [4])
      const result = groupAdvantage({ rewards, groupStart }, { out: { advantage, mean: null, std: null } })
      expect(Object.keys(result)).toEqual(['advantage'])
      expect(result.advantage).toBe(advantage)
      identical(advantage.readSync(), expected.advantage)
      dispose(rewards)
      dispose(advantage)
    })

    test('has its arrays on one side, and on one device', () => {
      const rewards = cuda.upload(values)
      const other = cuda.upload(values, { device: 1 })
      const host = new Float32Array(4)
      const refused = (inputs: object, options: object, argument: string, message: RegExp) =>
        refuses(() => groupAdvantage({ rewards, groupStart, ...inputs }, options), {
          error: TypeError,
          code: 'ERR_GRPO_DEVICE',
          argument,
          message,
        })
      refused({ mask: new Uint8Array(4) }, {}, 'mask', /mask lies on the host, but rewards lies on device 0/)
      refused({}, { out: { advantage: host } }, 'advantage', /lies on the host, but rewards/)
      refused({}, { out: { advantage: other } }, 'advantage', /lies on device 1, but rewards lies on device 0/)
      refused({ rewards: host }, { out: { mean: other } }, 'rewards', /lies on the host, but mean lies on device 1/)
      refuses(() => groupAdvantage({ rewards, groupStart }, { stream: 3 as never }), {
        error: TypeError,
        code: 'ERR_GRPO_TYPE',
        argument: 'stream',
      })
      dispose(rewards)
      dispose(other)
    })

    test('that is refused leaves no memory behind', () => {
      const rewards = cuda.upload(values)
      const log = watch()
      const bad = new Int32Array([0, 5])
      refuses(() => groupAdvantage({ rewards, groupStart: bad }), {
        error: RangeError,
        code: 'ERR_GRPO_VALUE',
        argument: 'groupStart',
      })
      expect(log).toEqual(['allocate', 'allocate', 'allocate', 'release', 'release', 'release'])
      dispose(rewards)
    })

    test('without values', () => {
      const rewards = cuda.upload(new Float32Array(0))
      const { advantage } = groupAdvantage({ rewards, groupStart: new Int32Array([0]) })
      expect(advantage.readSync().data.length).toBe(0)
      dispose(rewards)
    })
  })

  describe('streams', () => {
    test("the package's own stream needs no events", () => {
      const rewards = cuda.upload(values)
      const log = watch()
      for (const x of Object.values(groupAdvantage({ rewards, groupStart }))) x.dispose()
      dispose(rewards)
      expect(log.filter((name) => name !== 'allocate' && name !== 'release')).toEqual([])
    })

    test('a call on another stream waits for the last use, and leaves an event behind', () => {
      const rewards = cuda.upload(values)
      const log = watch()
      const { advantage, mean, std } = groupAdvantage({ rewards, groupStart }, { stream })
      const out = ['allocate', 'allocate', 'allocate']
      // rewards was last used on the own stream; after the call all arrays share one event.
      expect(log.splice(0)).toEqual([...out, 'record', 'wait', 'destroyEvent', 'record'])
      identical(advantage.readSync(), expected.advantage)
      expect(log.splice(0)).toEqual(['wait'])
      for (const x of [rewards, advantage, mean]) x.dispose()
      expect(log.splice(0)).toEqual(['wait', 'release', 'wait', 'release', 'wait', 'release'])
      std.dispose()
      expect(log).toEqual(['wait', 'release', 'destroyEvent'])
    })

    test("a stream of another device, and the owner's stream of wrapped memory", () => {
      const rewards = cuda.upload(values)
      vi.spyOn(native.cuda, 'deviceOfStream').mockReturnValue(1)
      refuses(() => groupAdvantage({ rewards, groupStart }, { stream: 4096n }), {
        error: TypeError,
        code: 'ERR_GRPO_DEVICE',
        argument: 'stream',
        message: /is one of device 1, but the arrays lie on device 0/,
      })
      const view = cuda.wrap({ pointer: rewards.pointer, dtype: 'f32', shape: [4], stream })
      const log = watch()
      identical(groupAdvantage({ rewards: view, groupStart }).advantage.readSync(), expected.advantage)
      expect(log.filter((name) => name !== 'allocate')).toEqual(['record', 'wait', 'destroyEvent'])
      dispose(rewards)
    })
  })

  describe('results that are numbers, or whose length is', () => {
    const onDevice = <T extends Record<string, Float32Array | Uint8Array | Float64Array | HostArray>>(host: T) =>
      Object.fromEntries(Object.entries(host).map(([name, x]) => [name, cuda.upload(x)])) as unknown as {
        [Name in keyof T]: DeviceArray
      }

    test('moments and standardize', async () => {
      const { x } = onDevice({ x: values })
      expect(moments({ x })).toEqual(moments({ x: values }))
      expect(await promises.moments({ x })).toEqual(moments({ x: values }))
      const all = mergeMoments([moments({ x }), moments({ x: values })])
      identical(standardize({ x }, { moments: all }).x.readSync(), standardize({ x: values }, { moments: all }).x)
    })

    test('maskIndex, groupBy and gatherRows', async () => {
      const { mask, x } = onDevice({ mask: new Uint8Array([1, 0, 0, 1]), x: values })
      const { index } = maskIndex({ mask })
      expect(index.readSync().data).toEqual(new Int32Array([0, 3]))
      expect((await promises.maskIndex({ mask })).index.shape).toEqual([2])
      expect(gatherRows({ x, index }).x.readSync().data).toEqual(new Float32Array([1, 8]))
      const ids = new Int32Array([3, 1, 3])
      const { order, groupStart: starts } = groupBy(cuda.upload(ids))
      identical(order.readSync(), groupBy(ids).order)
      identical(starts.readSync(), groupBy(ids).groupStart)
    })

    test('sequenceExpand reads the end of offsets that lie on the device', () => {
      const { x } = onDevice({ x: new Float32Array([5, 6]) })
      const sequenceStart = cuda.upload(new Int32Array([0, 1, 3]))
      expect(sequenceExpand({ x, sequenceStart }).x.readSync().data).toEqual(new Float32Array([5, 6, 6]))
    })

    test('selectTokens reads the end of offsets that lie on the device', () => {
      const { advantage } = onDevice({ advantage: new Float32Array([5, -6]) })
      const sequenceStart = cuda.upload(new Int32Array([0, 1, 3]))
      const { mask } = selectTokens({ advantage, sequenceStart }, { rule: 'advantage', count: 2 })
      expect(mask.readSync().data).toEqual(new Uint8Array([0, 1, 1]))
    })

    test('lossStats', () => {
      const host = { logp: values, advantage: new Float32Array([1, -1]), oldLogp: new Float32Array(4) }
      const stats = lossStats(policyLoss({ ...onDevice(host), sequenceStart: groupStart }).stats)
      expect(stats).toMatchObject({ tokens: 4, sequences: 2 })
    })

    test('mergeTokenLogprob of any number of parts, and of arrays that overlap', () => {
      const host = { logp: new Float32Array([-1]), entropy: new Float32Array([1]), logsumexp: new Float32Array([2]) }
      const part = onDevice(host)
      const elsewhere = { ...host, logp: new Float32Array([-Infinity]) }
      const other = onDevice(elsewhere)
      const log = watch()
      for (const count of [1, 2, 3, 4]) {
        const merged = mergeTokenLogprob([part, ...Array(count - 1).fill(other)] as [typeof part])
        identical(merged.logp.readSync(), mergeTokenLogprob([host, ...Array(count - 1).fill(elsewhere)]).logp)
        for (const x of Object.values(merged)) x.dispose()
      }
      const times = (wanted: string) => log.filter((name) => name === wanted).length
      expect(times('release')).toBe(times('allocate'))
      const { logp } = part
      const problem = /logp overlaps list\[0\].entropy/
      refuses(() => mergeTokenLogprob([part, part], { out: { logp: part.entropy } }), {
        error: RangeError,
        code: 'ERR_GRPO_VALUE',
        message: problem,
      })
      refuses(() => mergeTokenLogprob([part, host as never]), { error: TypeError, code: 'ERR_GRPO_DEVICE' })
      logp.dispose()
      for (const x of Object.values(other)) x.dispose()
      const device = { error: TypeError, code: 'ERR_GRPO_DEVICE' }
      refuses(() => mergeTokenLogprob([part]), { ...device, argument: 'list[0].logp', message: /has been disposed/ })
    })

    test.each([1, 2, 3])('mergeTokenLogprob of %d parts as a promise is enqueued when it is called', async (count) => {
      const list = Array.from({ length: count }, (_, i) => ({
        logp: new Float32Array([i === count - 1 ? -1 : -Infinity, -Infinity]),
        entropy: new Float32Array([1 + i, 2]),
        logsumexp: new Float32Array([2, 3 - i]),
      }))
      const parts = list.map((part) => onDevice(part))
      const merging = promises.mergeTokenLogprob(parts)
      for (const x of parts.flatMap((part) => Object.values(part))) x.dispose()
      const others = parts.map(() => cuda.upload(new Float32Array([7, 7])))
      const merged = await merging
      const expected = mergeTokenLogprob(list)
      for (const name of ['logp', 'entropy', 'logsumexp'] as const) {
        identical(merged[name].readSync(), expected[name])
        merged[name].dispose()
      }
      for (const x of others) x.dispose()
    })

    test('linearPolicyLoss.plan of a device', () => {
      const sizes = { R: 4, T: 4, D: 8, V: 16, dtype: 'f32', device: 0 } as const
      expect(linearPolicyLoss.plan(sizes).peakBytes).toBeGreaterThan(0)
      refuses(() => linearPolicyLoss.plan({ ...sizes, device: 7 }), {
        error: RangeError,
        code: 'ERR_GRPO_OPTION',
        argument: 'device',
      })
    })

    test('rows of logits that lie apart, and a gradient in their place', () => {
      const data = Float32Array.from({ length: 10 }, (_, i) => Math.sin(i))
      const host = { data: data.slice(0, 8), shape: [2, 3], dtype: 'f32' } as const
      const token = new Int32Array([0, 2])
      const logits = cuda.upload(array(host.data, [2, 3]))
      const there = tokenLogprob({ logits, token }, { stride: 5 })
      const here = tokenLogprob({ logits: array(host.data, [2, 3]), token }, { stride: 5 })
      expect(there.logp.readSync().data.length).toBe(here.logp.data.length)
      const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'logits' }
      refuses(() => tokenLogprob({ logits, token }), { ...shape, message: /no stride is given/ })
      refuses(() => tokenLogprob({ logits, token }, { stride: 6 }), { ...shape, message: /need 9/ })
      const inputs = { logits, token, gradLogp: cuda.upload(new Float32Array([1, 1])), logsumexp: there.logsumexp }
      expect(tokenLogprobBackward(inputs, { stride: 5, out: { gradLogits: logits } }).gradLogits).toBe(logits)
    })
  })
})
