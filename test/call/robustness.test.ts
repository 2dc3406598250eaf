// What a caller may hand over by accident or in spite: memory that moves, arrays of other realms, objects that lie about
// themselves. Each is refused in one sentence or taken for what it is; none reaches a kernel.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { createContext, runInContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { native } from '../../lib/addon/native.js'
import * as api from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { exactly, refuses } from '../support/compare.js'
import { sweep } from '../support/sweep.js'

const f32 = (...values: number[]) => Float32Array.from(values)
const i32 = (...values: number[]) => Int32Array.from(values)
const { array, sequenceSum } = api
const transfer = (x: { buffer: ArrayBufferLike }) =>
  structuredClone(x.buffer as ArrayBuffer, { transfer: [x.buffer as ArrayBuffer] })
const sumOf = (x: unknown, n = 2) => sequenceSum({ x: x as Float32Array, sequenceStart: i32(0, n) }).x.data
const kind = { error: TypeError, code: 'ERR_GRPO_TYPE' }
const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE' }
const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
const content = { error: RangeError, code: 'ERR_GRPO_VALUE' }

test('an operation that there is not', () => {
  const call = (index: number) => native.run(index, new Float64Array(0), undefined)
  for (const index of [native.operations.length, 2 ** 31]) expect(() => call(index)).toThrow('no such operation')
})

describe('objects that are not what they say', () => {
  test.each(['constructor', 'toString', '__proto__', 'hasOwnProperty', ''])('dtype %j', (name) => {
    refuses(() => sumOf({ dtype: name, shape: [2], data: f32(1, 2) }), { ...dtype, argument: 'x' })
    refuses(() => array(f32(1), [1], name as 'f32'), { ...dtype, argument: 'data' })
  })

  test('another prototype does not change what the memory holds', () => {
    refuses(() => sumOf(Object.setPrototypeOf(new Uint8Array(2), Float32Array.prototype)), dtype)
    refuses(() => sumOf(Object.create(Float32Array.prototype)), kind)
    refuses(() => sumOf(new Proxy(f32(1, 2), {})), kind)
  })

  test('a length that is overridden is not believed', () => {
    class Long extends Float32Array {
      override get length() {
        return 1e6
      }
    }
    const own = Object.defineProperty(f32(1, 2), 'length', { value: 1e6 })
    for (const x of [new Long(2), own]) {
      expect(sumOf(x)).toHaveLength(1)
      refuses(() => sumOf(x, 1e6), content)
      refuses(() => sumOf({ dtype: 'f32', shape: [1e6], data: x }, 1e6), shape)
    }
  })

  test('a getter is read once', () => {
    const calls: string[] = []
    const x = {
      get dtype() {
        calls.push('dtype')
        return 'f32'
      },
      get shape() {
        calls.push('shape')
        return calls.includes('shape', calls.indexOf('shape') + 1) ? [1000] : [2]
      },
      get data() {
        calls.push('data')
        return calls.includes('data', calls.indexOf('data') + 1) ? f32() : f32(1, 2)
      },
    }
    expect([...sumOf(x)]).toEqual([3])
    expect(calls.sort()).toEqual(['data', 'dtype', 'shape'])
  })

  test('names of Object.prototype are no inputs, options or choices', () => {
    const inputs = { rewards: f32(1, 2), groupStart: i32(0, 2) }
    const own = JSON.parse('{"__proto__": 1}')
    refuses(() => api.groupAdvantage(inputs, own), { error: TypeError, code: 'ERR_GRPO_OPTION' })
    refuses(() => api.groupAdvantage(own), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: '__proto__' })
    refuses(() => api.groupAdvantage(inputs, { center: 'constructor' as 'mean' }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
    })
  })

  test('frozen objects, class instances and inherited inputs are fine', () => {
    class Inputs {
      get x() {
        return f32(1, 2)
      }
      get sequenceStart() {
        return i32(0, 2)
      }
    }
    expect(sequenceSum(new Inputs(), Object.freeze({})).x.data[0]).toBe(3)
    expect(sequenceSum(Object.freeze(Object.create(new Inputs()))).x.data[0]).toBe(3)
  })

  test('an inherited option that has the name of an input makes no output', () => {
    const inputs = { logp: f32(-1, -2), advantage: f32(1), sequenceStart: i32(0, 2) }
    expect(Object.keys(api.policyLoss(inputs, Object.create({ entropy: true })))).toEqual(['loss', 'gradLogp', 'stats'])
  })

  test('texts stay short', () => {
    const message = (x: unknown) => {
      try {
        sumOf(x)
      } catch (error) {
        return (error as Error).message
      }
      return ''
    }
    for (const x of [
      'a'.repeat(1e6),
      () => 'a'.repeat(1000),
      { constructor: { name: Symbol('x') } },
      Symbol('x'),
      10n,
    ]) {
      expect(message(x)).toMatch(/^sequenceSum: x is .{1,60}, expected a typed array/)
    }
  })
})

