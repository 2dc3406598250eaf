// What a caller does wrong with device arrays, or at an odd moment: each is an error in the caller's words, before
// anything is written, or has the result that it would have on the host.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  array,
  cuda,
  type DeviceArray,
  gatherRows,
  groupAdvantage,
  groupBy,
  linearPolicyLoss,
  lossStats,
  maskIndex,
  mergeTokenLogprob,
  scatterRows,
  sequenceExpand,
  sequenceSum,
  tokenLogprobBackward,
} from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { prepareStep, recipes } from '../../lib/recipes/index.js'
import { refuses } from '../support/compare.js'

const simulated = join(__dirname, '../../build-simt/libgrpo_kernels_cuda.so')
process.env.GRPO_KERNELS_CUDA ??= simulated

const f32 = (...x: number[]) => cuda.upload(Float32Array.from(x))
const i32 = (...x: number[]) => cuda.upload(Int32Array.from(x))
const numbers = (x: unknown) => Array.from((x as DeviceArray).readSync().data)

describe.skipIf(!existsSync(process.env.GRPO_KERNELS_CUDA))('device arrays', () => {
  const value = { error: RangeError, code: 'ERR_GRPO_VALUE' }
  const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
  const device = { error: TypeError, code: 'ERR_GRPO_DEVICE' }

  test.each([
    ['', TypeError, 'ERR_GRPO_TYPE'],
    [false, TypeError, 'ERR_GRPO_TYPE'],
    [Number.NaN, RangeError, 'ERR_GRPO_OPTION'],
  ])('a device that is %j is not the first one', (given, error, code) => {
    const options = { device: given as number }
    const named = { error, code, argument: 'device' }
    refuses(() => cuda.upload(Float32Array.of(1), options), named)
    refuses(() => cuda.empty('f32', [1], options), named)
  })

  describe('an `out` whose length is known only then', () => {
    const untouched = [7, 7, 7, 7]
    const indexText = 'maskIndex: index has length 4, expected 2, the number of values in mask that are not 0'
    const startText = 'groupBy: groupStart has length 4, expected 3, one more than the different ids'

    test('maskIndex refuses another length, as on the host', async () => {
      const mask = new Uint8Array([1, 0, 1])
      const host = Int32Array.from(untouched)
      expect(() => maskIndex({ mask }, { out: { index: host } })).toThrow(indexText)
      const inputs = { mask: cuda.upload(mask) }
      const index = i32(...untouched)
      refuses(() => maskIndex(inputs, { out: { index } }), { ...shape, argument: 'index' })
      expect(() => maskIndex(inputs, { out: { index } })).toThrow(indexText)
      await expect(promises.maskIndex(inputs, { out: { index } })).rejects.toThrow(indexText)
      expect(() => maskIndex(inputs, { out: { index: cuda.empty('i32', [1]) } })).toThrow('has length 1, expected 2')
      expect(numbers(index)).toEqual(untouched)
      const right = cuda.empty('i32', [2])
      expect(maskIndex(inputs, { out: { index: right } }).index).toBe(right)
      expect(numbers(right)).toEqual([0, 2])
    })

    test('groupBy refuses another length, as on the host', async () => {
      const ids = new Int32Array([3, 1, 3])
      expect(() => groupBy(ids, { out: { groupStart: Int32Array.from(untouched) } })).toThrow(startText)
      const [groupStart, order] = [i32(...untouched), i32(7, 7, 7)]
      const there = cuda.upload(ids)
      refuses(() => groupBy(there, { out: { groupStart, order } }), { ...shape, argument: 'groupStart' })
      await expect(promises.groupBy(there, { out: { groupStart, order } })).rejects.toThrow(startText)
      expect(() => groupBy(there, { out: { order: cuda.empty('i32', [2]) } })).toThrow('groupBy: order has length 2')
      expect(numbers(groupStart)).toEqual(untouched)
      expect(numbers(order)).toEqual([7, 7, 7])
      expect(numbers(groupBy(there, { out: { groupStart: cuda.empty('i32', [3]) } }).groupStart)).toEqual([0, 1, 3])
    })
  })

  test('offsets of another dtype are refused before their end is read', () => {
    const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'sequenceStart' }
    const x = new Float32Array([5, 6])
    for (const sequenceStart of [
      new Uint8Array([0, 1, 3]),
      new Float64Array([0, 1, 3]),
      new Float32Array([0, 1, 1e12]),
    ]) {
      refuses(() => sequenceExpand({ x: cuda.upload(x), sequenceStart: cuda.upload(sequenceStart) as never }), dtype)
      refuses(() => sequenceExpand({ x, sequenceStart: sequenceStart as never }), dtype)
    }
    const square = cuda.upload(array(new Int32Array([0, 1, 2, 1 << 30]), [2, 2]))
    refuses(() => sequenceExpand({ x: cuda.upload(x), sequenceStart: square }), { ...shape, argument: 'sequenceStart' })
  })

  test('a bad index adds to nothing, and gives a row of NaN', () => {
    expect(numbers(scatterRows({ x: f32(1, 2, 4), index: i32(0, 9, -1) }, { rows: 2 }).x)).toEqual([1, 0])
    expect(numbers(gatherRows({ x: f32(1, 2), index: i32(1, 2) }).x)).toEqual([2, Number.NaN])
  })

  test('outputs overlap neither inputs nor each other, except a gradient its logits', () => {
    const memory = f32(1, 2, 3, 4, 5, 6, 7, 8)
    const view = (offset: number, length: number) =>
      cuda.wrap({ pointer: memory.pointer + BigInt(4 * offset), dtype: 'f32', shape: [length] })
    const groupStart = new Int32Array([0, 4])
    const rewards = view(2, 4)
    refuses(() => groupAdvantage({ rewards, groupStart }, { out: { advantage: view(0, 4) } }), {
      ...value,
      argument: 'advantage',
      message: /advantage overlaps rewards/,
    })
    const [mean, std] = [view(7, 1), view(7, 1)]
    refuses(() => groupAdvantage({ rewards, groupStart }, { out: { mean, std } }), {
      ...value,
      argument: 'mean',
      message: /mean overlaps std/,
    })
    refuses(() => sequenceSum({ x: view(0, 8), sequenceStart: new Int32Array([0, 8]) }, { out: { x: view(7, 1) } }), {
      ...value,
      argument: 'x',
    })
    const logits = cuda.wrap({ pointer: memory.pointer, dtype: 'f32', shape: [2, 3] })
    const shifted = cuda.wrap({ pointer: memory.pointer + 4n, dtype: 'f32', shape: [2, 3] })
    const inputs = { logits, token: new Int32Array([0, 2]), gradLogp: f32(1, 1), logsumexp: f32(4, 7) }
    refuses(() => tokenLogprobBackward(inputs, { out: { gradLogits: shifted } }), { ...value, argument: 'gradLogits' })
    expect(tokenLogprobBackward(inputs, { out: { gradLogits: logits } }).gradLogits).toBe(logits)
    expect(numbers(memory)).toEqual(expect.arrayContaining([7, 8]))
  })

  describe('disposed', () => {
    test('while a promise is pending: an input is kept for the work, an output is the caller’s own doing', async () => {
      const rewards = f32(1, 3)
      const advantage = cuda.empty('f32', [2])
      const groupStart = new Int32Array([0, 2])
      const options = { scale: 'none', out: { advantage } } as const
      const pending = promises.groupAdvantage({ rewards, groupStart }, { scale: 'none' })
      rewards.dispose()
      groupStart[1] = 99
      expect(numbers((await pending).advantage)).toEqual([-1, 1])
      const other = promises.groupAdvantage({ rewards: f32(1, 3), groupStart: new Int32Array([0, 2]) }, options)
      advantage.dispose()
      const result = await other
      expect(result.advantage).toBe(advantage)
      expect(() => result.advantage.readSync()).toThrow('has been disposed')
    })

    test('between the two halves of maskIndex', async () => {
      const mask = cuda.upload(new Uint8Array([1, 0]))
      const pending = promises.maskIndex({ mask })
      mask.dispose()
      await expect(pending).rejects.toMatchObject({ message: 'maskIndex: mask has been disposed', argument: 'mask' })
    })

    test('by `using`, and twice', () => {
      let kept: DeviceArray | undefined
      {
        using x = f32(1)
        kept = x
      }
      for (const again of [() => kept.dispose(), () => kept[Symbol.dispose](), () => kept.dispose()]) again()
      expect(() => kept.pointer).toThrow('pointer: array has been disposed')
      expect([kept.dtype, kept.shape, kept.device]).toEqual(['f32', [1], 0])
    })

    test('before lossStats reads it', () => {
      const stats = cuda.upload(new Float64Array(15))
      stats.dispose()
      refuses(() => lossStats(stats), { ...device, argument: 'stats[0]', message: /^lossStats: stats\[0\] has been/ })
    })
  })

  test('parts of a vocabulary on two devices, or on a device and the host', () => {
    const host = { logp: new Float32Array([-1]), entropy: new Float32Array([1]), logsumexp: new Float32Array([2]) }
    const on = (of: number) => ({
      logp: cuda.upload(host.logp, { device: of }),
      entropy: cuda.upload(host.entropy, { device: of }),
      logsumexp: cuda.upload(host.logsumexp, { device: of }),
    })
    const refused = (list: object[], argument: string, message: RegExp) =>
      refuses(() => mergeTokenLogprob(list as never), { ...device, argument, message })
    refused([on(0), on(0), on(1)], 'list[2].logp', /lies on device 1, but list\[0\].logp lies on device 0/)
    refused([on(1), host], 'list[1].logp', /lies on the host, but list\[0\].logp lies on device 1/)
    refused(
      [{ ...host, entropy: on(0).entropy }],
      'list[0].entropy',
      /lies on device 0, but list\[0\].logp lies on the/,
    )
  })

  test('outputs beside a part of a vocabulary, and over one of its ends', () => {
    const memory = cuda.upload(new Float32Array(40).fill(-1))
    const view = (offset: number) =>
      cuda.wrap({ pointer: memory.pointer + BigInt(4 * offset), dtype: 'f32', shape: [4] })
    const list = [0, 1, 2].map((i) => ({
      logp: view(12 * i + 4),
      entropy: f32(1, 1, 1, 1),
      logsumexp: f32(1, 1, 1, 1),
    }))
    for (const place of [13, 19]) {
      const out = { logp: view(place) }
      const said = { ...value, argument: 'logp', message: /logp overlaps list\[1\].logp, expected memory of its own/ }
      refuses(() => mergeTokenLogprob(list, { out }), said)
    }
    for (const place of [12, 20]) {
      const out = { logp: view(place) }
      expect(mergeTokenLogprob(list, { out }).logp).toBe(out.logp)
    }
    // Addresses on the host and on another device are other memory, whatever the number.
    const host = { logp: new Float32Array(4).fill(-1), entropy: new Float32Array(4), logsumexp: new Float32Array(4) }
    const elsewhere = { ...device, argument: 'logp' }
    refuses(() => mergeTokenLogprob([host, host, host], { out: { logp: view(0) as never } }), elsewhere)
    refuses(() => mergeTokenLogprob(list, { out: { logp: cuda.upload(host.logp, { device: 1 }) } }), elsewhere)
  })

  test('a typed array that says another length of itself', () => {
    class Liar extends Float32Array {
      override get length(): number {
        return 1
      }
    }
    const x = cuda.upload(new Liar([1, 2, 3]) as never) as DeviceArray
    expect(x.shape).toEqual([3])
    expect(numbers(x)).toEqual([1, 2, 3])
  })

  test('the bytes of what cannot be copied or allocated', () => {
    const x = f32(1, 2)
    const beyond = cuda.wrap({ pointer: x.pointer, dtype: 'f32', shape: [200] })
    const invalid = { cudaCode: 'cudaErrorInvalidValue', operation: 'readSync', argument: 'array' }
    expect(() => beyond.readSync()).toThrow(expect.objectContaining(invalid))
    expect(() => beyond.readSync()).toThrow('a download of 800 bytes failed: invalid argument (cudaErrorInvalidValue)')
    expect(() => cuda.empty('f64', [2 ** 31 - 1, 8])).toThrow('array: an allocation of 137438953408 bytes (131072 MiB)')
  })

  test('linearPolicyLoss.plan on a device gives whole bytes, and more for more', () => {
    const sizes = { R: 9, T: 20, D: 8, V: 37, dtype: 'f32', device: 1 } as const
    const bytes = (of: object) => linearPolicyLoss.plan({ ...sizes, ...of }).peakBytes
    for (const of of [{}, { T: 21 }, { T: 1 }, { R: 300, T: 301 }]) expect(Number.isInteger(bytes(of))).toBe(true)
    expect(bytes({ T: 5000 })).toBeGreaterThan(bytes({}))
    expect(bytes({ dtype: 'bf16' })).toBeGreaterThan(bytes({}))
  })

  test('columns of rollouts lie on the host, and arrays beside a policy where it does', () => {
    const batch = {
      rewards: [1, 0],
      groupStart: [0, 2],
      sequenceStart: [0, 1, 2],
      token: new Int32Array([0, 1]),
      oldLogp: new Float32Array([-1, -1]),
    }
    const matrix = () => cuda.upload(array(new Float32Array([1, 2, 3, 4]), [2, 2]))
    const prepared = prepareStep(recipes.dapo(), batch)
    const refused = (attempt: () => unknown, argument: string) =>
      refuses(attempt, { ...device, argument, message: /dapo: .* lies on device 0, .* await read\(x\) brings it/ })
    const row = () => prepared.loss({ logits: array(new Float32Array(4), [2, 2]), row: i32(0, 1) } as never)
    refuses(row, { ...device, argument: 'row', message: /dapo: row lies on device 0, but logits lies on the host/ })
    for (const name of ['rewards', 'groupStart', 'sequenceStart'] as const) {
      const column = cuda.upload(Float32Array.from(batch[name]))
      refused(() => prepareStep(recipes.dapo(), { ...batch, [name]: column } as never), name)
    }
    const out = { gradLogits: matrix() }
    refuses(() => prepared.loss({ logits: array(new Float32Array(4), [2, 2]) }, { out }), {
      ...device,
      argument: 'logits',
      message: /logits lies on the host, but gradLogits lies on device 0/,
    })
  })
})