test('arrays of another realm are taken', () => {
  const realm = createContext()
  const there = <T>(code: string) => runInContext(code, realm) as T
  const x = there<Float32Array>('Float32Array.of(1, 2)')
  expect(x).not.toBeInstanceOf(Float32Array)
  expect([...sumOf(x)]).toEqual([3])
  expect([...sumOf(there('({ dtype: "f32", shape: [2], data: Float32Array.of(1, 2) })'))]).toEqual([3])
  expect([...api.toBf16(x)]).toEqual([0x3f80, 0x4000])
  const layout = api.treeLayout(there('({ length: Int32Array.of(1, 2), parent: Int32Array.of(-1, 0) })'))
  expect([...layout.pack(there('[Int32Array.of(7), Int32Array.of(8, 9)]')).data]).toEqual([7, 8, 9])
})

describe('memory that moves', () => {
  test('detached before the call', () => {
    const x = f32(1, 2)
    transfer(x)
    refuses(() => sumOf(x), { ...content, argument: 'x', message: /detached/ })
    refuses(() => sumOf({ dtype: 'f32', shape: [0], data: x }, 0), { ...content, argument: 'x' })
  })

  test('detached by a getter of the same call', () => {
    const x = new Float32Array(1000)
    const inputs = {
      x,
      get sequenceStart() {
        if (x.length > 0) transfer(x)
        return i32(0, 1000)
      },
    }
    refuses(() => sequenceSum(inputs), { ...content, argument: 'x', message: /detached/ })
  })

  test('shrunk by a getter of the same call', () => {
    // Node 20 knows resizable memory, the language level of this file does not.
    const Resizable = ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer & { resize(n: number): void }
    const buffer = new Resizable(1 << 16, { maxByteLength: 1 << 16 })
    const inputs = {
      x: new Float32Array(buffer),
      get sequenceStart() {
        buffer.resize(8)
        return i32(0, 1 << 14)
      },
    }
    refuses(() => sequenceSum(inputs), { ...content, argument: 'x' })
  })

  test('transferred while a promise waits for its turn', async () => {
    const rewards = new Float32Array(1 << 20)
    const busy = [1, 2, 3].map(() => promises.groupAdvantage({ rewards, groupStart: i32(0, 1 << 20) }))
    const x = f32(1, 2)
    const call = promises.sequenceSum({ x, sequenceStart: i32(0, 2) })
    transfer(x)
    await expect(call).rejects.toMatchObject({ code: 'ERR_GRPO_VALUE', argument: 'x' })
    await Promise.all(busy)
  })

  // Node 20 knows resizable memory, the language level of this file does not.
  test('resizable memory is refused by a promise, and taken by a call that is over at once', async () => {
    const Resizable = ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer
    const x = new Float32Array(new Resizable(8, { maxByteLength: 16 }))
    x.set([1, 2])
    expect([...sumOf(x)]).toEqual([3])
    const message = /x lies in a resizable ArrayBuffer, which could shrink under the call/
    const refused = { code: 'ERR_GRPO_VALUE', argument: 'x', message: expect.stringMatching(message) }
    await expect(promises.sequenceSum({ x, sequenceStart: i32(0, 2) })).rejects.toMatchObject(refused)
    const out = { x: new Float32Array(new Resizable(4, { maxByteLength: 4 })) }
    await expect(promises.sequenceSum({ x: f32(1, 2), sequenceStart: i32(0, 2) }, { out })).rejects.toMatchObject(
      refused,
    )
    // Shared memory only grows.
    const Growable = SharedArrayBuffer as unknown as new (n: number, o: object) => SharedArrayBuffer
    const shared = new Float32Array(new Growable(8, { maxByteLength: 16 }))
    expect((await promises.sequenceSum({ x: shared, sequenceStart: i32(0, 2) })).x.data[0]).toBe(0)
  })

  test('shared memory works', () => {
    const x = new Float32Array(new SharedArrayBuffer(8))
    x.set([1, 2])
    expect([...sumOf(x)]).toEqual([3])
  })
})

test('memory that another thread writes to during a call leaves the process alive', () => {
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    [join(__dirname, 'race.cjs'), sweep ? '30' : '4'],
    {
      encoding: 'utf8',
      timeout: 100_000,
    },
  )
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  const { done, refused } = JSON.parse(stdout)
  expect(done).toBeGreaterThan(0) // each operation has run
  expect(refused).toBeGreaterThan(0) // and the memory did change
}, 110_000)

describe('outputs', () => {
  const logits = () => array(f32(...Array(14).keys()), [2, 3])
  const inputs = (x: api.HostArray<'f32'>) => ({
    logits: x,
    token: i32(0, 1),
    logsumexp: f32(3, 10),
    gradLogp: f32(1, 1),
  })

  test('a strided gradient is written over its logits only', () => {
    const out = { gradLogits: array(new Float32Array(14), [2, 3]) }
    refuses(() => api.tokenLogprobBackward(inputs(logits()), { stride: 7, out }), { ...shape, argument: 'gradLogits' })
    const x = logits()
    const view = array(new Float32Array(x.data.buffer), [2, 3])
    const { gradLogits } = api.tokenLogprobBackward(inputs(x), { stride: 7, out: { gradLogits: view } })
    expect(gradLogits).toBe(view)
    expect([...x.data.slice(3, 7), ...x.data.slice(10)]).toEqual([3, 4, 5, 6, 10, 11, 12, 13])
    const short = array(new Float32Array(x.data.buffer, 0, 6), [2, 3])
    refuses(() => api.tokenLogprobBackward(inputs(x), { stride: 7, out: { gradLogits: short } }), shape)
  })

  test('overlap no row of strided logits', () => {
    // The rows are the numbers 0 to 2 and 7 to 9, and what lies between them is theirs too.
    const run = (begin: number) => {
      const x = logits()
      const logp = new Float32Array(x.data.buffer, 4 * begin, 2)
      return api.tokenLogprob({ logits: x, token: i32(0, 1) }, { stride: 7, out: { logp } }).logp
    }
    for (const begin of [2, 3, 6, 7, 9]) refuses(() => run(begin), { ...content, argument: 'logp' })
    expect(run(10).data).toEqual(api.tokenLogprob({ logits: logits(), token: i32(0, 1) }, { stride: 7 }).logp.data)
  })

  test('an output whose condition is absent is not left stale', () => {
    const loss = { logp: f32(-1), advantage: f32(1), sequenceStart: i32(0, 1) }
    refuses(() => api.policyLoss(loss, { out: { gradEntropy: f32(7) } }), {
      error: TypeError,
      code: 'ERR_GRPO_MISSING',
      argument: 'entropy',
    })
  })

  test('of mergeTokenLogprob overlap none of the parts', () => {
    const part = () => ({ logp: f32(-2), entropy: f32(0), logsumexp: f32(1) })
    const list = [part(), part(), part()] as const
    const out = { logp: list[0].logp }
    refuses(() => api.mergeTokenLogprob(list, { out }), { ...content, message: /overlaps list\[0\]\.logp/ })
    expect(list[0].logp[0]).toBe(-2)
    // Over one of its ends, and right beside it.
    const memory = new Float32Array(12).fill(-2)
    const large = [4, 0, 8].map((offset) => ({
      logp: offset === 4 ? memory.subarray(4, 8) : f32(-2, -2, -2, -2),
      entropy: f32(0, 0, 0, 0),
      logsumexp: f32(1, 1, 1, 1),
    }))
    for (const parts of [large, large.slice(0, 2)]) {
      for (const from of [1, 7]) {
        const over = { logp: memory.subarray(from, from + 4) }
        refuses(() => api.mergeTokenLogprob(parts, { out: over }), {
          ...content,
          message: /logp overlaps list\[0\]\.logp/,
        })
      }
    }
    const apart = large.map((one, i) => (i === 0 ? one : { ...one, logp: f32(...Array(4).fill(-Infinity)) }))
    for (const from of [0, 8]) {
      const beside = memory.subarray(from, from + 4)
      expect(api.mergeTokenLogprob(apart, { out: { logp: beside } }).logp.data).toBe(beside)
    }
  })

  test('of mergeTokenLogprob overlap none of the parts through another wrapper of shared memory', () => {
    const memory = new SharedArrayBuffer(4)
    const same = new Float32Array(structuredClone(memory))
    expect(same.buffer).not.toBe(memory)
    const part = (logp: Float32Array) => ({ logp, entropy: f32(0), logsumexp: f32(1) })
    const list = [part(new Float32Array(memory)), part(f32(-2)), part(f32(-2))]
    refuses(() => api.mergeTokenLogprob(list, { out: { logp: same } }), {
      ...content,
      message: /overlaps list\[0\]\.logp/,
    })
  })

  test.each(['maskIndex', 'groupBy'] as const)('of %s are looked at', (name) => {
    const call = (out: unknown) =>
      name === 'groupBy'
        ? api.groupBy(i32(1), { out: out as never })
        : api.maskIndex({ mask: new Uint8Array(1) }, { out: out as never })
    refuses(() => call(5), kind)
    refuses(() => call({ count: new Float64Array(1) }), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'count',
    })
  })
})

describe('missing arguments', () => {
  const operations = { ...api }
  test.each([
    ['treeLayout', undefined],
    ['treeLayout', null],
    ['prefixAttention', undefined],
    ['prefixAttentionBackward', null],
    ['standardize', 'x'],
    ['groupAdvantage', undefined],
    ['prefixLayout', undefined],
    ['tokenTree', undefined],
  ] as const)('%s(%s) says what it takes', (name, value) => {
    refuses(
      () => (operations[name] as (x: unknown, o: unknown) => unknown)(value, { moments: { count: 1, mean: 0, m2: 1 } }),
      kind,
    )
  })

  test('options of null are no options', () => {
    expect([...api.groupBy(i32(3, 1), null as never).order.data]).toEqual([1, 0])
    expect(api.maskIndex({ mask: Uint8Array.of(0, 1) }, null as never).index.data).toEqual(i32(1))
    expect(api.moments({ x: f32(1) }, null as never).count).toBe(1)
  })

  test('misspelt inputs are not passed over', () => {
    const unknown = { error: TypeError, code: 'ERR_GRPO_OPTION' } as const
    refuses(() => api.treeLayout({ length: [1], parent: [-1], ends: [0] } as never), { ...unknown, argument: 'ends' })
    const moments = { count: 1, mean: 0, m2: 1 }
    refuses(() => api.standardize({ x: f32(1), moments } as never, { moments }), { ...unknown, argument: 'moments' })
  })

  test('holes in lists are refused', () => {
    // biome-ignore lint/suspicious/noSparseArray: that is the point
    const holes = [, 1] as number[]
    refuses(() => api.treeLayout({ length: holes, parent: [-1, 0] }), kind)
    refuses(() => api.prefixLayout(holes as never), kind)
    refuses(() => api.mergeMoments(holes as never), kind)
    refuses(() => api.mergeTokenLogprob(holes as never), kind)
  })
})

test('names within a sentence are the public ones, each of them', () => {
  const falls = () => sequenceSum({ x: f32(1, 2), sequenceStart: i32(0, 2, 1, 2) })
  const end = 'sequenceStart[2] is 1, sequenceStart[1] is 2, expected offsets that rise'
  refuses(falls, {
    ...content,
    argument: 'sequenceStart',
    message: exactly(`sequenceSum: sequenceStart falls: ${end}`),
  })
  const neither = () => api.selectTokens({ entropy: f32(1, 2), sequenceStart: i32(0, 2) }, { count: 1 })
  const text = 'is missing, and so is tokenAdvantage: this rule needs one of the two'
  refuses(neither, { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'advantage', message: exactly(`selectTokens: advantage ${text}`) }) // biome-ignore format: a row
})

describe('signal and stream', () => {
  const inputs = { x: f32(1, 2), sequenceStart: i32(0, 2) }
  test.each([5, 'abort', {}, { aborted: true }, new EventTarget()])('%j is no AbortSignal', async (signal) => {
    const options = { signal: signal as AbortSignal }
    refuses(() => sequenceSum(inputs, options), { ...kind, argument: 'signal' })
    await expect(promises.sequenceSum(inputs, options)).rejects.toMatchObject({ code: 'ERR_GRPO_TYPE' })
    await expect(promises.sequenceSum(inputs, options)).rejects.toBeInstanceOf(TypeError)
  })

  test('a stream is a bigint', () => {
    refuses(() => sequenceSum(inputs, { stream: 1 as never }), { ...kind, argument: 'stream' })
    expect(sequenceSum(inputs, { stream: 1n, signal: undefined }).x.data[0]).toBe(3)
  })
})
